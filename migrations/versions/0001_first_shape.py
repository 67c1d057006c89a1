"""The first shape of the registry.

Revision: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The ledger only grows. The triggers are no lock against someone who owns the database – the hash chain is what shows
# tampering – but they stop every accident and every program that means well.
LEDGER_TRIGGERS = {
    "sqlite": (
        "CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        # INSERT OR REPLACE would delete without firing the trigger above
        "CREATE TRIGGER ledger_no_replace BEFORE INSERT ON ledger WHEN EXISTS "
        "(SELECT 1 FROM ledger WHERE serial >= NEW.serial OR previous = NEW.previous OR digest = NEW.digest) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    ),
}

TABLES_LAST_FIRST = (
    "stamp_vector",
    "vector",
    "candidate",
    "vector_family",
    "mark",
    "audit",
    "attack_run",
    "stamp",
    "key_set",
    "vault_secret",
    "model",
    "licensee",
    "ledger",
    "job",
)


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("process", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_started_at"), "job", ["started_at"])
    op.create_index(op.f("ix_job_state"), "job", ["state"])

    op.create_table(
        "ledger",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.Column("event", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_ledger")),
        sa.UniqueConstraint("digest", name=op.f("uq_ledger_digest")),
        sa.UniqueConstraint("previous", name=op.f("uq_ledger_previous")),
    )
    op.create_index(op.f("ix_ledger_subject"), "ledger", ["subject"])

    op.create_table(
        "licensee",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_licensee")),
        sa.UniqueConstraint("name", name=op.f("uq_licensee_name")),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("architecture", sa.String(length=200), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.String(length=64), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["model.id"], name=op.f("fk_model_parent_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
        sa.UniqueConstraint("name", name=op.f("uq_model_name")),
    )
    op.create_index(op.f("ix_model_parent_id"), "model", ["parent_id"])
    op.create_index(op.f("ix_model_role"), "model", ["role"])

    op.create_table(
        "vault_secret",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("scheme", sa.String(length=40), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=True),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("master_key", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vault_secret")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_vault_secret_kind_subject")),
    )
    op.create_table(
        "key_set",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("licensee_id", sa.String(length=64), nullable=True),
        sa.Column("commitment", sa.JSON(), nullable=False),
        sa.Column("commitment_digest", sa.String(length=64), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("grade", sa.String(length=20), nullable=False),
        sa.Column("chance", sa.Text(), nullable=False),
        sa.Column("base_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["model.id"], name=op.f("fk_key_set_base_id_model")),
        sa.ForeignKeyConstraint(["licensee_id"], ["licensee.id"], name=op.f("fk_key_set_licensee_id_licensee")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key_set")),
        sa.UniqueConstraint("commitment_digest", name=op.f("uq_key_set_commitment_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_key_set_name")),
    )
    op.create_index(op.f("ix_key_set_base_id"), "key_set", ["base_id"])
    op.create_index(op.f("ix_key_set_licensee_id"), "key_set", ["licensee_id"])
    op.create_index(op.f("ix_key_set_root"), "key_set", ["root"])

    op.create_table(
        "stamp",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("downstream_id", sa.String(length=64), nullable=False),
        sa.Column("stamped_id", sa.String(length=64), nullable=False),
        sa.Column("licensee_id", sa.String(length=64), nullable=True),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("applied_ratio", sa.Double(), nullable=False),
        sa.Column("cosine", sa.Double(), nullable=False),
        sa.Column("policies", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["downstream_id"], ["model.id"], name=op.f("fk_stamp_downstream_id_model")),
        sa.ForeignKeyConstraint(["licensee_id"], ["licensee.id"], name=op.f("fk_stamp_licensee_id_licensee")),
        sa.ForeignKeyConstraint(["stamped_id"], ["model.id"], name=op.f("fk_stamp_stamped_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stamp")),
    )
    op.create_index(op.f("ix_stamp_downstream_id"), "stamp", ["downstream_id"])
    op.create_index(op.f("ix_stamp_licensee_id"), "stamp", ["licensee_id"])
    op.create_index(op.f("ix_stamp_stamped_id"), "stamp", ["stamped_id"])

    op.create_table(
        "attack_run",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("stamped_id", sa.String(length=64), nullable=False),
        sa.Column("key_set_id", sa.String(length=64), nullable=False),
        sa.Column("attack", sa.String(length=200), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_attack_run_key_set_id_key_set")),
        sa.ForeignKeyConstraint(["stamped_id"], ["model.id"], name=op.f("fk_attack_run_stamped_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attack_run")),
    )
    op.create_index(op.f("ix_attack_run_key_set_id"), "attack_run", ["key_set_id"])
    op.create_index(op.f("ix_attack_run_stamped_id"), "attack_run", ["stamped_id"])

    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_set_id", sa.String(length=64), nullable=False),
        sa.Column("suspect", sa.Text(), nullable=False),
        sa.Column("suspect_digest", sa.String(length=64), nullable=False),
        sa.Column("plan_digest", sa.String(length=64), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_audit_key_set_id_key_set")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_key_set_id"), "audit", ["key_set_id"])
    op.create_index(op.f("ix_audit_plan_digest"), "audit", ["plan_digest"])
    op.create_index(op.f("ix_audit_suspect_digest"), "audit", ["suspect_digest"])

    op.create_table(
        "mark",
        sa.Column("key_set_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_mark_key_set_id_key_set")),
        sa.PrimaryKeyConstraint("key_set_id", "number", name=op.f("pk_mark")),
    )
    op.create_table(
        "vector_family",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_set_id", sa.String(length=64), nullable=True),
        sa.Column("base_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["model.id"], name=op.f("fk_vector_family_base_id_model")),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_vector_family_key_set_id_key_set")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_family")),
    )
    op.create_index(op.f("ix_vector_family_base_id"), "vector_family", ["base_id"])
    op.create_index(op.f("ix_vector_family_key_set_id"), "vector_family", ["key_set_id"])

    op.create_table(
        "candidate",
        sa.Column("key_set_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mark", sa.Integer(), nullable=True),
        sa.Column("leaf", sa.String(length=64), nullable=False),
        sa.Column("burnt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("burnt_in", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["key_set_id", "mark"], ["mark.key_set_id", "mark.number"], name=op.f("fk_candidate_key_set_id_mark_mark")
        ),
        sa.ForeignKeyConstraint(["key_set_id"], ["key_set.id"], name=op.f("fk_candidate_key_set_id_key_set")),
        sa.PrimaryKeyConstraint("key_set_id", "position", name=op.f("pk_candidate")),
    )
    op.create_table(
        "vector",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("family_id", sa.String(length=64), nullable=False),
        sa.Column("mark", sa.Integer(), nullable=False),
        sa.Column("fingerprinted_id", sa.String(length=64), nullable=False),
        sa.Column("architecture", sa.String(length=200), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("inexact_elements", sa.BigInteger(), nullable=False),
        sa.Column("norm", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["family_id"], ["vector_family.id"], name=op.f("fk_vector_family_id_vector_family")),
        sa.ForeignKeyConstraint(["fingerprinted_id"], ["model.id"], name=op.f("fk_vector_fingerprinted_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector")),
        sa.UniqueConstraint("digest", name=op.f("uq_vector_digest")),
    )
    op.create_index(op.f("ix_vector_family_id"), "vector", ["family_id"])
    op.create_index(op.f("ix_vector_fingerprinted_id"), "vector", ["fingerprinted_id"])

    op.create_table(
        "stamp_vector",
        sa.Column("stamp_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("vector_id", sa.String(length=64), nullable=False),
        sa.Column("scale", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["stamp_id"], ["stamp.id"], name=op.f("fk_stamp_vector_stamp_id_stamp")),
        sa.ForeignKeyConstraint(["vector_id"], ["vector.id"], name=op.f("fk_stamp_vector_vector_id_vector")),
        sa.PrimaryKeyConstraint("stamp_id", "position", name=op.f("pk_stamp_vector")),
    )
    op.create_index(op.f("ix_stamp_vector_vector_id"), "stamp_vector", ["vector_id"])
    for statement in LEDGER_TRIGGERS.get(op.get_context().dialect.name, ()):
        op.execute(statement)


def downgrade() -> None:
    for table in TABLES_LAST_FIRST:  # indexes and triggers go with their table
        op.drop_table(table)
