"""Lists as CSV, for spreadsheets and for `join`, `cut` and their kin.

Columns are those of the JSON objects; what is a list or an object there is compact JSON in its cell. A text that a
spreadsheet would take for a formula (it begins with =, +, -, @ or a control character) gets an apostrophe before it,
because names come from whoever could register something; numbers stay numbers.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a formula begins, the full-width forms included."""


def write_csv(documents: Iterable[Mapping[str, Any]], columns: Sequence[str], out: TextIO) -> None:
    """Write documents as lines of comma-separated values, with a line of column names before them.

    Args:
        documents: JSON objects.
        columns: their fields, in order; written where there is no document, too.
        out: where to.
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for document in documents:
        writer.writerow([_cell(document.get(column)) for column in columns])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"'{text}" if text.startswith(_FORMULA) else text
