"""Seal secrets, let jobs and key sets have a life, know suspects, and find things among a million.

Revision: 0004
Revises: 0003
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# On SQLite the ledger has these triggers since the first schema.
POSTGRESQL_LEDGER = (
    """
    CREATE FUNCTION fpvec_refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$
    """,
    "CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger "
    "FOR EACH STATEMENT EXECUTE FUNCTION fpvec_refuse_ledger_change()",
    "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger "
    "FOR EACH STATEMENT EXECUTE FUNCTION fpvec_refuse_ledger_change()",
    "CREATE TRIGGER ledger_no_truncate BEFORE TRUNCATE ON ledger "
    "FOR EACH STATEMENT EXECUTE FUNCTION fpvec_refuse_ledger_change()",
)

INDEXES = {
    "stamp": (
        ("created_at", "id"),
        ("licensee_id", "created_at", "id"),
        ("downstream_id", "created_at", "id"),
        ("base_id", "created_at", "id"),
        ("key_set_id", "created_at", "id"),
    ),
    "audit": (
        ("created_at", "id"),
        ("key_set_id", "created_at", "id"),
        ("verdict", "created_at", "id"),
        ("suspect_digest", "created_at", "id"),
    ),
    "model": (
        ("created_at", "id"),
        ("role", "created_at", "id"),
        ("parent_id", "created_at", "id"),
        ("base_id", "created_at", "id"),
    ),
    "key_set": (
        ("created_at", "id"),
        ("owner", "created_at", "id"),
        ("licensee_id", "created_at", "id"),
        ("base_id", "created_at", "id"),
        ("state", "created_at", "id"),
    ),
    "vector": (("created_at", "id"), ("family_id", "created_at", "id")),
    "stamp_vector": (("vector_id", "stamp_id"),),
    "licensee": (("created_at", "id"),),
    "suspect": (("first_seen_at", "id"), ("kind", "first_seen_at", "id")),
    "job": (("started_at", "id"), ("state", "started_at", "id"), ("kind", "started_at", "id")),
}
REPLACED_INDEXES = {
    "stamp": ("licensee_id", "downstream_id"),
    "audit": ("key_set_id", "suspect_digest"),
    "model": ("role", "parent_id"),
    "key_set": ("licensee_id", "base_id"),
    "vector": ("family_id",),
    "job": ("state", "started_at"),
    "stamp_vector": ("vector_id",),
}
"""Indexes of one column that one of several begins with."""

DERIVED = (("model", "base_id", "model"), ("stamp", "base_id", "model"), ("stamp", "key_set_id", "key_set"))
"""Columns that follow from others, so that things can be listed by them: (table, column, table referred to)."""

DERIVE = (
    """
    WITH RECURSIVE line(id, base) AS (
        SELECT id, id FROM model WHERE parent_id IS NULL
        UNION ALL SELECT model.id, line.base FROM model JOIN line ON model.parent_id = line.id
    )
    UPDATE model SET base_id = (SELECT line.base FROM line WHERE line.id = model.id) WHERE parent_id IS NOT NULL
    """,
    """
    UPDATE stamp SET base_id = (
        SELECT vector_family.base_id FROM stamp_vector
        JOIN vector ON vector.id = stamp_vector.vector_id JOIN vector_family ON vector_family.id = vector.family_id
        WHERE stamp_vector.stamp_id = stamp.id AND stamp_vector.position = 0
    )
    """,
    """
    UPDATE stamp SET key_set_id = (
        SELECT vector_family.key_set_id FROM stamp_vector
        JOIN vector ON vector.id = stamp_vector.vector_id JOIN vector_family ON vector_family.id = vector.family_id
        WHERE stamp_vector.stamp_id = stamp.id AND stamp_vector.position = 0
    )
    """,
)

JOB_COLUMNS = (("command", sa.JSON(), "[]"), ("directory", sa.Text(), ""), ("identity", sa.String(length=200), ""))

# A bound key set need not be trained; the ledger tells whose training ended well, the vectors what was extracted.
EMBEDDED = """
    UPDATE key_set SET state = 'embedded' WHERE base_id IS NOT NULL AND (
        EXISTS (SELECT 1 FROM vector_family WHERE vector_family.key_set_id = key_set.id)
        OR EXISTS (SELECT 1 FROM ledger WHERE ledger.event = 'model.fingerprinted'
                   AND ledger.content LIKE '%"key_set":"' || key_set.id || '"%')
    )
"""
BURNT = """
    UPDATE key_set SET state = 'burnt' WHERE state != 'pending'
    AND EXISTS (SELECT 1 FROM candidate WHERE candidate.key_set_id = key_set.id AND candidate.mark IS NOT NULL)
    AND NOT EXISTS (
        SELECT 1 FROM candidate
        WHERE candidate.key_set_id = key_set.id AND candidate.mark IS NOT NULL AND candidate.burnt_at IS NULL
    )
"""
# Who was audited, as the first audit of it has it; an endpoint is what is given by URL.
SUSPECTS = """
    INSERT INTO suspect (id, kind, location, first_seen_at)
    SELECT suspect_digest, CASE WHEN suspect LIKE 'http://%' OR suspect LIKE 'https://%' THEN 'endpoint'
                                ELSE 'checkpoint' END, suspect, created_at
    FROM (
        SELECT suspect_digest, suspect, created_at,
               ROW_NUMBER() OVER (PARTITION BY suspect_digest ORDER BY created_at, id) AS place
        FROM audit WHERE suspect_digest != ''
    ) AS met WHERE place = 1
"""


def upgrade() -> None:
    connection = op.get_bind()
    op.create_table(
        "registry_fact",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_registry_fact")),
    )
    remember("id", secrets.token_hex(16))
    op.create_table(
        "master_key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("derivation", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_master_key")),
    )
    op.create_table(
        "data_key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_set_id", sa.String(length=64), nullable=True),
        sa.Column("master_key_id", sa.String(length=64), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_data_key_key_set_id_key_set")),
        sa.ForeignKeyConstraint(
            ["master_key_id"], ["master_key.id"], name=op.f("fk_data_key_master_key_id_master_key")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_key")),
        sa.UniqueConstraint("key_set_id", name=op.f("uq_data_key_key_set_id")),
    )
    op.create_index(op.f("ix_data_key_master_key_id"), "data_key", ["master_key_id"])
    # The rows themselves are sealed by the program (registry/upkeep.py), which has the master key; until then, and
    # until no page of the file holds what they were, this fact stands.
    if holds_rows("vault_secret") or holds_rows("audit_record"):
        remember("plaintext", "rows")
    for table, added in (("vault_secret", ("nonce", "wrapped_key", "master_key")), ("audit_record", ())):
        with op.batch_alter_table(table) as batch:
            for column in added:
                batch.drop_column(column)
            batch.add_column(sa.Column("data_key_id", sa.String(length=64), nullable=True))
            batch.create_foreign_key(op.f(f"fk_{table}_data_key_id_data_key"), "data_key", ["data_key_id"], ["id"])
            batch.create_index(op.f(f"ix_{table}_data_key_id"), ["data_key_id"])
    op.create_table(
        "model_tensor",
        sa.Column("content", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_model_tensor_model_id_model")),
        sa.PrimaryKeyConstraint("content", "model_id", name=op.f("pk_model_tensor")),
        sqlite_with_rowid=False,
    )
    if holds_rows("model_manifest"):
        remember("sketches", "due")  # the program makes model_tensor of the manifests that are there
    op.create_table(
        "suspect",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suspect")),
    )
    op.add_column("key_set", sa.Column("state", sa.String(length=20), nullable=False, server_default="issued"))
    op.execute("UPDATE key_set SET state = 'pending' WHERE grade = 'pending'")
    op.execute(EMBEDDED)
    op.execute(BURNT)
    op.execute(SUSPECTS)
    with op.batch_alter_table("key_set") as batch:
        batch.alter_column("state", existing_type=sa.String(length=20), existing_nullable=False, server_default=None)
    for table, column, referred in DERIVED:
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column(column, sa.String(length=64), nullable=True))
            batch.create_foreign_key(op.f(f"fk_{table}_{column}_{referred}"), referred, [column], ["id"])
    for statement in DERIVE:
        op.execute(statement)
    for name, kind, value in JOB_COLUMNS:
        op.add_column("job", sa.Column(name, kind, nullable=False, server_default=value))
    with op.batch_alter_table("job") as batch:
        batch.add_column(sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("cancel_asked_at", sa.DateTime(timezone=True), nullable=True))
        for name, kind, _ in JOB_COLUMNS:
            batch.alter_column(name, existing_type=kind, existing_nullable=False, server_default=None)
    for table, groups in INDEXES.items():
        for columns in groups:
            op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))
        for column in REPLACED_INDEXES.get(table, ()):
            op.drop_index(op.f(f"ix_{table}_{column}"), table)
    if connection.dialect.name == "postgresql":
        compare_text('"C"')
        for statement in POSTGRESQL_LEDGER:
            op.execute(statement)


def downgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        for name in ("update", "delete", "truncate"):
            op.execute(f"DROP TRIGGER ledger_no_{name} ON ledger")
        op.execute("DROP FUNCTION fpvec_refuse_ledger_change()")
        compare_text('"default"')
    for table, groups in INDEXES.items():
        for column in REPLACED_INDEXES.get(table, ()):
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
        for columns in groups:
            op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table)
    for table, column, referred in DERIVED:
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(op.f(f"fk_{table}_{column}_{referred}"), type_="foreignkey")
            batch.drop_column(column)
    with op.batch_alter_table("job") as batch:
        for column in ("command", "directory", "identity", "heartbeat_at", "cancel_asked_at"):
            batch.drop_column(column)
    with op.batch_alter_table("key_set") as batch:
        batch.drop_column("state")
    op.drop_table("suspect")
    op.drop_table("model_tensor")
    for table, removed in (("audit_record", ()), ("vault_secret", ("nonce", "wrapped_key", "master_key"))):
        with op.batch_alter_table(table) as batch:
            batch.drop_index(op.f(f"ix_{table}_data_key_id"))
            batch.drop_constraint(op.f(f"fk_{table}_data_key_id_data_key"), type_="foreignkey")
            batch.drop_column("data_key_id")
            for column in removed:
                kind = sa.String(length=64) if column == "master_key" else sa.LargeBinary()
                batch.add_column(sa.Column(column, kind, nullable=True))
    for table in ("data_key", "master_key", "registry_fact"):
        op.drop_table(table)


def compare_text(collation: str) -> None:
    """Compare texts by code point, as SQLite does: under the rules of some languages "aa" is one letter, after z."""
    connection = op.get_bind()
    texts = connection.execute(
        sa.text(
            "SELECT t.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a "
            "JOIN pg_class t ON t.oid = a.attrelid WHERE t.relnamespace = current_schema()::regnamespace "
            "AND t.relkind = 'r' AND t.relname <> 'alembic_version' AND a.attnum > 0 AND NOT a.attisdropped "
            "AND a.atttypid IN ('varchar'::regtype, 'text'::regtype) ORDER BY t.relname, a.attnum"
        )
    )
    changes: dict[str, list[str]] = {}
    for table, column, kind in texts:
        changes.setdefault(table, []).append(f"ALTER {column} TYPE {kind} COLLATE {collation}")
    for table, columns in changes.items():
        op.execute(f"ALTER TABLE {table} {', '.join(columns)}")


def holds_rows(table: str) -> bool:
    return op.get_bind().execute(sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)).first() is not None


def remember(name: str, value: str) -> None:
    facts = sa.table("registry_fact", sa.column("name"), sa.column("value"))
    op.bulk_insert(facts, [{"name": name, "value": value}])
