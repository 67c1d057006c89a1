"""The append-only history: every entry holds the digest of the one before it.

Invariants: serials run from 1 without gaps; ``previous`` of an entry is the digest of its predecessor; the stored
content is canonical JSON. An entry is appended in the transaction that does what it records, so neither exists
without the other; what is about a row says the row's digest (:mod:`~fpvec_audit.registry.row_digests`). Times never run
back silently. A cut tail cannot show from within; publish the head's digest to make it show.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, insert, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.row_digests import ROW, row_digest
from fpvec_audit.registry.tables import LedgerRow

FIRST_PREVIOUS = "0" * 64
CLOCK_ACCEPTED = "clock.accepted"
"""The event after which times may lie before those of earlier entries."""
RESTORED, IMPORTED = "registry.restored", "registry.imported"
ARRIVALS = (RESTORED, IMPORTED)
"""Events by which a registry came from a copy: what was recorded elsewhere since that was taken, it cannot know."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far a clock may stand behind the last entry; clocks of a team differ by a little."""
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
            content: JSON without secrets; floats are written as decimal text. The digest of the row that the event is
                about is added, so append after the row is written.

        Raises:
            RegistryError: the clock stands more than five minutes before the last entry.
        """
        self._session.flush()
        head = self.head()
        now = time_text(self._clock())
        if head is not None and now < head.at:
            now = _within_tolerance(now, head)
        digest = row_digest(self._session, event, subject)
        stated = floatless(content)
        return self._insert(event, subject, stated if digest is None else stated | {ROW: digest}, head=head, at=now)

    def accept_clock(self, who: str) -> LedgerEntry | None:
        """Record that the clock is right and the last entry's time was not; None where the clock is not behind.

        Args:
            who: who says so.
        """
        head = self.head()
        now = time_text(self._clock())
        if head is None or now >= head.at:
            return None
        return self._insert(CLOCK_ACCEPTED, "registry", {"before": head.at, "now": now, "who": who}, head=head, at=now)

    def append_arrival(self, event: str, *, file: str, who: str) -> LedgerEntry:
        """Record that everything up to here came from a copy.

        A clock that is behind the copy's last entry does not keep a copy away, since nobody could set that right in a
        registry that is not there; the entry then takes that entry's time, and says what the clock said.

        Args:
            event: one of :data:`ARRIVALS`.
            file: name of the copy without its directory, empty for a stream.
            who: who brought it here.
        """
        head = self.head()
        now = time_text(self._clock())
        entries, digest, at = (0, "", now) if head is None else (head.serial, head.digest, max(now, head.at))
        stored = file.encode("utf-8", "backslashreplace").decode()  # names of files need not be Unicode
        content = {"file": stored, "entries": entries, "head": digest, "now": now, "who": who}
        return self._insert(event, "registry", content, head=head, at=at)

    def _insert(
        self, event: str, subject: str, content: Mapping[str, Any], *, head: LedgerEntry | None, at: str
    ) -> LedgerEntry:
        entry = LedgerEntry(
            serial=head.serial + 1 if head else 1,
            at=at,
            event=event,
            subject=subject,
            content=content,
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

    def entries(
        self, *, after: int = 0, limit: int | None = None, chosen: "Choice | None" = None
    ) -> tuple[LedgerEntry, ...]:
        """Return entries in order.

        Args:
            after: serial of the last entry not wanted.
            limit: most entries returned, the first ones.
            chosen: which entries are wanted; all when None.
        """
        statement = _all_columns().where(LedgerRow.serial > after, *(chosen or EVERYTHING).conditions)
        return tuple(_entry(row) for row in self._read(statement.order_by(LedgerRow.serial).limit(limit)))

    def newest(self, limit: int, *, chosen: "Choice | None" = None) -> tuple[LedgerEntry, ...]:
        """Return the last entries, oldest of them first.

        Args:
            limit: most entries returned.
            chosen: which entries are wanted; all when None.
        """
        statement = _all_columns().where(*(chosen or EVERYTHING).conditions)
        rows = self._read(statement.order_by(LedgerRow.serial.desc()).limit(limit))
        return tuple(_entry(row) for row in reversed(rows))

    def serial_of(self, digest: str) -> int | None:
        """Return the serial of the entry with this digest, None where there is none."""
        return self._session.scalar(select(LedgerRow.serial).where(LedgerRow.digest == digest))

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
        return next((entry for entry, fits in self.walk() if not fits), None)

    def walk(self) -> Iterator[tuple[LedgerEntry, bool]]:
        """Yield every entry of the chain and whether it continues it; the first one that does not is the last."""
        previous = FIRST_PREVIOUS
        for serial, row in enumerate(self._rows(), start=1):
            fits = _fits(row, serial, previous)
            yield _entry(row), fits
            if not fits:
                return
            previous = row.digest

    def _rows(self) -> Iterator[_Stored]:
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


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries are wanted.

    Attributes:
        events: names of events, or what they begin with before the dot ("audit"); all when empty.
        subject: id of what they happened to, or its beginning; empty for anything.
        since: earliest time; None for any.
    """

    events: tuple[str, ...] = ()
    subject: str = ""
    since: datetime | None = None

    @property
    def conditions(self) -> tuple[ColumnElement[bool], ...]:
        """What the columns must fulfil."""
        wanted: list[ColumnElement[bool]] = []
        if self.events:
            named: list[ColumnElement[bool]] = [LedgerRow.event.in_(self.events)]
            named += [LedgerRow.event.startswith(f"{name.rstrip('.*')}.", autoescape=True) for name in self.events]
            wanted.append(or_(*named))
        if self.subject:
            wanted.append(LedgerRow.subject.startswith(self.subject, autoescape=True))
        if self.since is not None:
            wanted.append(LedgerRow.at >= time_text(self.since))
        return tuple(wanted)


EVERYTHING = Choice()


def time_text(moment: datetime) -> str:
    """Return a time as entries carry it: texts in this form are in the order of the times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _within_tolerance(now: str, head: LedgerEntry) -> str:
    try:
        behind = datetime.fromisoformat(head.at) - datetime.fromisoformat(now)
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"the time {head.at!r} of ledger entry {head.serial} cannot be read",
            advice="run `fpvec registry verify` and restore a backup",
        ) from error
    if behind > CLOCK_TOLERANCE:
        raise RegistryError(
            f"the clock says {now}, but ledger entry {head.serial} was written at {head.at}",
            advice="set this machine's clock right; if that entry's time is what was wrong, run "
            "`fpvec registry accept-clock`",
        )
    return head.at


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
