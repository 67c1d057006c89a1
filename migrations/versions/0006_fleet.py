"""Let the registry remember fleet runs and what became of each of their items.

Revision: 0006
Revises: 0005

Going back loses nothing: runs and items are set aside in one plain table, from which going forward brings them back.
"""

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("fleet_run", "fleet_item")
"""Each after those that it refers to."""
ASIDE = "fpvec_aside_0006"
AT_ONCE = 500
GRANTED_BEFORE, GRANTED_NOW = "'digested_files', 'job'", "'digested_files', 'fleet_item', 'fleet_run', 'job'"
"""Names in the function that grants the roles of migration 0004."""


def upgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "fleet_run",
        sa.Column("id", text(64), nullable=False),
        sa.Column("action", text(20), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("source", text(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("state", text(20), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("job_id", text(64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_fleet_run_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_run")),
    )
    op.create_table(
        "fleet_item",
        sa.Column("run_id", text(64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", text(64), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("state", text(20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("outcome", text(40), nullable=False),
        sa.Column("result", text(64), nullable=False),
        sa.Column("error", text(), nullable=False),
        sa.Column("node", text(255), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["fleet_run.id"], name=op.f("fk_fleet_item_run_id_fleet_run")),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_fleet_item")),
        sa.UniqueConstraint("run_id", "key", name=op.f("uq_fleet_item_run_id_key")),
    )
    for columns in (("created_at", "id"), ("state", "created_at", "id")):
        op.create_index(op.f(f"ix_fleet_run_{'_'.join(columns)}"), "fleet_run", list(columns))
    op.create_index(op.f("ix_fleet_item_run_id_state_number"), "fleet_item", ["run_id", "state", "number"])
    if connection.dialect.name == "postgresql":
        change_grants(GRANTED_BEFORE, GRANTED_NOW)
        op.execute("SELECT fpvec_grant_roles()")
    if sa.inspect(connection).has_table(ASIDE):
        bring_back(connection)


def downgrade() -> None:
    connection = op.get_bind()
    set_aside(connection)
    if connection.dialect.name == "postgresql":
        change_grants(GRANTED_NOW, GRANTED_BEFORE)
    for table in reversed(TABLES):
        op.drop_table(table)


def text(length: int | None = None) -> sa.String:
    """Return a type whose values compare by code point on PostgreSQL too, as everywhere since migration 0004."""
    collation = "C" if op.get_bind().dialect.name == "postgresql" else None
    return sa.String(length, collation=collation) if length else sa.Text(collation=collation)


def change_grants(before: str, after: str) -> None:
    """Let the function that grants the roles know other tables."""
    definition = op.get_bind().scalar(sa.text("SELECT pg_get_functiondef('fpvec_grant_roles'::regproc)"))
    assert before in definition, "the function fpvec_grant_roles() is not that of migration 0005"
    op.get_bind().exec_driver_sql(definition.replace(before, after).replace("%", "%%"))


def set_aside(connection: sa.Connection) -> None:
    """Keep every row as JSON in one table that no older schema touches."""
    if not any(connection.execute(sa.select(reflected(connection, name)).limit(1)).first() for name in TABLES):
        return
    aside = op.create_table(
        ASIDE,
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_fpvec_aside_0006")),
    )
    number = 0
    for name in TABLES:
        for rows in connection.execute(sa.select(reflected(connection, name))).mappings().partitions(AT_ONCE):
            contents = [json.dumps({key: as_json(value) for key, value in row.items()}) for row in rows]
            numbered = [
                {"number": number + place, "origin": name, "content": content}
                for place, content in enumerate(contents, start=1)
            ]
            connection.execute(sa.insert(aside), numbered)
            number += len(contents)


def bring_back(connection: sa.Connection) -> None:
    """Put back what was set aside, and drop the table in which it was kept."""
    aside = sa.table(ASIDE, sa.column("number"), sa.column("origin"), sa.column("content"))
    for name in TABLES:
        table = reflected(connection, name)
        kept = connection.execute(
            sa.select(aside.c.content).where(aside.c.origin == name).order_by(aside.c.number)
        ).scalars()
        rows = [
            {key: from_json(value, table.c[key].type) for key, value in json.loads(content).items()} for content in kept
        ]
        for start in range(0, len(rows), AT_ONCE):
            connection.execute(sa.insert(table), rows[start : start + AT_ONCE])
    op.drop_table(ASIDE)


def reflected(connection: sa.Connection, name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False)


def as_json(value: Any) -> Any:
    """Write times in ISO 8601, UTC."""
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return value


def from_json(value: Any, kind: Any) -> Any:
    """Return a value as its column takes it."""
    return datetime.fromisoformat(value) if isinstance(kind, sa.DateTime) and value is not None else value
