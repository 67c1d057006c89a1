"""A whole registry out of one database and into another, digests and chain intact.

What goes out is one moment, while others write. What comes in is verified before it lasts – every line, every count,
the digest over all of them, and the ledger's chain – and lasts as a whole or not at all. Either way a registry of any
size passes through little memory.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.database import is_postgresql, translated
from fpvec_audit.registry.ledger import IMPORTED
from fpvec_audit.registry.portable import Header, PortableTable, Trailer, line_of, portable_tables
from fpvec_audit.registry.tables import SCHEMA_REVISION, AuditRecordRow, FactRow, MasterKeyRow, VaultSecretRow
from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
from fpvec_audit.registry.upkeep import PLAINTEXT
from fpvec_audit.registry.vault import PLAIN

MOST_LINE_BYTES = 1 << 28
"""Longer lines are no rows: the manifest of a checkpoint has a few MB."""
_ROWS_AT_ONCE, _LARGE_ROWS_AT_ONCE = 1000, 50
_FACTS = "registry_fact"
_BROKEN = "it was cut or altered: get it again from where it was made"


@dataclass(frozen=True, slots=True)
class Moved:
    """A registry that was written to lines, or made of them.

    Attributes:
        header: what it is.
        rows: number of rows by table.
        digest: SHA-256 over all lines but the last, hex.
    """

    header: Header
    rows: dict[str, int]
    digest: str


def write_registry(registry: Registry, write: Callable[[bytes], object]) -> Moved:
    """Write everything that a registry holds, as of one moment.

    Args:
        registry: which.
        write: takes the lines.

    Raises:
        RegistryError: secrets lie in it in the clear, a value cannot be written, or it cannot be read.
    """
    lines, rows = sha256(), Counter[str]()

    def put(line: bytes) -> None:
        lines.update(line)
        write(line)

    with registry.snapshot() as uow:
        _refuse_plaintext(uow.session)
        header = _header(uow)
        put(line_of(header.to_json()))
        for item in portable_tables().values():
            with closing(_stored(uow.session, item)) as stored:
                for values in stored:
                    put(_row_line(item, values))
                    rows[item.name] += 1
    trailer = Trailer(_counted(rows), lines.hexdigest())
    write(line_of(trailer.to_json()))
    return Moved(header, dict(trailer.rows), trailer.digest)


def read_registry(registry: Registry, source: BinaryIO, *, event: str = IMPORTED, file: str = "") -> Moved:
    """Fill an empty registry with what was written by :func:`write_registry`, in one transaction.

    The ledger goes on with an entry about this, which is not among what is returned.

    Args:
        registry: which; at this program's schema.
        source: the lines.
        event: what the ledger calls it, one of :data:`~fpvec_audit.registry.ledger.ARRIVALS`.
        file: name of the file that they are in, empty for a stream.

    Raises:
        RegistryError: the registry is not empty, or the lines are of another schema, cut, altered, or contradict
            each other; nothing was taken in.
    """
    with registry.unit_of_work() as uow:
        session = uow.session
        refuse_filled(session, registry.where)
        lines = _Lines(source)
        header = _read_header(lines)
        session.execute(delete(FactRow))
        rows = _take_in(session, lines, registry.where)
        trailer = _read_trailer(lines, rows)
        _verify(uow, header, trailer, registry.where)
        _continue_sequences(session)
        uow.ledger.append_arrival(event, file=file, who=registry.actor)
    return Moved(header, dict(trailer.rows), trailer.digest)


def refuse_filled(session: Session, where: str) -> None:
    """Refuse a registry that holds anything but what every new one does.

    Raises:
        RegistryError: it does.
    """
    for item in portable_tables().values():
        if item.name != _FACTS and session.scalar(select(text("1")).select_from(item.clause).limit(1)) is not None:
            raise RegistryError(
                f"the registry {where} holds entries already (in {item.name})",
                advice="name an empty database with --registry or --home",
            )


class _Lines:
    """Reads documents line by line and digests all lines but the last.

    Attributes:
        number: of the line that was read last.
        last: what that line holds.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = sha256()
        self._pending = b""
        self.number = 0
        self.last: Any = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> Any:
        line = self._source.readline(MOST_LINE_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        self._digest.update(self._pending)
        self._pending = line
        if not line.endswith(b"\n"):
            raise self.broken("it has no end" if len(line) < MOST_LINE_BYTES else "it is too long")
        try:
            self.last = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise self.broken(f"it is no JSON ({error})") from error
        return self.last

    @property
    def digest_before(self) -> str:
        """SHA-256 over all lines before the one that was read last, hex."""
        return self._digest.hexdigest()

    def broken(self, problem: str) -> RegistryError:
        """Return why the line that was read last is refused."""
        return RegistryError(f"line {self.number} of the export is refused: {problem}", advice=_BROKEN)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _refuse_plaintext(session: Session) -> None:
    for row in (VaultSecretRow, AuditRecordRow):
        if session.scalar(select(text("1")).select_from(row).where(row.scheme == PLAIN).limit(1)) is not None:
            raise RegistryError(
                f"secrets lie in the clear in {row.__tablename__} and are not written to a file",
                advice="run `fpvec registry upgrade`, which seals them, with the master key at hand",
            )


def _header(uow: UnitOfWork) -> Header:
    session, last = uow.session, uow.ledger.head()
    key = session.scalar(select(MasterKeyRow.id).where(MasterKeyRow.retired_at.is_(None)))
    return Header(
        SCHEMA_REVISION,
        session.scalar(select(FactRow.value).where(FactRow.name == "id")) or "",
        key or "",
        0 if last is None else last.serial,
        "" if last is None else last.digest,
    )


def _row_line(item: PortableTable, values: tuple[Any, ...]) -> bytes:
    try:
        return line_of({"table": item.name, "row": item.encoded(values)})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(
            f"a row of {item.name} cannot be exported: {error}", advice="run `fpvec registry verify`"
        ) from error


def _stored(session: Session, item: PortableTable) -> Generator[tuple[Any, ...]]:
    """Yield the rows of a table in the order that every database agrees on: text by its bytes."""
    columns = item.clause.c
    bytewise = is_postgresql(session.get_bind().engine.url)
    order = [
        columns[name].collate("C") if bytewise and columns[name].type.python_type is str else columns[name]
        for name in item.key
    ]
    statement = select(*columns).order_by(*order)
    if item.name == _FACTS:  # what is due in the pages of one file is nothing to another
        statement = statement.where(columns["name"] != PLAINTEXT)
    at_once = _LARGE_ROWS_AT_ONCE if item.large else _ROWS_AT_ONCE
    with session.execute(statement, execution_options={"stream_results": True, "yield_per": at_once}) as found:
        for row in found:
            yield tuple(row)


def _counted(rows: Counter[str]) -> dict[str, int]:
    return {name: rows[name] for name in portable_tables()}


def _read_header(lines: _Lines) -> Header:
    document = next(lines, None)
    try:
        header = Header.from_json(document)
    except ValueError as error:
        raise RegistryError(f"this is no export of a registry: {error}", advice="name another file") from error
    if header.schema != SCHEMA_REVISION:
        older = header.schema < SCHEMA_REVISION
        raise RegistryError(
            f"the export has schema {header.schema}, this program needs {SCHEMA_REVISION}",
            advice="export it again with this version of fpvec-audit, after `fpvec registry upgrade`"
            if older
            else "upgrade fpvec-audit",
        )
    return header


def _take_in(session: Session, lines: _Lines, where: str) -> Counter[str]:
    """Insert rows until the last line, and return how many there were by table."""
    rows, batch = Counter[str](), _Batch(session, where)
    tables = list(portable_tables())
    current = 0
    for document in lines:
        if not isinstance(document, dict) or document.keys() != {"table", "row"}:
            break
        name = document["table"]
        if name not in tables[current:]:
            raise lines.broken(f"a row of {str(name)[:40]!a} does not belong here")
        current = tables.index(name)
        item = portable_tables()[name]
        try:
            values = item.decoded(document["row"])
        except ValueError as error:
            raise lines.broken(str(error)) from error
        batch.add(item, values, lines.number)
        rows[name] += 1
    batch.finish()
    return rows


class _Batch:
    """Inserts rows of one table at a time, many at once.

    References within a table are set when all of its rows are there, because none of them needs to come first.
    """

    def __init__(self, session: Session, where: str) -> None:
        self._session = session
        self._where = where
        self._item: PortableTable | None = None
        self._rows: list[dict[str, Any]] = []
        self._line = 0

    def add(self, item: PortableTable, values: dict[str, Any], line: int) -> None:
        """Take a row."""
        if self._item is not item:
            self.finish()
            self._item = item
            if item.own_references:
                columns = "field TEXT, child TEXT, parent TEXT, PRIMARY KEY (field, child)"
                self._execute(text(f"CREATE TEMPORARY TABLE moved_reference ({columns})"))
        self._line = line
        self._rows.append(values)
        if len(self._rows) >= (_LARGE_ROWS_AT_ONCE if item.large else _ROWS_AT_ONCE):
            self._insert(item)

    def finish(self) -> None:
        """Insert what is left of the table."""
        if self._item is None:
            return
        self._insert(self._item)
        for reference in self._item.own_references:
            self._refer(self._item, reference)
        if self._item.own_references:
            self._execute(text("DROP TABLE moved_reference"))
        self._item = None

    def _insert(self, item: PortableTable) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        if item.own_references:
            (key,) = item.key
            references = [
                {"field": name, "child": row[key], "parent": row[name]}
                for row in rows
                for name in item.own_references
                if row[name] is not None
            ]
            rows = [{**row, **dict.fromkeys(item.own_references)} for row in rows]
            if references:
                self._execute(text("INSERT INTO moved_reference VALUES (:field, :child, :parent)"), references)
        self._execute(insert(item.clause), rows)

    def _refer(self, item: PortableTable, reference: str) -> None:
        (key,) = item.key
        moved = f"FROM moved_reference WHERE field = '{reference}'"
        self._execute(
            text(
                f"UPDATE {item.name} SET {reference} = (SELECT parent {moved} AND child = {key}) "  # noqa: S608
                f"WHERE {key} IN (SELECT child {moved})"
            )
        )

    def _execute(self, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
        try:
            self._session.execute(statement, rows)
        except SQLAlchemyError as error:
            problem = translated(error, self._where)
            raise RegistryError(
                f"the export is refused at or shortly before line {self._line}: {problem.problem}",
                advice=problem.advice,
            ) from error


def _read_trailer(lines: _Lines, rows: Counter[str]) -> Trailer:
    """Check the line that ended the rows, and that none follows."""
    document = lines.last
    end = document.get("end") if isinstance(document, dict) and document.keys() == {"end"} else None
    if not isinstance(end, dict):
        raise lines.broken("it is neither a row nor an end")
    if end.get("digest") != lines.digest_before:
        raise RegistryError("the export is not what was written: its digest differs", advice=_BROKEN)
    trailer = Trailer(_counted(rows), lines.digest_before)
    if document != trailer.to_json():
        raise RegistryError("the export is not what was written: its counts differ", advice=_BROKEN)
    if next(lines, None) is not None:
        raise lines.broken("something follows the end")
    return trailer


def _verify(uow: UnitOfWork, header: Header, trailer: Trailer, where: str) -> None:
    session = uow.session
    for name, expected in trailer.rows.items():
        found = session.scalar(select(func.count()).select_from(portable_tables()[name].clause))
        if found != expected:
            raise RegistryError(f"the registry {where} took in {found} of {expected} rows of {name}", advice=_BROKEN)
    if (fault := uow.ledger.verify()) is not None:
        raise RegistryError(
            f"the ledger in the export does not fit together from entry {fault.serial} on",
            advice="the registry that it comes from was altered: run `fpvec registry verify` there",
        )
    if _header(uow) != header:
        raise RegistryError("the export's first line does not fit its rows", advice=_BROKEN)


def _continue_sequences(session: Session) -> None:
    """Let numbers that PostgreSQL gives go on after those that came with rows."""
    if not is_postgresql(session.get_bind().engine.url):
        return
    session.execute(
        text(
            "SELECT setval(pg_get_serial_sequence('vault_secret', 'id'), max(id)) FROM vault_secret HAVING max(id) > 0"
        )
    )
