"""The migrations run once for all tests of a process: running all of them takes longer than most tests do otherwise.

What they make of an empty embedded database is remembered and made again, statement by statement and inside the same
transaction; a registry's own id is drawn anew. A database that holds anything, PostgreSQL and every other process get
the migrations themselves, and so do the tests that are about them, by the fixture ``real_migrations``.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

Migrate = Callable[["Connection"], None]


class MigratedOnce:
    """Does what the migrations do, after it has seen them do it.

    Args:
        migrate: runs the migrations on a connection inside a transaction.
    """

    def __init__(self, migrate: Migrate) -> None:
        self._migrate = migrate
        self._made: Sequence[str] = ()

    def __call__(self, connection: "Connection") -> None:
        """Bring a database to the current schema."""
        from fpvec_audit.registry.database import is_sqlite

        if not is_sqlite(connection.engine.url) or _statements(connection):
            self._migrate(connection)
        elif not self._made:
            self._migrate(connection)
            self._made = (*_statements(connection), *_rows(connection))
        else:
            for statement in self._made:
                connection.exec_driver_sql(statement)
            changed = connection.exec_driver_sql(
                "UPDATE registry_fact SET value = ? WHERE name = 'id'", (secrets.token_hex(16),)
            )
            assert changed.rowcount == 1, "every registry has an id of its own"


def _statements(connection: "Connection") -> Sequence[str]:
    """Return what made the tables, indices and triggers of a database, in order."""
    found = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    return found.scalars().all()


def _rows(connection: "Connection") -> Sequence[str]:
    """Return what puts the rows of a fresh registry into its tables."""
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
    filled = [name for name in names if connection.exec_driver_sql(f'SELECT 1 FROM "{name}"').first() is not None]
    assert set(filled) == {"alembic_version", "registry_fact"}, f"a fresh registry has rows in {filled}"
    return [
        f'INSERT INTO "{name}" VALUES ({", ".join(_quoted(value) for value in row)})'
        for name in filled
        for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"')
    ]


def _quoted(value: object) -> str:
    assert isinstance(value, str), f"{value!r} in a fresh registry is no text"
    return "'" + value.replace("'", "''") + "'"
