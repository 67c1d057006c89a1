"""The registry's schema: brought to head where there is none, refused where it is not ours to use.

Invariant: a :class:`~fpvec_audit.registry.unit_of_work.Registry` exists only over a database at
:data:`~fpvec_audit.registry.tables.SCHEMA_REVISION`. A migration runs inside one transaction that also looked at the
version, so of two processes that meet an empty file one migrates and the other finds the work done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.database import (
    create_private_file,
    damage,
    database_file,
    describe,
    is_sqlite,
    reading,
    translated,
    use_write_ahead_log,
)
from fpvec_audit.registry.roles import excess_rights, missing_rights
from fpvec_audit.registry.tables import SCHEMA_REVISION, Base

SET_ASIDE = "fpvec_aside"
"""Where a downgrade keeps what older schemas have no place for; the next upgrade brings it back.

What migrations after 0004 set aside lies in a table of their own, whose name begins with this one.
"""
_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_directory() -> Path:
    """Return where the migrations lie: inside an installed package, or beside an editable one.

    Raises:
        RegistryError: neither place has them.
    """
    places = (_PACKAGE / "_migrations", _PACKAGE.parent / "migrations")
    for place in places:
        if (place / "env.py").is_file():
            return place
    raise RegistryError(
        f"no migrations in {places[0]} nor in {places[1]}", advice="the installation is incomplete; install it again"
    )


def prepare(engine: Engine, *, create: bool = True) -> None:
    """Make sure that the database has the current schema, creating it where there is nothing.

    Args:
        engine: where the registry is.
        create: whether a missing or empty database may be filled.

    Raises:
        RegistryError: missing, outdated, newer than this program, somebody else's, or out of reach.
    """
    if _is_current(engine):
        return  # without the write lock, which every opening would wait for otherwise
    where = describe(engine.url)
    with _transaction(engine, create=create) as connection:
        revision = current_revision(connection)
        if revision is None:
            _create_schema(connection, where, create=create)
        elif revision != SCHEMA_REVISION:
            raise _unfit(revision, where)


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring an older registry, or an empty database, to the current schema.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        RegistryError: newer than this program, somebody else's, or out of reach.
    """
    where = describe(engine.url)
    with _transaction(engine, create=True) as connection:
        before = current_revision(connection)
        if before is None:
            _create_schema(connection, where, create=True)
        elif before not in known_revisions():
            raise _unfit(before, where)
        elif before != SCHEMA_REVISION:
            _run_migrations(connection)
    return before, SCHEMA_REVISION


def revision_of(engine: Engine, *, create: bool) -> str | None:
    """Return the revision a database is at, None when it is empty.

    Args:
        engine: where the registry is.
        create: whether a missing file counts as empty.

    Raises:
        RegistryError: missing, or out of reach.
    """
    with _transaction(engine, create=create) as connection:
        return current_revision(connection)


def problems(engine: Engine) -> tuple[str, ...]:
    """Return what is wrong with an existing registry, in sentences; empty when all is well.

    Raises:
        RegistryError: missing, or out of reach.
    """
    where = describe(engine.url)
    with _transaction(engine, create=False) as connection:
        revision = current_revision(connection)
        if revision is None:
            return (f"{where} holds no registry: `fpvec registry init` makes one in an empty database",)
        if revision != SCHEMA_REVISION:
            return (str(_unfit(revision, where)),)
        return (*_drift(connection), *damage(connection), *excess_rights(connection))


def remarks(engine: Engine) -> tuple[str, ...]:
    """Return what an administrator may want to do about an existing registry at head, in sentences.

    Raises:
        RegistryError: missing, or out of reach.
    """
    with _transaction(engine, create=False) as connection:
        return missing_rights(connection) if current_revision(connection) == SCHEMA_REVISION else ()


def current_revision(connection: Connection) -> str | None:
    """Return the revision a database is at, None when alembic never touched it."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def known_revisions() -> frozenset[str]:
    """Return every revision that this program's migrations know."""
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory(str(migrations_directory())).walk_revisions())


@contextmanager
def _transaction(engine: Engine, *, create: bool) -> Iterator[Connection]:
    _ensure_file(engine, create=create)
    try:
        with engine.connect() as connection:
            use_write_ahead_log(connection)
            with connection.begin():
                yield connection
    except SQLAlchemyError as error:
        raise translated(error, describe(engine.url)) from error


def _is_current(engine: Engine) -> bool:
    file = database_file(engine.url)
    if (file is None and is_sqlite(engine.url)) or (file is not None and not file.is_file()):
        return False
    try:
        with reading(engine).connect() as connection:
            use_write_ahead_log(connection)
            with connection.begin():
                return current_revision(connection) == SCHEMA_REVISION
    except SQLAlchemyError as error:
        raise translated(error, describe(engine.url)) from error


def _drift(connection: Connection) -> tuple[str, ...]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    differences = compare_metadata(context, Base.metadata)
    return tuple(f"the schema differs from this program's: {difference}" for difference in differences)


def _ensure_file(engine: Engine, *, create: bool) -> None:
    file = database_file(engine.url)
    if file is None:
        return
    if create:
        create_private_file(file)
    elif not file.is_file():
        raise RegistryError(f"there is no registry at {file}", advice="`fpvec registry init` makes one")


def _create_schema(connection: Connection, where: str, *, create: bool) -> None:
    names = set(inspect(connection).get_table_names()) - {"alembic_version"}
    tables = {name for name in names if not name.startswith(SET_ASIDE)}
    if tables:
        raise RegistryError(
            f"{where} holds tables of something else ({', '.join(sorted(tables)[:5])})",
            advice="name another database with --registry or --home",
        )
    if not create:
        raise RegistryError(f"the registry {where} is empty", advice="`fpvec registry init` fills it")
    _run_migrations(connection)


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise RegistryError(f"the registry could not be migrated: {error}") from error


def _unfit(revision: str, where: str) -> RegistryError:
    if revision in known_revisions():
        return RegistryError(
            f"the registry {where} has schema {revision}, this program needs {SCHEMA_REVISION}",
            advice="`fpvec registry upgrade` brings it up to date; back it up first",
        )
    return RegistryError(
        f"the registry {where} has schema {revision}, newer than this program's {SCHEMA_REVISION}",
        advice="upgrade fpvec-audit",
    )
