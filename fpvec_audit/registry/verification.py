"""Hold the whole registry against its own history.

Three things are checked in one snapshot: that the ledger's entries continue each other, that every row the ledger
vouches for is what its last entry says, and that rows and entries are there for each other. Memory stays bounded
however large the registry is: the ledger is walked once into a scratch file that sorts what is said by row, then rows
and entries are walked side by side in the order of their ids.

Where an entry says no digest of its row (entries of before there were any), the fields that it does say are compared.
What is not checked: sealed content itself, which shows when it is opened; where files were seen last, jobs and caches,
which are no evidence; a cut tail, which only an anchor shows.
"""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, collate, column, func, select, table
from sqlalchemy.orm import Session

from fpvec_audit.domain.manifest import HEADING
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.registry.database import is_postgresql
from fpvec_audit.registry.ledger import CLOCK_ACCEPTED, Ledger
from fpvec_audit.registry.recorded_fields import EVENTS, contradictions
from fpvec_audit.registry.row_digests import (
    CHRONICLED,
    ROW,
    Chronicled,
    Part,
    Row,
    kind_of_event,
    part_values,
    parts_statement,
    row_of,
    rows_statement,
)
from fpvec_audit.registry.unit_of_work import UnitOfWork
from fpvec_audit.registry.vault import KEY_SET

MOST_PROBLEMS = 200
"""Problems that are told in sentences; the others are counted."""
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Verification:
    """What holding a registry against its history found.

    Attributes:
        entries: serial of the last entry, or of the first that does not fit.
        head: digest of the last entry; empty when there is none, or when an entry does not fit.
        fault: the first entry that does not continue the chain, None when all do; rows are not compared then.
        rows: how many rows were compared, by table.
        problems: what does not fit, in sentences; at most :data:`MOST_PROBLEMS`.
        unnamed: how many further problems there are.
        notes: what is worth knowing and no fault, in sentences.
    """

    entries: int
    head: str
    fault: LedgerEntry | None
    rows: Mapping[str, int]
    problems: tuple[str, ...] = ()
    unnamed: int = 0
    notes: tuple[str, ...] = ()


def verify_snapshot(uow: UnitOfWork) -> Verification:
    """Hold a registry against its history.

    Args:
        uow: a snapshot of it.
    """
    report = _Report()
    with closing(_scratch()) as scratch:
        head = None
        for entry, fits in uow.ledger.walk():
            if not fits:
                report.problem(f"ledger entry {entry.serial} does not continue the history before it")
                return Verification(_number(entry.serial), "", entry, {}, tuple(report.problems))
            if head is not None and entry.at < head.at and entry.event != CLOCK_ACCEPTED:
                report.note(f"ledger entry {entry.serial} says {entry.at}, the one before it says {head.at}")
            _remember(scratch, entry)
            head = entry
        scratch.execute("CREATE INDEX order_of_rows ON said (kind, subject, serial)")
        with _any_text(uow.session):
            for spec in CHRONICLED.values():
                _compare_kind(uow, spec, scratch, report)
            _check_manifests(uow.session, report)
            _check_vault(uow.session, report)
            _check_families(uow.session, report)
    return Verification(
        0 if head is None else head.serial,
        "" if head is None else head.digest,
        None,
        report.rows,
        tuple(report.problems),
        report.unnamed,
        tuple(report.notes),
    )


@dataclass(slots=True)
class _Report:
    rows: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unnamed: int = 0
    notes: list[str] = field(default_factory=list)

    def problem(self, sentence: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(sentence)
        else:
            self.unnamed += 1

    def note(self, sentence: str) -> None:
        if len(self.notes) < MOST_PROBLEMS:
            self.notes.append(sentence)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the ledger says of one row: all entries about it, in order.

    Attributes:
        key: id of the row, as bytes.
        entries: (serial, digest of the row or None, content as JSON where there is no digest or None).
    """

    key: bytes
    entries: Sequence[tuple[int, str | None, str | None]]


def _scratch() -> sqlite3.Connection:
    """Return a database in a temporary file that is gone when it is closed."""
    scratch = sqlite3.connect("", isolation_level=None)
    scratch.execute("PRAGMA journal_mode = OFF")
    scratch.execute("CREATE TABLE said (kind TEXT, subject BLOB, serial INTEGER, digest TEXT, content TEXT)")
    return scratch


def _remember(scratch: sqlite3.Connection, entry: LedgerEntry) -> None:
    kind = kind_of_event(entry.event)
    digest = entry.content.get(ROW)
    if kind is None or not (isinstance(digest, str) or entry.event in EVENTS):
        return
    if isinstance(digest, str):
        values: tuple[str | None, str | None] = (digest, None)
    else:
        values = (None, json.dumps({**entry.content, "event": entry.event}))
    scratch.execute("INSERT INTO said VALUES (?, ?, ?, ?, ?)", (kind, _key(entry.subject), entry.serial, *values))


def _compare_kind(uow: UnitOfWork, spec: Chronicled, scratch: sqlite3.Connection, report: _Report) -> None:
    name = spec.kind.replace("_", " ")
    said, rows = _said(scratch, spec.kind), _rows(uow.session, spec, report)
    one, other = next(said, None), next(rows, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < _key(other.id)):
            assert one is not None
            report.problem(f"{name} {_shown(one.key)} is in the ledger (entry {one.entries[-1][0]}), but not recorded")
            one = next(said, None)
        elif one is None or one.key > _key(other.id):
            report.problem(f"{name} {_shown(_key(other.id))} is recorded, but the ledger has no entry about it")
            other = next(rows, None)
        else:
            _compare(uow.ledger, spec, one, other, report)
            one, other = next(said, None), next(rows, None)


def _compare(ledger: Ledger, spec: Chronicled, said: _Said, row: Row, report: _Report) -> None:
    serial, digest, _ = said.entries[-1]
    if digest is not None and digest == row.digest:
        return
    name = f"{spec.kind.replace('_', ' ')} {_shown(said.key)}"
    if digest is None:
        contents = [json.loads(content) for _, _, content in said.entries if content is not None]
        if any(known is not None for _, known, _ in said.entries):
            contents = _contents(ledger, said)
    else:
        contents = _contents(ledger, said)
    found = contradictions(spec.kind, contents, row)
    for sentence in found:
        report.problem(f"{name}: {sentence}")
    if digest is not None and not found:
        report.problem(f"{name} is not what ledger entry {serial} says it was")


def _contents(ledger: Ledger, said: _Said) -> list[dict[str, Any]]:
    """Read what the entries about a row say once more, since it was not kept."""
    serials = [serial for serial, _, _ in said.entries]
    found = (entry for serial in serials for entry in ledger.entries(after=serial - 1, limit=1))
    return [{**entry.content, "event": entry.event} for entry in found]


def _said(scratch: sqlite3.Connection, kind: str) -> Iterator[_Said]:
    statement = "SELECT subject, serial, digest, content FROM said WHERE kind = ? ORDER BY subject, serial"
    key: bytes | None = None
    entries: list[tuple[int, str | None, str | None]] = []
    for subject, serial, digest, content in scratch.execute(statement, (kind,)):
        if subject != key and key is not None:
            yield _Said(key, entries)
            entries = []
        key = subject
        entries.append((serial, digest, content))
    if key is not None:
        yield _Said(key, entries)


def _rows(session: Session, spec: Chronicled, report: _Report) -> Iterator[Row]:
    """Yield the rows of a kind in the order of their ids' bytes, each with its parts."""
    report.rows.setdefault(spec.kind, 0)
    statement = rows_statement(spec)
    ordered = _streamed(session, statement.order_by(_in_bytes(session, statement.selected_columns.id)))
    parts = [_Grouped(session, part, report) for part in spec.parts]
    for values in ordered:
        report.rows[spec.kind] += 1
        key = _key(values[0])
        yield row_of(spec, values, {group.part.table: group.of(key) for group in parts})
    for group in parts:
        group.end()


class _Grouped:
    """The rows of a part, handed out owner by owner.

    Args:
        session: of the snapshot.
        part: which.
        report: where rows without an owner are told.
    """

    def __init__(self, session: Session, part: Part, report: _Report) -> None:
        self.part = part
        self._report = report
        owner: ColumnElement[Any] = column(part.owner)
        order: tuple[ColumnElement[Any], ...] = (_in_bytes(session, owner), column(part.columns[0]))
        self._rows = iter(_streamed(session, parts_statement(part).order_by(*order)))
        report.rows.setdefault(part.table, 0)
        self._next = next(self._rows, None)

    def of(self, key: bytes) -> list[Any]:
        """Return the rows of an owner; owners come in ascending order."""
        found = []
        while self._next is not None and (owner := _key(self._next[0])) <= key:
            if owner == key:
                found.append(part_values(self.part, self._next))
            else:
                self._orphan(owner)
            self._advance()
        return found

    def end(self) -> None:
        """Tell of the rows that are left over."""
        while self._next is not None:
            self._orphan(_key(self._next[0]))
            self._advance()

    def _advance(self) -> None:
        self._report.rows[self.part.table] += 1
        self._next = next(self._rows, None)

    def _orphan(self, owner: bytes) -> None:
        self._report.problem(f"a row of {self.part.table} belongs to {_shown(owner)}, which is not recorded")


def _check_manifests(session: Session, report: _Report) -> None:
    """Check that every manifest gives the digest of its model, which says more than an entry could."""
    manifests = table("model_manifest", column("model_id"), column("tensors"), column("content"))
    for model, tensors, content in _streamed(session, select(*manifests.c), at_once=50):
        try:
            entries = zlib.decompress(content)
        except (zlib.error, TypeError):
            entries = b""
        if hashlib.sha256(HEADING + entries).hexdigest() != model or entries.count(b"\n") != tensors:
            report.problem(f"the manifest of model {_shown(_key(model))} is of another model, or damaged")


def _check_vault(session: Session, report: _Report) -> None:
    """Check that every key set has its secret, and every secret of a key set its key set."""
    key_sets = table("key_set", column("id"))
    secrets = table("vault_secret", column("kind"), column("subject"))
    report.rows["vault_secret"] = session.execute(select(func.count()).select_from(secrets)).scalar_one()
    of_key_sets = secrets.c.kind == KEY_SET
    lacking = select(key_sets.c.id).where(
        ~select(secrets.c.subject).where(of_key_sets, secrets.c.subject == key_sets.c.id).exists()
    )
    for (identifier,) in _streamed(session, lacking):
        report.problem(f"the vault has no secret of key set {_shown(_key(identifier))}")
    strange = select(secrets.c.subject).where(
        of_key_sets, ~select(key_sets.c.id).where(key_sets.c.id == secrets.c.subject).exists()
    )
    for (identifier,) in _streamed(session, strange):
        report.problem(f"the vault has a secret of key set {_shown(_key(identifier))}, which is not recorded")


def _check_families(session: Session, report: _Report) -> None:
    """Check that every family has a vector; its columns count as the vector's."""
    families = table("vector_family", column("id"))
    vectors = table("vector", column("family_id"))
    report.rows["vector_family"] = session.execute(select(func.count()).select_from(families)).scalar_one()
    empty = select(families.c.id).where(
        ~select(vectors.c.family_id).where(vectors.c.family_id == families.c.id).exists()
    )
    for (identifier,) in _streamed(session, empty):
        report.problem(f"the vector family {_shown(_key(identifier))} has no vector, so the ledger has no entry of it")


def _streamed(session: Session, statement: Select[Any], *, at_once: int = _AT_ONCE) -> Iterable[Any]:
    return session.execute(statement, execution_options={"yield_per": at_once})


def _in_bytes(session: Session, ids: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an order by the bytes of a text, whatever language the database sorts in."""
    return collate(ids, "C" if is_postgresql(session.get_bind().engine.url) else "BINARY")


def _key(identifier: Any) -> bytes:
    if isinstance(identifier, str):
        return identifier.encode("utf-8", "surrogateescape")
    return identifier if isinstance(identifier, bytes) else repr(identifier).encode()


def _shown(key: bytes) -> str:
    text = key.decode("utf-8", "backslashreplace")
    return text if len(text) <= 24 else f"{text[:16]}…"


def _number(serial: Any) -> int:
    return serial if isinstance(serial, int) else 0


@contextmanager
def _any_text(session: Session) -> Iterator[None]:
    """Let text that is no UTF-8, which only tampering leaves in a file, be read and not end the walk."""
    driver = session.connection().connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    before = driver.text_factory
    driver.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = before
