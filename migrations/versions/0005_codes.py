"""Let a key set of several marks have a code, and licensees words of it.

Revision: 0005
Revises: 0004

Going back loses nothing: codes and words are set aside in one plain table, from which going forward brings them back.
"""

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("code", "code_word")
"""Each after those that it refers to."""
ASIDE = "fpvec_aside_0005"
AT_ONCE = 500
GRANTED_BEFORE, GRANTED_NOW = "'candidate', 'data_key'", "'candidate', 'code', 'code_word', 'data_key'"
"""Names in the function that grants the roles of migration 0004."""


def upgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "code",
        sa.Column("id", text(64), nullable=False),
        sa.Column("key_set_id", text(64), nullable=False),
        sa.Column("text", text(200), nullable=False),
        sa.Column("colluders", sa.Integer(), nullable=False),
        sa.Column("epsilon", text(), nullable=False),
        sa.Column("binding", text(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_code_key_set_id_key_set")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_code")),
        sa.UniqueConstraint("key_set_id", name=op.f("uq_code_key_set_id")),
    )
    op.create_table(
        "code_word",
        sa.Column("id", text(64), nullable=False),
        sa.Column("code_id", text(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("licensee_id", text(64), nullable=False),
        sa.Column("commitment", text(64), nullable=False),
        sa.Column("state", text(20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["code_id"], ["code.id"], name=op.f("fk_code_word_code_id_code")),
        sa.ForeignKeyConstraint(["licensee_id"], ["licensee.id"], name=op.f("fk_code_word_licensee_id_licensee")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_code_word")),
        sa.UniqueConstraint("code_id", "number", name=op.f("uq_code_word_code_id_number")),
        sa.UniqueConstraint("commitment", name=op.f("uq_code_word_commitment")),
    )
    for columns in (("licensee_id", "code_id"), ("code_id", "created_at", "id")):
        op.create_index(op.f(f"ix_code_word_{'_'.join(columns)}"), "code_word", list(columns))
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
    assert before in definition, "the function fpvec_grant_roles() is not that of migration 0004"
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
        sa.PrimaryKeyConstraint("number", name=op.f("pk_fpvec_aside_0005")),
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
