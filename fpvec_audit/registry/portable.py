"""The registry as lines of JSON, the same on every database.

Laws: what one database holds and another took in gives the same bytes again; ``decoded(encoded(value)) == value`` for
every value that a column can hold. A file begins with a :class:`Header` and ends with a :class:`Trailer`, which holds
a digest over all lines before it, so that a cut or altered file shows. Rows come table by table, in an order in which
no row refers to a later table, and within a table by key. Secrets are in there as they lie in the registry: sealed.
"""

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import JSON, Column, Float, Integer, LargeBinary, String, Table, TableClause, column, table

from fpvec_audit.registry.tables import Base, UtcDateTime

FORMAT = "fpvec-audit/registry-export/1"
_INFINITIES = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True, slots=True)
class Header:
    """The first line.

    Attributes:
        schema: revision of the registry's schema.
        registry: id of the registry.
        master_key: id of the key that its secrets are sealed with, empty while there are none.
        entries: serial of the last ledger entry.
        head: digest of that entry, empty while there is none.
    """

    schema: str
    registry: str
    master_key: str
    entries: int
    head: str

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return {"format": FORMAT} | {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, document: object) -> "Header":
        """Read the line.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError("it does not begin as an export of a registry does")
        values: dict[str, Any] = {name: document.get(name) for name in cls.__slots__}
        kinds = {name: int if name == "entries" else str for name in cls.__slots__}
        if document.keys() != {"format", *values} or any(type(values[name]) is not kinds[name] for name in values):
            raise ValueError("its first line is not one that this program writes")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last line.

    Attributes:
        rows: number of rows by table.
        digest: SHA-256 over all lines before this one, hex.
    """

    rows: Mapping[str, int]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return {"end": {"rows": dict(self.rows), "digest": self.digest}}


@dataclass(frozen=True, slots=True)
class PortableTable:
    """How one table travels.

    Attributes:
        name: its name.
        clause: the table for statements, without what would be filled in by itself.
        key: names of its key's columns.
        own_references: columns that refer to the same table.
        readers: what makes a column's value of JSON, by column.
        writers: what makes JSON of a column's value, by column.
        large: whether a row may be large.
    """

    name: str
    clause: TableClause
    key: tuple[str, ...]
    own_references: tuple[str, ...]
    readers: Mapping[str, Callable[[Any], Any]]
    writers: Mapping[str, Callable[[Any], Any]]
    large: bool

    def encoded(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return a row as JSON; its values come in the order of the columns."""
        return {
            name: None if value is None else write(value)
            for (name, write), value in zip(self.writers.items(), values, strict=True)
        }

    def decoded(self, document: object) -> dict[str, Any]:
        """Return the values of a row of JSON.

        Raises:
            ValueError: it is no row of this table.
        """
        if not isinstance(document, dict) or document.keys() != self.readers.keys():
            raise ValueError(f"it is no row of {self.name}")
        return {name: None if document[name] is None else read(document[name]) for name, read in self.readers.items()}


@cache
def portable_tables() -> Mapping[str, PortableTable]:
    """Return how every table travels, by name, in the order of travel."""
    return {item.name: _portable(item) for item in Base.metadata.sorted_tables}


def line_of(document: Mapping[str, Any]) -> bytes:
    """Return a line; it is ASCII.

    Raises:
        ValueError: it holds a number that is none.
    """
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _portable(item: Table) -> PortableTable:
    columns = list(item.columns)
    own = [each.name for each in columns for key in each.foreign_keys if key.column.table is item]
    return PortableTable(
        name=item.name,
        clause=table(item.name, *(column(each.name, _bare(each)) for each in columns)),
        key=tuple(each.name for each in item.primary_key.columns),
        own_references=tuple(own),
        readers={each.name: _reader(each) for each in columns},
        writers={each.name: _writer(each) for each in columns},
        large=any(isinstance(each.type, (LargeBinary, JSON)) for each in columns),
    )


def _bare(item: Column[Any]) -> Any:
    return JSON(none_as_null=True) if isinstance(item.type, JSON) else item.type


def _writer(item: Column[Any]) -> Callable[[Any], Any]:
    for kind, write in (
        (UtcDateTime, lambda value: value.astimezone(UTC).isoformat(timespec="microseconds")),
        (LargeBinary, lambda value: b64encode(value).decode()),
        (Float, _float_out),
    ):
        if isinstance(item.type, kind):
            return write
    return lambda value: value


def _reader(item: Column[Any]) -> Callable[[Any], Any]:
    readers: tuple[tuple[type, Callable[[Any], Any]], ...] = (
        (UtcDateTime, _time_in),
        (LargeBinary, _bytes_in),
        (Float, _float_in),
        (JSON, lambda value: value),
        (Integer, _integer_in),
        (String, _text_in),
    )
    for kind, read in readers:
        if isinstance(item.type, kind):
            return read
    raise AssertionError(f"no way to move {item}")


def _float_out(value: float) -> float | str:
    return value if math.isfinite(value) else repr(float(value))


def _float_in(value: object) -> float:
    if isinstance(value, str) and value in _INFINITIES:
        return _INFINITIES[value]
    return float(_checked(value, float))


def _integer_in(value: object) -> int:
    number: int = _checked(value, int)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} has more than 64 bits")
    return number


def _text_in(value: object) -> str:
    text: str = _checked(value, str)
    text.encode()  # half of a surrogate pair is no text
    return text


def _bytes_in(value: object) -> bytes:
    return b64decode(_checked(value, str), validate=True)


def _time_in(value: object) -> datetime:
    time = datetime.fromisoformat(_checked(value, str))
    if time.tzinfo is None:
        raise ValueError(f"the time {value} has no zone")
    return time


def _checked(value: object, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{str(value)[:40]!a} is no {kind.__name__}")
    return value
