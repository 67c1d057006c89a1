"""The append-only history: every entry holds the digest of the one before it.

Invariants: serials run from 1 without gaps; ``previous`` of an entry is the digest of its predecessor; the stored
content is canonical JSON. An entry is appended in the transaction that does what it records, so neither exists
without the other. A cut tail cannot show from within; publish the head's digest to make it show.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.registry.tables import LedgerRow

FIRST_PREVIOUS = "0" * 64
_PAGE = 1000


class _Stored(NamedTuple):
    """A row as it lies in the database, whatever somebody may have done to it."""

    serial: Any
    at: Any = ""
    event: Any = ""
    subject: Any = ""
    content: Any = ""
    previous: Any = ""
    digest: Any = ""


class Ledger:
    """Appends to the history and walks it.

    Args:
        session: session of the surrounding unit of work.
        clock: gives the time of an entry.
    """

    def __init__(self, session: Session, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._clock = clock

    def append(self, event: str, subject: str, content: Mapping[str, Any]) -> LedgerEntry:
        """Append an entry; it lasts if the unit of work commits.

        Args:
            event: what happened ("key_set.issued").
            subject: id of what it happened to.
            content: JSON without secrets; floats are written as decimal text.
        """
        head = self.head()
        entry = LedgerEntry(
            serial=head.serial + 1 if head else 1,
            at=self._clock().astimezone(UTC).isoformat(timespec="microseconds"),
            event=event,
            subject=subject,
            content=floatless(content),
            previous=head.digest if head else FIRST_PREVIOUS,
        )
        entry = replace(entry, digest=entry_digest(entry))
        self._session.execute(
            insert(LedgerRow).values(
                serial=entry.serial,
                at=entry.at,
                event=entry.event,
                subject=entry.subject,
                content=canonical_bytes(entry.content).decode(),
                previous=entry.previous,
                digest=entry.digest,
            )
        )
        return entry

    def head(self) -> LedgerEntry | None:
        """Return the last entry, None while there is none."""
        rows = self._read(_all_columns().order_by(LedgerRow.serial.desc()).limit(1))
        return _entry(rows[0]) if rows else None

    def entries(self, *, after: int = 0, limit: int | None = None) -> tuple[LedgerEntry, ...]:
        """Return entries in order.

        Args:
            after: serial of the last entry not wanted.
            limit: most entries returned.
        """
        statement = _all_columns().where(LedgerRow.serial > after).order_by(LedgerRow.serial).limit(limit)
        return tuple(_entry(row) for row in self._read(statement))

    def between(self, first: int, last: int) -> tuple[LedgerEntry, ...]:
        """Return the entries from one serial to another, both included, in order."""
        statement = _all_columns().where(LedgerRow.serial.between(first, last)).order_by(LedgerRow.serial)
        return tuple(_entry(row) for row in self._read(statement))

    def about(self, *subjects: str, events: Sequence[str] = ()) -> tuple[LedgerEntry, ...]:
        """Return the entries about these subjects in order, all or those of some events."""
        statement = _all_columns().where(LedgerRow.subject.in_(subjects)).order_by(LedgerRow.serial)
        return tuple(
            _entry(row) for row in self._read(statement.where(LedgerRow.event.in_(events)) if events else statement)
        )

    def verify(self) -> LedgerEntry | None:
        """Walk the whole chain and return the first entry that does not fit, None when all do."""
        previous = FIRST_PREVIOUS
        for serial, row in enumerate(self._walk(), start=1):
            if not _fits(row, serial, previous):
                return _entry(row)
            previous = row.digest
        return None

    def _walk(self) -> Iterator[_Stored]:
        # The first page has no lower limit, so that an entry moved before the first is met as well.
        ordered = _all_columns().order_by(LedgerRow.serial).limit(_PAGE)
        page = self._page(ordered)
        while page:
            yield from page
            page = self._page(ordered.where(LedgerRow.serial > page[-1].serial))

    def _page(self, statement: Select[Any]) -> Sequence[_Stored]:
        try:
            return self._read(statement)
        except DBAPIError as error:
            if "decode" not in str(error.orig).lower():
                raise
        rows: list[_Stored] = []
        for place in range(_PAGE):  # find the entry whose text is no text any more
            try:
                rows += self._read(statement.offset(place).limit(1))
            except DBAPIError:
                return [*rows, _Stored(rows[-1].serial + 1 if rows else 1)]
        return rows

    def _read(self, statement: Select[Any]) -> Sequence[_Stored]:
        return [_Stored(*row) for row in self._session.execute(statement)]


def _all_columns() -> Select[Any]:
    return select(*(getattr(LedgerRow, name) for name in _Stored._fields))


def entry_digest(entry: LedgerEntry) -> str:
    """Return SHA-256 of the canonical JSON of all fields but the digest itself."""
    return canonical_digest(
        {
            "serial": entry.serial,
            "at": entry.at,
            "event": entry.event,
            "subject": entry.subject,
            "content": dict(entry.content),
            "previous": entry.previous,
        }
    )


def floatless(value: Any) -> Any:
    """Return a JSON value with every float written as its shortest decimal text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, Mapping):
        return {str(key): floatless(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [floatless(item) for item in value]
    return value


def _fits(row: _Stored, serial: int, previous: str) -> bool:
    texts = (row.at, row.event, row.subject, row.content, row.previous, row.digest)
    if row.serial != serial or row.previous != previous or not all(isinstance(item, str) for item in texts):
        return False
    try:
        content = json.loads(row.content)
        canonical = canonical_bytes(content).decode() == row.content
        digest = entry_digest(LedgerEntry(serial, row.at, row.event, row.subject, content, previous))
    except (ValueError, TypeError, RecursionError):
        return False
    return canonical and bool(digest == row.digest)


def _entry(row: _Stored) -> LedgerEntry:
    try:
        content = json.loads(row.content)
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        content = {"unreadable": str(row.content)}
    return LedgerEntry(row.serial, row.at, row.event, row.subject, content, row.previous, row.digest)
