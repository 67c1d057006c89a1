"""What the ledger vouches for of every row: one digest over its columns and what belongs to it.

An entry about a row says this digest of the row as it is when the entry is written, so that a row that was changed,
taken away or slipped in since shows (:mod:`~fpvec_audit.registry.verification`). The digest is the same on every
database, and which columns it covers stays as it is for ever: a column that a later schema adds gets a digest of its
own, or old entries would no longer fit. What changes without history – where files were seen last – is left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, column, select, table
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_digest

ROW = "row"
"""What an entry's content calls the digest."""

_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of another table that belong to a row.

    Attributes:
        table: theirs.
        owner: their column that holds the id of what they belong to.
        columns: what is digested; the first one orders them.
        times: those of the columns that hold times.
        once: column of the owner that must be set before they count; empty when they always do.
    """

    table: str
    owner: str
    columns: tuple[str, ...]
    times: frozenset[str] = frozenset()
    once: str = ""


@dataclass(frozen=True, slots=True)
class Chronicled:
    """A kind of row that the ledger vouches for.

    Attributes:
        kind: name of the table.
        columns: what is digested, the id first.
        documents: those of the columns that hold JSON.
        times: those that hold times.
        left_out: columns that change without history, or follow from others.
        joined: another table, our column that holds its id, and its columns that are digested too.
        parts: rows of other tables that belong to it.
    """

    kind: str
    columns: tuple[str, ...]
    documents: frozenset[str] = frozenset()
    times: frozenset[str] = frozenset({"created_at"})
    left_out: frozenset[str] = frozenset()
    joined: tuple[str, str, tuple[str, ...]] | None = None
    parts: tuple[Part, ...] = field(default=())


CHRONICLED: Mapping[str, Chronicled] = {
    spec.kind: spec
    for spec in (
        Chronicled("licensee", ("id", "name", "created_at")),
        Chronicled(
            "model",
            ("id", "name", "role", "architecture", "parent_id", "parameters", "created_at"),
            left_out=frozenset({"location", "base_id"}),  # the base follows from the parents
            parts=(Part("model_manifest", "model_id", ("tensors",)),),  # whose content gives the model's id
        ),
        Chronicled(
            "key_set",
            (
                "id",
                "name",
                "owner",
                "licensee_id",
                "commitment",
                "commitment_digest",
                "root",
                "grade",
                "state",
                "chance",
                "base_id",
                "created_at",
            ),
            documents=frozenset({"commitment"}),
            parts=(
                Part("mark", "key_set_id", ("number",)),
                Part(
                    "candidate",
                    "key_set_id",
                    ("position", "mark", "leaf", "burnt_at", "burnt_in"),
                    times=frozenset({"burnt_at"}),
                ),
            ),
        ),
        Chronicled("code", ("id", "key_set_id", "text", "colluders", "epsilon", "binding", "created_at")),
        Chronicled("code_word", ("id", "code_id", "number", "licensee_id", "commitment", "state", "created_at")),
        Chronicled(
            "vector",
            (
                "id",
                "digest",
                "family_id",
                "mark",
                "fingerprinted_id",
                "architecture",
                "inexact_elements",
                "norm",
                "created_at",
            ),
            left_out=frozenset({"location"}),
            joined=("vector_family", "family_id", ("key_set_id", "base_id", "created_at")),
        ),
        Chronicled(
            "stamp",
            (
                "id",
                "downstream_id",
                "stamped_id",
                "licensee_id",
                "location",
                "applied_ratio",
                "cosine",
                "policies",
                "created_at",
            ),
            documents=frozenset({"policies"}),
            left_out=frozenset({"base_id", "key_set_id"}),  # they follow from the first vector
            parts=(Part("stamp_vector", "stamp_id", ("position", "vector_id", "scale")),),
        ),
        Chronicled("suspect", ("id", "kind", "location", "first_seen_at"), times=frozenset({"first_seen_at"})),
        Chronicled(
            "audit",
            (
                "id",
                "key_set_id",
                "suspect",
                "suspect_digest",
                "plan_digest",
                "plan",
                "begin",
                "verdict",
                "result",
                "created_at",
                "ended_at",
            ),
            documents=frozenset({"plan", "begin", "result"}),
            times=frozenset({"created_at", "ended_at"}),
            parts=(Part("audit_record", "audit_id", ("serial", "digest"), once="ended_at"),),
        ),
        Chronicled(
            "recorded_audit",
            (
                "id",
                "bundle",
                "audit",
                "key_set",
                "commitment",
                "suspect",
                "suspect_digest",
                "verdict",
                "alpha",
                "grade",
                "signer",
                "key_from",
                "ordering",
                "location",
                "recorded_at",
                "recorded_by",
            ),
            times=frozenset({"recorded_at"}),
        ),
        Chronicled(
            "attack_run",
            ("id", "stamped_id", "key_set_id", "attack", "parameters", "state", "result", "created_at"),
            documents=frozenset({"parameters", "result"}),
        ),
    )
}
"""Every kind of row that the ledger vouches for, by table."""

_KIND_OF_EVENT = {"attack": "attack_run"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it lies in the database, in a form that is the same on every database.

    Attributes:
        id: what it is called by, whatever somebody may have made of it.
        columns: by name; times as ISO 8601 in UTC, floats as decimal text, JSON without floats.
        parts: by table, the rows that belong to it in order.
    """

    id: Any
    columns: Mapping[str, Any]
    parts: Mapping[str, Sequence[Sequence[Any]]]

    @property
    def digest(self) -> str:
        """What the ledger says of it."""
        return canonical_digest({"columns": dict(self.columns), "parts": {k: list(v) for k, v in self.parts.items()}})


def kind_of_event(event: str) -> str | None:
    """Return the kind of row that an event is about, None for one about no row."""
    prefix = event.partition(".")[0]
    kind = _KIND_OF_EVENT.get(prefix, prefix)
    return kind if kind in CHRONICLED else None


def row_digest(session: Session, event: str, subject: str) -> str | None:
    """Return the digest of the row that an event is about, None where there is none."""
    kind = kind_of_event(event)
    if kind is None:
        return None
    spec = CHRONICLED[kind]
    found = session.execute(_row_statement(kind), {"subject": subject}).first()
    if found is None:
        return None
    parts = {}
    for part in spec.parts:
        found_parts = session.execute(_part_statement(part), {"subject": subject})
        parts[part.table] = [part_values(part, values) for values in found_parts]
    return row_of(spec, found, parts).digest


def rows_statement(spec: Chronicled) -> Select[Any]:
    """Return what selects the digested columns of a kind as the driver gives them."""
    own = table(spec.kind, *(column(name) for name in spec.columns))
    wanted: list[Any] = list(own.c)
    source: Any = own
    if spec.joined is not None:
        name, reference, columns = spec.joined
        other = table(name, column("id"), *(column(each) for each in columns))
        wanted += [other.c[each].label(f"{name}_{each}") for each in columns]
        source = own.outerjoin(other, own.c[reference] == other.c.id)
    return select(*wanted).select_from(source)


def parts_statement(part: Part) -> Select[Any]:
    """Return what selects the rows of a part: the owner's id, then the digested columns."""
    wanted: list[Any] = [column(part.owner), *map(column, part.columns)]
    return select(*wanted).select_from(table(part.table))


@cache
def _row_statement(kind: str) -> Select[Any]:
    statement = rows_statement(CHRONICLED[kind])
    return statement.where(statement.selected_columns.id == bindparam("subject"))


@cache
def _part_statement(part: Part) -> Select[Any]:
    statement = parts_statement(part)
    return statement.where(column(part.owner) == bindparam("subject")).order_by(column(part.columns[0]))


def row_of(spec: Chronicled, values: Sequence[Any], parts: Mapping[str, Sequence[Sequence[Any]]]) -> Row:
    """Return a row out of what :func:`rows_statement` selected."""
    names = (*spec.columns, *(f"{spec.joined[0]}_{name}" for name in spec.joined[2])) if spec.joined else spec.columns
    columns = {name: _same_everywhere(name, value, spec) for name, value in zip(names, values, strict=True)}
    counted = {
        part.table: parts.get(part.table, ()) for part in spec.parts if not part.once or columns[part.once] is not None
    }
    return Row(values[0], columns, counted)


def part_values(part: Part, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the digested columns of a part's row out of what :func:`parts_statement` selected."""
    pairs = zip(part.columns, values[1:], strict=True)
    return tuple(time_text(value) if name in part.times else _plain(value) for name, value in pairs)


def time_text(value: Any) -> Any:
    """Return a time as ISO 8601 in UTC with microseconds; what is no time is marked as such."""
    if value is None:
        return None
    if isinstance(value, str):  # as SQLite keeps it
        try:
            moment = datetime.strptime(value, _SQLITE_TIME).replace(tzinfo=UTC)
        except ValueError:
            return _unreadable(value)
        if moment.strftime(_SQLITE_TIME) != value:
            return _unreadable(value)
        return moment.isoformat(timespec="microseconds")
    if not isinstance(value, datetime):
        return _unreadable(value)
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _same_everywhere(name: str, value: Any, spec: Chronicled) -> Any:
    if name in spec.documents:
        return _document(value)
    return time_text(value) if name in spec.times or name.endswith("_created_at") else _plain(value)


def _document(value: Any) -> Any:
    if isinstance(value, str):  # as SQLite keeps it, in the one form in which it was written
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return _unreadable(value)
        if json.dumps(parsed) != value:
            return _unreadable(value)
        value = parsed
    return _floats_as_text(value)


def _floats_as_text(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): _floats_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats_as_text(item) for item in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        return _unreadable(value)  # half a surrogate pair: bytes that are no text
    return value if value is None or isinstance(value, (str, int)) else _unreadable(value)


def _unreadable(value: Any) -> dict[str, str]:
    return {"unreadable": ascii(value)}
