"""Connections to the registry's database, and its errors in our words.

The only module that knows SQLite's peculiarities at run time. Every transaction on SQLite begins IMMEDIATE: a unit
of work holds the write lock from its first statement, so what it read is still true when it writes, and two writers
queue instead of failing half-way.
"""

import json
import os
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Error as SqliteError
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from fpvec_audit.errors import RegistryError

LOCK_WAIT_SECONDS = 30.0
"""How long a transaction waits for another process's lock; ``?timeout=SECONDS`` in the URL overrides it."""

_FAULTS = (
    ("locked", "is locked by another process", "wait until it ends and try again"),
    ("readonly", "cannot be written", "check the owner and the permissions of the file and its directory"),
    ("unable to open", "cannot be opened", "check that its directory exists and may be written"),
    ("not a database", "is no SQLite database", "name another file with --registry or --home"),
    ("malformed", "is damaged", "restore it from a backup"),
    ("disk is full", "cannot be written: the disk is full", "free some space; nothing was recorded"),
    ("disk i/o", "cannot be read or written: the disk reports an error", "check the disk and restore from a backup"),
    ("no such table", "lacks a table", "run `fpvec registry check`"),
    ("append-only", "holds a ledger that takes new entries only", "append an entry that corrects the old one"),
)
"""(part of the driver's message, problem, advice)."""


def make_engine(url: str) -> Engine:
    """Return an engine for a SQLAlchemy URL; nothing is opened yet.

    Statement parameters never show in errors or logs, because they may be secrets.

    Raises:
        RegistryError: the URL cannot be read, or its driver is not installed.
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {"hide_parameters": True, "json_serializer": partial(json.dumps, allow_nan=False)}
    if is_sqlite(parsed):
        options["poolclass"] = NullPool if database_file(parsed) else None
        if "timeout" not in parsed.query:
            options["connect_args"] = {"timeout": LOCK_WAIT_SECONDS}
    try:
        engine = create_engine(parsed, **options)
    except (SQLAlchemyError, ImportError) as error:
        raise RegistryError(
            f"no driver for the registry {describe(parsed)}: {error}",
            advice="use sqlite:///FILE, or install the driver that the URL names",
        ) from error
    if is_sqlite(parsed):
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def parse_url(url: str) -> URL:
    """Read a SQLAlchemy URL.

    Raises:
        RegistryError: it is not one.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        shown = re.sub(r"//.*@", "//***@", url)
        raise RegistryError(
            f"{shown!r} is no database URL", advice="write sqlite:////path/to/registry.db or postgresql+psycopg://…"
        ) from error


def describe(url: URL) -> str:
    """Return the URL, or the file of an embedded registry, without a password."""
    file = database_file(url)
    return str(file) if file else url.render_as_string(hide_password=True)


def is_sqlite(url: URL) -> bool:
    """Return whether the embedded database is meant."""
    return url.get_backend_name() == "sqlite"


def database_file(url: URL) -> Path | None:
    """Return the file of an embedded registry; None for a server or a database in memory."""
    if not is_sqlite(url) or not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return None
    return Path(url.database)


def create_private_file(file: Path) -> None:
    """Create an empty database file that only its owner may read, and its directory if that is missing.

    Files that exist already are left as they are. SQLite gives its journals the permissions of the database.

    Raises:
        RegistryError: the directory or the file cannot be made.
    """
    try:
        if not file.parent.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise RegistryError(
            f"the registry {file} cannot be created: {error.strerror}",
            advice="choose a directory that you may write with --home or --registry",
        ) from error


def use_write_ahead_log(connection: Connection) -> None:
    """Let readers go on while one process writes (SQLite only; outside of any transaction)."""
    driver_connection = connection.connection.driver_connection
    if not isinstance(driver_connection, SqliteConnection):
        return
    # Whoever loses a race for the switch finds it made, and a real fault shows at the first statement anyway.
    with suppress(SqliteError):
        driver_connection.execute("PRAGMA journal_mode=WAL")


def damage(connection: Connection) -> tuple[str, ...]:
    """Return what the database's own checks find broken, in sentences (SQLite only)."""
    if not is_sqlite(connection.engine.url):
        return ()
    pages = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    references = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return (
        *(f"the file is damaged: {page}" for page in pages if page != "ok"),
        *(f"table {row[0]}: row {row[1]} refers to a {row[2]} that does not exist" for row in references),
    )


def translated(error: SQLAlchemyError, where: str) -> RegistryError:
    """Return a database error in the registry's words, without SQL and without values.

    Args:
        error: what SQLAlchemy raised.
        where: the registry, as :func:`describe` names it.
    """
    message = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    for part, problem, advice in _FAULTS:
        if part in message.lower():
            return RegistryError(f"the registry {where} {problem} ({message})", advice=advice)
    if isinstance(error, IntegrityError):
        return RegistryError(
            f"the registry {where} refused an entry that contradicts what is recorded: {message}",
            advice="look at what is recorded and try again",
        )
    return RegistryError(f"the registry {where} failed: {message}", advice="run `fpvec doctor`")


def _prepare_connection(driver_connection: SqliteConnection, _record: object) -> None:
    driver_connection.isolation_level = None  # transactions are begun by _begin_immediate, not guessed by the driver
    driver_connection.execute("PRAGMA foreign_keys=ON")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
