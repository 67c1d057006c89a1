"""Publish a reproduction: its record as JSON, and its tables in docs/reproduction.md.

    fpvec reproduce --preset tiny --jobs 2 --dir ./tiny
    .venv/bin/python benchmarks/reproduction.py ./tiny
    .venv/bin/python benchmarks/reproduction.py --write-docs

The second command keeps the record that the first left; the third measures nothing and writes the docs from that.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from fpvec_audit.reports.reproduction_text import markdown  # noqa: E402

RESULTS = ROOT / "benchmarks" / "reproduction.json"
DOCS = ROOT / "docs" / "reproduction.md"
BEGIN, END = "<!-- reproduction: written by benchmarks/reproduction.py -->", "<!-- reproduction: end -->"
DOCUMENT = "report.json"
LEFT_OUT = ("tests", "warnings", "audit_id", "attack_run_id", "key_set", "tables", "parameters")
"""What is not published: it is long, or means something in one registry alone."""


def main() -> None:
    """Keep a record, or write the docs from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", help="what `fpvec reproduce --dir` names")
    parser.add_argument("--write-docs", action="store_true", help="write docs/reproduction.md from what is kept")
    options = parser.parse_args()
    if options.directory is not None:
        document = json.loads((options.directory / DOCUMENT).read_text(encoding="utf-8"))
        RESULTS.write_text(json.dumps(published(document), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.write_docs:
        text = DOCS.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{DOCS} has no place for the tables: {BEGIN} … {END}")
        DOCS.write_text(f"{before}{BEGIN}\n\n{section()}\n{END}{after}", encoding="utf-8")


def section() -> str:
    """Return the section of the docs."""
    document: Mapping[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return markdown(document, level=3)


def published(value: Any) -> Any:
    """Return a record without what is not published."""
    if isinstance(value, dict):
        return {name: published(item) for name, item in value.items() if name not in LEFT_OUT}
    return [published(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
