"""How alembic reaches the registry: through the caller's connection, ``-x url=…``, or the settings."""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from fpvec_audit.registry.database import create_private_file, database_file, make_engine
from fpvec_audit.registry.tables import Base, UtcDateTime
from fpvec_audit.settings import load_settings


def registry_url() -> str:
    return context.get_x_argument(as_dictionary=True).get("url") or load_settings({}).registry_url


def render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Write our time type as the column type it stands for: a migration imports nothing of the package."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def run_on(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        render_as_batch=True,
        render_item=render_item,
        transactional_ddl=True,  # SQLite can, since database.py begins transactions itself
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        run_on(given)
        return
    engine = make_engine(registry_url())
    if file := database_file(engine.url):
        create_private_file(file)
    with engine.connect() as connection:
        run_on(connection)
    engine.dispose()


def run_offline() -> None:
    context.configure(url=registry_url(), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
