"""Backups of an embedded registry: a copy of its file as of one moment, made while others write.

A backup is an SQLite file of its own with a note in it: a digest over all of its tables and rows, so that a cut or
altered one is refused before anything is put in place. It may hold a registry of an older schema, so that there is
one before an upgrade. It is written anew by SQLite, so that no page holds what rows were before.
"""

import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from fpvec_audit.errors import OutputError, RegistryError
from fpvec_audit.registry import schema
from fpvec_audit.registry.database import LOCK_WAIT_SECONDS, create_private_file, damage, make_engine, translated
from fpvec_audit.registry.ledger import RESTORED, Ledger
from fpvec_audit.registry.private_files import staged_path
from fpvec_audit.registry.tables import Base

SQLITE_MAGIC = b"SQLite format 3\x00"
NOTE, NOTE_FORMAT = "fpvec_backup", "fpvec-audit/registry-backup/1"
_WITHOUT_CONTENT = {"registry_fact", "alembic_version"}
_PAGES_AT_ONCE = 16
"""Fewer than the smallest registry has, so that the first step is never the last."""
_DAMAGED = "get it again from where it was made, or use another backup"


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds.

    Attributes:
        revision: revision of its schema.
        rows: number of rows by table.
        entries: serial of the last ledger entry.
        head: digest of that entry, empty while there is none.
        master_key: id of the key that its secrets are sealed with, empty while there are none.
        plaintext: whether it is so old that it holds secrets in the clear.
        noted: whether it carries the note of a backup, so that every row was checked.
    """

    revision: str
    rows: dict[str, int]
    entries: int
    head: str
    master_key: str
    plaintext: bool
    noted: bool


def back_up_file(file: Path, out: Path) -> BackedUp:
    """Copy an embedded registry as of one moment to a new file that only its owner may read, and verify the copy.

    Args:
        file: the registry.
        out: the backup.

    Raises:
        RegistryError: there is no registry, it is damaged, or locked.
        OutputError: the backup exists, or cannot be written.
    """
    if not file.is_file():
        raise RegistryError(f"there is no registry at {file}", advice="name another with --registry or --home")
    with staged_path(out) as staged:
        try:
            with closing(_connected(file, mode="rw")) as connection:
                connection.execute("VACUUM INTO ?", (str(staged),))
            with closing(_connected(staged, mode="rw")) as copy:
                digest = _content_digest(copy)
                copy.execute(f"CREATE TABLE {NOTE} (format TEXT NOT NULL, digest TEXT NOT NULL)")
                copy.execute(f"INSERT INTO {NOTE} VALUES (?, ?)", (NOTE_FORMAT, digest))  # noqa: S608
        except sqlite3.Error as error:
            raise _failed(error, reading=file, writing=out) from error
        return _examined(staged, file)


def restore_file(backup: Path, file: Path, *, clock: Callable[[], datetime], who: str) -> BackedUp:
    """Put a verified backup where there is no registry, or an empty one, in one transaction.

    The ledger goes on with an entry about this, which is not among what is returned: that is what the backup holds.

    Args:
        backup: a backup, or a copy of a registry's file that nobody used meanwhile.
        file: where the registry shall be.
        clock: gives the time of that entry.
        who: who restores it, for the ledger.

    Raises:
        RegistryError: the backup is cut, altered or newer than this program, or the file holds something.
    """
    _refuse_log(backup)
    try:
        if file.exists():
            _look_into(file)
        with _staged(backup, beside=file) as staged:
            found = _examined(staged, backup)
            _record_arrival(staged, backup.name, clock=clock, who=who)
            create_private_file(file)
            with closing(_connected(staged, mode="rw")) as source, closing(_connected(file, mode="rw")) as target:
                source.execute(f"DROP TABLE IF EXISTS {NOTE}")
                target.execute("PRAGMA journal_mode=WAL")
                _copy(source, target, file)
                target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise _failed(error, reading=backup, writing=file) from error
    return found


def is_backup_file(file: Path) -> bool:
    """Return whether a file is an SQLite file by its first bytes.

    Raises:
        RegistryError: it cannot be read.
    """
    try:
        with file.open("rb") as source:
            return source.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError as error:
        raise RegistryError(f"{file} cannot be read: {error.strerror}", advice="name the file of a backup") from error


def _connected(file: Path, *, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=LOCK_WAIT_SECONDS, isolation_level=None)


def _record_arrival(staged: Path, name: str, *, clock: Callable[[], datetime], who: str) -> None:
    """Let the ledger of a private copy go on with an entry about its restoring, so that both appear together."""
    engine = make_engine(f"sqlite:///{staged}")
    try:
        with Session(engine) as session, session.begin():
            Ledger(session, clock).append_arrival(RESTORED, file=name, who=who)
    finally:
        engine.dispose()


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, file: Path) -> None:
    """Write all pages in one transaction of the target, after a look in it, once others are locked out."""
    looked = False

    def look(_status: int, _remaining: int, _total: int) -> None:
        nonlocal looked
        if not looked:
            looked = True
            _look_into(file)

    source.backup(target, pages=_PAGES_AT_ONCE, progress=look)


def _look_into(file: Path) -> None:
    with closing(_connected(file, mode="rw")) as connection:
        _refuse_content(connection, file)


def _refuse_content(connection: sqlite3.Connection, file: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    strange = sorted(name for name in tables - Base.metadata.tables.keys() - _WITHOUT_CONTENT if name[:7] != "sqlite_")
    if strange:
        raise RegistryError(
            f"{file} holds tables of something else ({', '.join(strange[:5])})",
            advice="name another place with --registry or --home",
        )
    for name in sorted(tables & Base.metadata.tables.keys() - _WITHOUT_CONTENT):
        if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone():  # noqa: S608
            raise RegistryError(
                f"the registry {file} holds entries already (in {name})",
                advice="restore into another place with --registry or --home, or move that file away first",
            )


@contextmanager
def _staged(backup: Path, *, beside: Path) -> Iterator[Path]:
    """Give a private copy of a backup beside its target, gone afterwards."""
    staged = beside.with_name(f".{beside.name}.{secrets.token_hex(8)}.part")
    try:
        create_private_file(staged)
        with backup.open("rb") as source, staged.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        yield staged
    except OSError as error:
        raise OutputError(
            f"the backup {backup} cannot be copied to {staged.parent}: {error.strerror}",
            advice="check that the file can be read, and that there is space for it",
        ) from error
    finally:
        staged.unlink(missing_ok=True)


def _refuse_log(backup: Path) -> None:
    for suffix in ("-wal", "-journal"):
        beside = backup.with_name(backup.name + suffix)
        if beside.exists() and beside.stat().st_size:
            raise RegistryError(
                f"{backup} is in use or was not closed: there is {beside.name}",
                advice="make a backup of it with `fpvec registry backup` and restore that",
            )


def _examined(copy: Path, named: Path) -> BackedUp:
    """Verify a copy that nobody else uses: note, integrity, references, schema and the ledger's chain."""
    engine = make_engine(f"sqlite:///{copy}")
    try:
        with closing(_connected(copy, mode="ro")) as connection:
            noted = _check_note(connection, named)
            rows = _counts(connection)
            master_key, plaintext = _master_key(connection), _has_plaintext(connection)
        return _read(engine, named, rows=rows, master_key=master_key, plaintext=plaintext, noted=noted)
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise RegistryError(f"{named} cannot be read as a registry: {_message(error)}", advice=_DAMAGED) from error
    finally:
        engine.dispose()


def _read(
    engine: Engine, named: Path, *, rows: dict[str, int], master_key: str, plaintext: bool, noted: bool
) -> BackedUp:
    with engine.connect() as connection, connection.begin():
        revision = schema.current_revision(connection)
        if revision is None:
            raise RegistryError(f"{named} holds no registry", advice="name the file of a backup")
        if revision not in schema.known_revisions():
            raise RegistryError(f"{named} has schema {revision}, which is not known", advice="upgrade fpvec-audit")
        if faults := damage(connection):
            raise RegistryError(f"{named} is damaged: {faults[0]}", advice=_DAMAGED)
        with Session(connection) as session:
            ledger = Ledger(session, lambda: datetime.now(UTC))
            if (fault := ledger.verify()) is not None:
                raise RegistryError(
                    f"the ledger in {named} does not fit together from entry {fault.serial} on",
                    advice="use a backup of before; copy the file itself to keep what is there",
                )
            head = ledger.head()
    entries, digest = (0, "") if head is None else (head.serial, head.digest)
    return BackedUp(revision, rows, entries, digest, master_key, plaintext, noted)


def _check_note(connection: sqlite3.Connection, named: Path) -> bool:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (NOTE,)).fetchone():
        return False
    (form, digest), *_ = connection.execute(f"SELECT format, digest FROM {NOTE}").fetchall() or [("", "")]  # noqa: S608
    if form != NOTE_FORMAT or digest != _content_digest(connection):
        raise RegistryError(f"{named} is not what was written: its digest differs", advice=_DAMAGED)
    return True


def _content_digest(connection: sqlite3.Connection) -> str:
    """Return SHA-256 over the schema and every row, independent of where in the file they lie."""
    digest = sha256()
    statement = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> ? ORDER BY type, name"
    for item in connection.execute(statement, (NOTE,)):
        digest.update(repr(item).encode())
    for name in _tables(connection):
        key = [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")') if row[5]]
        order = ", ".join(f'"{column}"' for column in key) or "1"
        for row in connection.execute(f'SELECT * FROM "{name}" ORDER BY {order}'):  # noqa: S608
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    return {
        name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
        for name in _tables(connection)
        if name != "alembic_version"
    }


def _tables(connection: sqlite3.Connection) -> list[str]:
    statement = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> ? ORDER BY name"
    return [name for (name,) in connection.execute(statement, (NOTE,)) if not name.startswith("sqlite_")]


def _master_key(connection: sqlite3.Connection) -> str:
    if "master_key" not in _tables(connection):
        return ""
    row = connection.execute("SELECT id FROM master_key WHERE retired_at IS NULL").fetchone()
    return "" if row is None else str(row[0])


def _has_plaintext(connection: sqlite3.Connection) -> bool:
    return any(
        connection.execute(f"SELECT 1 FROM {name} WHERE scheme = 'plain' LIMIT 1").fetchone()  # noqa: S608
        for name in ("vault_secret", "audit_record")
        if name in _tables(connection)
    )


def _failed(error: sqlite3.Error | SQLAlchemyError, *, reading: Path, writing: Path) -> OutputError | RegistryError:
    message = _message(error)
    if "full" in message or "disk I/O" in message:
        return OutputError(f"{writing} cannot be written: {message}", advice="free some space; nothing was left behind")
    return translated(error if isinstance(error, SQLAlchemyError) else DBAPIError("", None, error), str(reading))


def _message(error: Exception) -> str:
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
