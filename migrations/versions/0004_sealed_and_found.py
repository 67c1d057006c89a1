"""Seal secrets, let jobs and key sets have a life, know suspects, and find things among a million.

Revision: 0004
Revises: 0003

Going back loses nothing: every row is set aside in one plain table, from which going forward again brings back what is
missing. Rows that are still there keep what an older program made of them meanwhile.
"""

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

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

# What nobody but a custodian may select.
SECRET_COLUMNS = ("vault_secret.ciphertext", "data_key.wrapped", "audit_record.content")
REGISTRY_TABLES = (
    "alembic_version", "attack_run", "audit", "audit_record", "candidate", "data_key", "digested_files", "job",
    "key_set", "ledger", "licensee", "mark", "master_key", "model", "model_manifest", "model_tensor", "recorded_audit",
    "registry_fact", "stamp", "stamp_vector", "suspect", "vault_secret", "vector", "vector_family",
)  # fmt: skip
HISTORY = ("ledger", "recorded_audit")
"""Nobody changes what they hold, both roles add to them."""
EMPTIED = ("registry_fact", "model_tensor")
"""Tables whose rows a custodian may delete."""

# Roles belong to the whole server, so that they may be there already, and not everybody may make one. An administrator
# can call the function again, and it does what is still missing.
POSTGRESQL_GRANT_ROLES = f"""
    CREATE FUNCTION fpvec_grant_roles() RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        place CONSTANT regnamespace := (SELECT relnamespace FROM pg_class WHERE oid = 'ledger'::regclass);
        item text;
        readable text;
        missing text := '';
    BEGIN
        FOREACH item IN ARRAY ARRAY['fpvec_auditor', 'fpvec_custodian'] LOOP
            IF to_regrole(item) IS NULL THEN
                BEGIN
                    EXECUTE format('CREATE ROLE %I NOLOGIN', item);
                EXCEPTION
                    WHEN insufficient_privilege THEN missing := concat_ws(', ', nullif(missing, ''), item);
                    WHEN duplicate_object OR unique_violation THEN NULL;
                END;
            END IF;
            IF to_regrole(item) IS NOT NULL AND NOT has_schema_privilege(item, place::oid, 'USAGE') THEN
                EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', place, item);
            END IF;
        END LOOP;
        FOREACH item IN ARRAY ARRAY[{", ".join(f"'{table}'" for table in REGISTRY_TABLES)}] LOOP
            IF to_regrole('fpvec_auditor') IS NOT NULL THEN
                SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO readable FROM pg_attribute
                WHERE attrelid = format('%s.%I', place, item)::regclass AND attnum > 0 AND NOT attisdropped
                AND item || '.' || attname NOT IN ({", ".join(f"'{column}'" for column in SECRET_COLUMNS)});
                EXECUTE format('GRANT SELECT (%s) ON %s.%I TO fpvec_auditor', readable, place, item);
                IF item IN ({", ".join(f"'{table}'" for table in HISTORY)}) THEN
                    EXECUTE format('GRANT INSERT ON %s.%I TO fpvec_auditor', place, item);
                END IF;
            END IF;
            IF to_regrole('fpvec_custodian') IS NOT NULL THEN
                EXECUTE format('GRANT SELECT ON %s.%I TO fpvec_custodian', place, item);
                IF item <> 'alembic_version' THEN
                    EXECUTE format('GRANT INSERT ON %s.%I TO fpvec_custodian', place, item);
                    IF item NOT IN ({", ".join(f"'{table}'" for table in HISTORY)}) THEN
                        EXECUTE format('GRANT UPDATE ON %s.%I TO fpvec_custodian', place, item);
                    END IF;
                END IF;
                IF item IN ({", ".join(f"'{table}'" for table in EMPTIED)}) THEN
                    EXECUTE format('GRANT DELETE ON %s.%I TO fpvec_custodian', place, item);
                END IF;
            END IF;
        END LOOP;
        IF to_regrole('fpvec_custodian') IS NOT NULL THEN
            EXECUTE format('GRANT ALL ON SEQUENCE %s TO fpvec_custodian', pg_get_serial_sequence('vault_secret', 'id'));
        END IF;
        RETURN missing;
    END $$
    """  # noqa: S608 - all names are written above
# Whoever may not keep secrets records audits that were handed over, and nothing else.
POSTGRESQL_LEDGER_ENTRY = (
    """
    CREATE FUNCTION fpvec_check_ledger_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.event <> 'recorded_audit.added'
        AND NOT has_table_privilege(format('%I.vault_secret', TG_TABLE_SCHEMA), 'INSERT') THEN
            RAISE EXCEPTION 'permission denied to record the event %', NEW.event USING ERRCODE = '42501';
        END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER ledger_entry_allowed BEFORE INSERT ON ledger "
    "FOR EACH ROW EXECUTE FUNCTION fpvec_check_ledger_entry()",
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
# A registry that comes back from an older schema: what its owner said about its key sets stands in the ledger.
ENDED = """
    UPDATE key_set SET state = '{state}' WHERE EXISTS (
        SELECT 1 FROM ledger WHERE ledger.subject = key_set.id AND ledger.event = 'key_set.{state}'
    )
"""
# The program records who was audited (registry/upkeep.py), since every suspect has an entry in the ledger.
UNMET = """
    SELECT 1 FROM audit WHERE suspect_digest != ''
    AND NOT EXISTS (SELECT 1 FROM suspect WHERE suspect.id = audit.suspect_digest) LIMIT 1
"""

ASIDE = "fpvec_aside"
TABLES_FIRST_FIRST = (
    "registry_fact",
    "licensee",
    "model",
    "model_manifest",
    "model_tensor",
    "digested_files",
    "key_set",
    "mark",
    "candidate",
    "vector_family",
    "vector",
    "stamp",
    "stamp_vector",
    "suspect",
    "audit",
    "master_key",
    "data_key",
    "audit_record",
    "attack_run",
    "recorded_audit",
    "job",
    "vault_secret",
    "ledger",
)
"""Every table that holds something, each after those that it refers to."""
BROUGHT_BACK = {
    "job": ("command", "directory", "identity", "heartbeat_at", "cancel_asked_at"),
    "vault_secret": ("data_key_id",),
    "audit_record": ("data_key_id",),
    "audit": ("begin",),
}
"""Columns that older schemas lack: where a row is still there, they alone come back."""
LINEAGE = ("parent_id", "base_id")
"""What in a model refers to another one."""
AT_ONCE = 500


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
    if holds_plaintext():
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
    op.create_table(
        "recorded_audit",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("audit", sa.Text(), nullable=False),
        sa.Column("key_set", sa.Text(), nullable=False),
        sa.Column("commitment", sa.String(length=64), nullable=False),
        sa.Column("suspect", sa.Text(), nullable=False),
        sa.Column("suspect_digest", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("alpha", sa.Text(), nullable=False),
        sa.Column("grade", sa.String(length=20), nullable=False),
        sa.Column("signer", sa.String(length=64), nullable=False),
        sa.Column("key_from", sa.String(length=20), nullable=False),
        sa.Column("ordering", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recorded_audit")),
    )
    op.create_index(op.f("ix_recorded_audit_bundle"), "recorded_audit", ["bundle"])
    op.create_index(op.f("ix_recorded_audit_recorded_at_id"), "recorded_audit", ["recorded_at", "id"])
    op.add_column("key_set", sa.Column("state", sa.String(length=20), nullable=False, server_default="issued"))
    op.execute("UPDATE key_set SET state = 'pending' WHERE grade = 'pending'")
    op.execute(EMBEDDED)
    op.execute(BURNT)
    for state in ("retired", "compromised"):
        op.execute(ENDED.format(state=state))
    for table, column, referred in DERIVED:  # in place: other tables refer to these
        constraint = op.f(f"fk_{table}_{column}_{referred}")
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN {column} VARCHAR(64) CONSTRAINT {constraint} REFERENCES {referred} (id)"
        )
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
        for statement in (*POSTGRESQL_LEDGER, *POSTGRESQL_LEDGER_ENTRY, POSTGRESQL_GRANT_ROLES):
            op.execute(statement)
        op.execute("SELECT fpvec_grant_roles()")
    if sa.inspect(connection).has_table(ASIDE):
        bring_back(connection)
    if connection.execute(sa.text(UNMET)).first() is not None:
        remember("suspects", "due")


def downgrade() -> None:
    connection = op.get_bind()
    set_aside(connection)
    if connection.dialect.name == "postgresql":
        for name in ("update", "delete", "truncate"):
            op.execute(f"DROP TRIGGER ledger_no_{name} ON ledger")
        op.execute("DROP FUNCTION fpvec_refuse_ledger_change()")
        op.execute("DROP TRIGGER ledger_entry_allowed ON ledger")
        op.execute("DROP FUNCTION fpvec_check_ledger_entry()")
        op.execute("DROP FUNCTION fpvec_grant_roles()")
        take_grants_back(connection)
        compare_text('"default"')
    for table, groups in INDEXES.items():
        for column in REPLACED_INDEXES.get(table, ()):
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
        for columns in groups:
            op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table)
    for table, column, _ in DERIVED:
        op.drop_column(table, column)
    with op.batch_alter_table("job") as batch:
        for column in ("command", "directory", "identity", "heartbeat_at", "cancel_asked_at"):
            batch.drop_column(column)
    op.drop_column("key_set", "state")  # in place: other tables refer to this one
    op.drop_table("recorded_audit")
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


def take_grants_back(connection: sa.Connection) -> None:
    """Leave the roles themselves: other databases of the server may use them, and logins may be their members."""
    place = connection.scalar(sa.text("SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'ledger'::regclass"))
    for role in ("fpvec_auditor", "fpvec_custodian"):
        if connection.scalar(sa.text("SELECT to_regrole(:role) IS NOT NULL").bindparams(role=role)):
            for kind in ("TABLES", "SEQUENCES"):
                op.execute(f"REVOKE ALL ON ALL {kind} IN SCHEMA {place} FROM {role}")


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


def holds_plaintext() -> bool:
    """Return whether a secret lies in the clear, as all did before this schema."""
    plain = "SELECT 1 FROM {} WHERE scheme = 'plain' LIMIT 1"
    statements = (sa.text(plain.format(table)) for table in ("vault_secret", "audit_record"))
    return any(op.get_bind().execute(statement).first() is not None for statement in statements)


def remember(name: str, value: str) -> None:
    facts = sa.table("registry_fact", sa.column("name"), sa.column("value"))
    op.bulk_insert(facts, [{"name": name, "value": value}])


def set_aside(connection: sa.Connection) -> None:
    """Keep every row of every table as JSON in one table that no older schema touches."""
    if not any(holds_rows(table) for table in TABLES_FIRST_FIRST if table != "registry_fact"):
        return
    aside = op.create_table(
        ASIDE,
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_fpvec_aside")),
    )
    number = 0
    for name in TABLES_FIRST_FIRST:
        table = reflected(connection, name)
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        for rows in found.mappings().partitions(AT_ONCE):
            contents = [json.dumps({key: as_json(value) for key, value in row.items()}) for row in rows]
            numbered = [
                {"number": number + place, "origin": name, "content": content}
                for place, content in enumerate(contents, start=1)
            ]
            connection.execute(sa.insert(aside), numbered)
            number += len(contents)


def bring_back(connection: sa.Connection) -> None:
    """Put back what is missing, and drop the table in which it was kept."""
    lineage: list[dict[str, str | None]] = []
    for name in TABLES_FIRST_FIRST:
        table = reflected(connection, name)
        for rows in kept(connection, table):
            wanted = {tuple(row[key.name] for key in table.primary_key.columns): row for row in rows}
            there = rows_by_key(connection, table, wanted)
            for key, row in there.items():
                return_columns(connection, table, row, wanted[key])
            missing = [row for key, row in wanted.items() if key not in there]
            if name == "model":  # a parent or a base may come after its children
                lineage += [{"model": row["id"]} | {key: row[key] for key in LINEAGE} for row in missing]
                missing = [row | dict.fromkeys(LINEAGE) for row in missing]
            if missing:
                connection.execute(sa.insert(table), missing)
        if name == "model" and lineage:
            statement = sa.update(table).where(table.c.id == sa.bindparam("model"))
            connection.execute(statement.values({key: sa.bindparam(key) for key in LINEAGE}), lineage)
    if connection.dialect.name == "postgresql":
        connection.execute(
            sa.text(
                "SELECT setval(pg_get_serial_sequence('vault_secret', 'id'), "
                "(SELECT coalesce(max(id), 0) + 1 FROM vault_secret), false)"
            )
        )
    op.drop_table(ASIDE)


def return_columns(connection: sa.Connection, table: sa.Table, row: Any, kept_row: dict[str, Any]) -> None:
    """Give a row that is still there the columns back that an older schema did not have."""
    changed = {name: kept_row[name] for name in BROUGHT_BACK.get(table.name, ()) if row[name] in (None, [], "")}
    if table.name == "registry_fact" and row["name"] == "id":
        changed = {"value": kept_row["value"]}
    if table.name == "key_set":
        as_before = (row["grade"], row["base_id"]) == (kept_row["grade"], kept_row["base_id"])
        if as_before or kept_row["state"] not in ("pending", "issued", "embedded"):
            changed = {"state": kept_row["state"]}
    if table.name == "ledger" and row["digest"] != kept_row["digest"]:
        raise CommandError(
            f"ledger entry {row['serial']} is another one than the one that was set aside in {ASIDE}: this database "
            "holds the history of two registries; restore a backup of one of them"
        )
    changed = {name: value for name, value in changed.items() if row[name] != value}
    if changed:
        keys = [key == row[key.name] for key in table.primary_key.columns]
        connection.execute(sa.update(table).where(*keys).values(changed))


def kept(connection: sa.Connection, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a table that were set aside, a few at a time and in order."""
    aside = sa.table(ASIDE, sa.column("number"), sa.column("origin"), sa.column("content"))
    ordered = sa.select(aside).where(aside.c.origin == table.name).order_by(aside.c.number).limit(AT_ONCE)
    found = connection.execute(ordered).all()
    while found:
        contents = [json.loads(row.content) for row in found]
        yield [{key: from_json(value, table.c[key].type) for key, value in row.items()} for row in contents]
        found = connection.execute(ordered.where(aside.c.number > found[-1].number)).all()


def rows_by_key(
    connection: sa.Connection, table: sa.Table, wanted: dict[tuple[Any, ...], Any]
) -> dict[tuple[Any, ...], Any]:
    """Return the rows with these keys that are there."""
    keys = list(table.primary_key.columns)
    chosen = keys[0].in_([key[0] for key in wanted]) if len(keys) == 1 else sa.tuple_(*keys).in_(list(wanted))
    found = connection.execute(sa.select(table).where(chosen)).mappings()
    return {tuple(row[key.name] for key in keys): row for row in found}


def reflected(connection: sa.Connection, name: str) -> sa.Table:
    """Return a table as it is, with JSON in which a missing value stays missing."""
    table = sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False)
    for each in table.columns:
        if isinstance(each.type, sa.JSON):
            each.type = sa.JSON(none_as_null=True)
    return table


def as_json(value: Any) -> Any:
    """Write bytes as hexadecimal digits and times in ISO 8601, UTC."""
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return bytes(value).hex() if isinstance(value, (bytes, memoryview)) else value


def from_json(value: Any, kind: Any) -> Any:
    """Return a value as its column takes it."""
    if value is None:
        return None
    if isinstance(kind, sa.LargeBinary):
        return bytes.fromhex(value)
    return datetime.fromisoformat(value) if isinstance(kind, sa.DateTime) else value
