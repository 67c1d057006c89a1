"""Connections to the registry's database, and its errors in our words.

The only module that knows at run time what is peculiar to SQLite and to PostgreSQL. Every transaction holds the one
write lock of the registry from its first statement – ``BEGIN IMMEDIATE`` on SQLite, an advisory lock on PostgreSQL – so
what it read is still true when it writes, the ledger stays one line, and writers queue instead of failing half-way or
waiting for each other. An engine for reading (:func:`reading`) takes no lock and sees one moment.
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

from sqlalchemy import URL, Connection, Engine, ExceptionContext, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from fpvec_audit.errors import RegistryAwayError, RegistryError

LOCK_WAIT_SECONDS = 30.0
"""How long a transaction waits for another process's lock; on SQLite ``?timeout=SECONDS`` in the URL overrides it."""
POSTGRESQL_LOCK = 0x66707665632D6C67
"""Number of the advisory lock that writers of a registry hold (``fpvec-lg``); it counts within one database."""
READING = "fpvec_reading"

_FAULTS = (
    (
        r'fatal: +database ".*" does not exist',
        "does not exist: the server has no such database",
        "make it with `createdb`, or check its name in --registry",
    ),
    (r'fatal: +role ".*" does not exist', "does not let you in", "check user and password in --registry"),
    (r'relation ".*" does not exist', "lacks a table", "run `fpvec registry check`"),
    ("is locked", "is locked by another process", "wait until it ends and try again"),
    ("lock timeout", "is locked by another process", "wait until it ends and try again"),
    ("connection refused", "does not answer", "start the database server, or check host and port in --registry"),
    ("temporary failure in name resolution", "does not answer", "check the network, and the host in --registry"),
    ("could not translate host", "does not answer", "check the host name in --registry"),
    ("name or service not known", "does not answer", "check the host name in --registry"),
    ("no such file or directory", "does not answer", "start the database server, or check the socket in --registry"),
    ("password authentication failed", "does not let you in", "check user and password in --registry"),
    ("no password supplied", "does not let you in", "check user and password in --registry"),
    ("no pg_hba.conf entry", "does not let you in", "ask the administrator of the server for access"),
    ("permission denied", "does not allow that to this user", "use a login with the role that may (docs/registry.md)"),
    ("no space left", "cannot be written: the disk of the server is full", "free some space; nothing was recorded"),
    ("too many connections", "has no connection left", "try again later, or let the server allow more"),
    ("too many clients", "has no connection left", "try again later, or let the server allow more"),
    ("starting up", "is starting", "try again in a moment"),
    ("not (?:yet )?accepting connections", "is starting", "try again in a moment"),
    ("in recovery mode", "recovers after a crash", "try again in a moment"),
    ("timeout expired", "does not answer", "check the network, and host and port in --registry"),
    ("connection reset", "went away meanwhile", "try again; what was not confirmed was not recorded"),
    ("no route to host|network is unreachable", "does not answer", "check the network, and the host in --registry"),
    ("shutting down", "is shutting down", "try again when it is back; nothing was recorded"),
    ("terminating connection", "was restarted meanwhile", "try again; nothing was recorded"),
    ("server closed the connection", "went away meanwhile", "try again; what was not confirmed was not recorded"),
    ("connection is closed", "went away meanwhile", "try again; what was not confirmed was not recorded"),
    ("connection is lost", "went away meanwhile", "try again; what was not confirmed was not recorded"),
    ("readonly", "cannot be written", "check the owner and the permissions of the file and its directory"),
    ("unable to open", "cannot be opened", "check that its directory exists and may be written"),
    ("not a database", "is no SQLite database", "name another file with --registry or --home"),
    ("malformed", "is damaged", "restore it from a backup"),
    ("disk is full", "cannot be written: the disk is full", "free some space; nothing was recorded"),
    ("disk i/o", "cannot be read or written: the disk reports an error", "check the disk and restore from a backup"),
    ("no such table", "lacks a table", "run `fpvec registry check`"),
    ("append-only", "holds a ledger that takes new entries only", "append an entry that corrects the old one"),
)
"""(pattern in the driver's message, problem, advice)."""
_PASSING = {
    *("is locked", "lock timeout", "connection refused", "no such file or directory", "too many connections"),
    *("too many clients", "starting up", "not (?:yet )?accepting connections", "in recovery mode", "shutting down"),
    *("terminating connection", "server closed the connection", "connection is closed", "connection is lost"),
    *("timeout expired", "connection reset", "no route to host|network is unreachable"),
    "temporary failure in name resolution",
}
"""Those of the patterns after which the same may succeed a little later."""


def make_engine(url: str) -> Engine:
    """Return an engine for a SQLAlchemy URL; nothing is opened yet.

    Statement parameters never show in errors or logs, because they may be secrets.

    Raises:
        RegistryError: the URL cannot be read, or its driver is not installed.
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {"hide_parameters": True, "json_serializer": partial(json.dumps, allow_nan=False)}
    if is_sqlite(parsed):
        if database_file(parsed):  # kept open: whoever closes the last connection moves the log into the file, synced
            options |= {"poolclass": QueuePool, "pool_size": 1}
        if "timeout" not in parsed.query:
            options["connect_args"] = {"timeout": LOCK_WAIT_SECONDS}
    elif is_postgresql(parsed):
        options |= {"pool_pre_ping": True, "pool_size": 2}
    try:
        engine = create_engine(parsed, **options)
    except (SQLAlchemyError, ImportError) as error:
        raise RegistryError(
            f"no driver for the registry {describe(parsed)}: {error}",
            advice="use sqlite:///FILE, or postgresql+psycopg://… with `pip install 'fpvec-audit[postgresql]'`",
        ) from error
    if is_sqlite(parsed):
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "begin", _begin_sqlite)
        if file := database_file(parsed):
            event.listen(engine, "connect", partial(_remember_file, file))
            event.listen(engine, "checkout", partial(_refuse_other_file, file))
    elif is_postgresql(parsed):
        event.listen(engine, "begin", _begin_postgresql)
        event.listen(engine, "handle_error", _leave_values_out)
    else:
        raise RegistryError(
            f"the registry {describe(parsed)} is neither SQLite nor PostgreSQL",
            advice="write sqlite:////path/to/registry.db or postgresql+psycopg://USER@HOST/DATABASE",
        )
    return engine


def reading(engine: Engine) -> Engine:
    """Return an engine on the same connections whose transactions see one moment, take no lock and cannot write."""
    return engine.execution_options(**{READING: True})


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


def is_postgresql(url: URL) -> bool:
    """Return whether a PostgreSQL server is meant."""
    return url.get_backend_name() == "postgresql"


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
    message = message.partition(" with text ")[0]  # SQLite shows a value that it cannot decode
    for part, problem, advice in _FAULTS:
        if re.search(part, message, re.IGNORECASE):
            kind = RegistryAwayError if part in _PASSING else RegistryError
            return kind(f"the registry {where} {problem} ({message})", advice=advice)
    if isinstance(error, IntegrityError):
        return RegistryError(
            f"the registry {where} refused an entry that contradicts what is recorded: {message}",
            advice="look at what is recorded and try again",
        )
    return RegistryError(f"the registry {where} failed: {message}", advice="run `fpvec doctor`")


def _prepare_connection(driver_connection: SqliteConnection, _record: object) -> None:
    driver_connection.isolation_level = None  # transactions are begun by _begin_immediate, not guessed by the driver
    driver_connection.execute("PRAGMA foreign_keys=ON")


def _leave_values_out(context: ExceptionContext) -> None:
    """Cut the lines off in which the server repeats a whole row."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (re.split(r"\n(?:DETAIL|CONTEXT|HINT|LINE)\b", error.args[0])[0], *error.args[1:])


def _remember_file(file: Path, _driver_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["file"] = _identity(file)


def _refuse_other_file(
    file: Path, _driver_connection: object, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Refuse to go on with a connection to a file that is no longer where the registry was opened."""
    if record.info.get("file") != _identity(file):
        raise RegistryError(
            f"the registry {file} is gone: it was removed or replaced while it was in use",
            advice="put it back, or restore a backup; what was confirmed before lies in the file that was there",
        )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READING) else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(READING):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_WAIT_SECONDS * 1000)}ms'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRESQL_LOCK})")
