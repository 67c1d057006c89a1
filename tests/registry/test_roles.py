"""Who may do what on PostgreSQL, with real logins."""

import psycopg
import pytest
from sqlalchemy import make_url, text

from fpvec_audit.domain.records import JobState
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry import schema
from fpvec_audit.registry.database import make_engine
from fpvec_audit.registry.roles import SECRET_COLUMNS
from fpvec_audit.registry.tables import Base, VaultSecretRow
from fpvec_audit.services.history import ledger_entries
from fpvec_audit.services.keys import list_key_sets
from fpvec_audit.services.registry import check_registry
from fpvec_audit.services.verification import verify_registry
from tests.registry.builders import (
    audit_record,
    key_set_record,
    model_record,
    opened_at,
    secret,
    stamp_record,
    vector_record,
)
from tests.registry.filled import fill, recorded_audit


class Server:
    """A registry on PostgreSQL that was filled by the owner of its tables, and logins to it."""

    def __init__(self, postgresql, url, key_file):
        self.postgresql, self.url, self.key_file = postgresql, url, key_file
        with opened_at(url, key_file=key_file) as registry:
            fill(registry)

    @property
    def database(self):
        return make_url(self.url).database

    def login(self, name, role=None):
        """Make a login, if it is missing, and return the URL with which it comes in."""
        if not self.postgresql.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):
            member = f"IN ROLE {role}" if role else ""
            self.postgresql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' {member}")
        return self.postgresql.url(self.database, user=name, password="x")

    def opened(self, name, role):
        # The key file of an auditor does not exist, and must not be made.
        return opened_at(self.login(name, role), key_file=self.key_file.with_name("none.key"))

    def refused(self, name, role, statement):
        address = self.login(name, role).replace("+psycopg", "")
        with (
            psycopg.connect(address, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)


@pytest.fixture
def server(postgresql, tmp_path):
    return Server(postgresql, postgresql.with_schema(), tmp_path / "home" / "vault.key")


@pytest.fixture(scope="module")
def shared(postgresql, tmp_path_factory):
    """A server for what is refused anyway."""
    return Server(postgresql, postgresql.with_schema(), tmp_path_factory.mktemp("home") / "vault.key")


@pytest.mark.parametrize(("table", "column"), SECRET_COLUMNS)
def test_auditor_cannot_read_what_is_sealed(shared, table, column):
    shared.refused("alice", "fpvec_auditor", f"SELECT {column} FROM {table}")
    shared.refused("alice", "fpvec_auditor", f"SELECT * FROM {table}")
    shared.refused("alice", "fpvec_auditor", f"COPY {table} TO STDOUT")


@pytest.mark.parametrize("role", ["fpvec_auditor", "fpvec_custodian"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET event = 'x'",
        "DELETE FROM ledger",
        "TRUNCATE ledger",
        "UPDATE recorded_audit SET verdict = 'NO_MATCH'",
        "DELETE FROM recorded_audit",
        "ALTER TABLE ledger DISABLE TRIGGER ALL",
        "DROP TRIGGER ledger_no_update ON ledger",
        "ALTER TABLE ledger ADD COLUMN more text",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE stamp",
        "TRUNCATE stamp",
        "DELETE FROM stamp",
        "CREATE TABLE mine (id int)",
        "SET session_replication_role = replica",
    ],
)
def test_neither_role_changes_the_past_or_the_schema(shared, role, statement):
    shared.refused("alice" if role == "fpvec_auditor" else "carol", role, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO licensee VALUES ('x', 'x', now())",
        "UPDATE audit SET verdict = 'NO_MATCH'",
        "UPDATE key_set SET state = 'retired'",
        "DELETE FROM job",
        "UPDATE registry_fact SET value = ''",
        "INSERT INTO ledger VALUES (99, '', 'key_set.issued', '', '{}', 'p', 'd')",
    ],
)
def test_auditor_records_audits_that_were_handed_over_and_nothing_else(shared, statement):
    shared.refused("alice", "fpvec_auditor", statement)


def test_login_without_a_role_is_told_what_it_lacks(server):
    with pytest.raises(RegistryError, match="does not allow that to this user") as caught:
        opened_at(server.login("nobody_in_particular"), key_file=server.key_file)
    assert "role" in caught.value.advice


def test_auditor_lists_and_verifies_everything_without_a_master_key(server):
    with server.opened("alice", "fpvec_auditor") as registry:
        with registry.snapshot() as uow:
            assert len(uow.models.list()) == 3
            assert len(uow.key_sets.list()) == 1
            assert len(uow.vectors.list()) == 1
            assert len(uow.stamps.list()) == 1
            assert len(uow.audits.list()) == 1
            assert uow.audits.has_records(audit_record("").id)
            assert len(uow.attack_runs.list()) == 1
            assert len(uow.jobs.list()) == 2
            assert len(uow.recorded_audits.list()) == 1
            assert uow.session.query(VaultSecretRow).one().kind == "key_set"
        assert list_key_sets(registry=registry)
        assert ledger_entries(registry=registry)
        found = verify_registry(registry=registry).to_json()
        assert check_registry(server.login("alice")).current
    with opened_at(server.url, key_file=server.key_file) as registry:
        assert verify_registry(registry=registry).to_json() == found
    assert not server.key_file.with_name("none.key").exists()


def test_auditor_cannot_reveal_a_secret_even_with_the_master_key(server):
    with (
        opened_at(server.login("alice", "fpvec_auditor"), key_file=server.key_file) as registry,
        pytest.raises(RegistryError, match="does not allow that"),
        registry.unit_of_work() as uow,
    ):
        uow.vault.reveal(key_set_record().id)


def test_auditor_records_an_audit_that_was_handed_over(server):
    with server.opened("alice", "fpvec_auditor") as registry:
        with registry.unit_of_work() as uow:
            uow.recorded_audits.add(recorded_audit("9"))
        with registry.snapshot() as uow:
            assert uow.recorded_audits.find(recorded_audit("9").id) == recorded_audit("9")
            assert uow.ledger.entries()[-1].event == "recorded_audit.added"
            assert uow.ledger.verify() is None


def test_custodian_does_what_a_registry_is_for(server):
    with opened_at(server.login("carol", "fpvec_custodian"), key_file=server.key_file) as registry:
        with registry.unit_of_work() as uow:
            uow.models.add(model_record("new", digit="e"))
            record = key_set_record("second", seed=1, base=None)
            uow.key_sets.add(record, secret(1))
            uow.key_sets.bind(record.id, "e" * 64)
            uow.key_sets.burn(record.id, [0, 1], where="au-1")
            uow.vectors.add(
                vector_record(digit="9", key_set=record.id, base="e" * 64, fingerprinted="b" * 64, family="fam-2")
            )
            uow.stamps.add(stamp_record(id="st-2", vectors=(("vec-" + "9" * 16, 1.0),)))
            uow.audits.plan(audit_record(record.id, id="au-2"))
            uow.audits.finish("au-2", verdict="MATCH", result={})
            job = uow.jobs.start("stamp", {})
            uow.jobs.finish(job.id, JobState.SUCCEEDED, {})
            assert uow.vault.reveal(record.id) == secret(1)
            uow.recorded_audits.add(recorded_audit("8"))
        with registry.snapshot() as uow:
            assert uow.ledger.verify() is None


def test_every_table_is_granted(server):
    engine = make_engine(server.url)
    with engine.connect() as connection:
        for table in Base.metadata.tables:
            for role in ("fpvec_auditor", "fpvec_custodian"):
                statement = text("SELECT has_any_column_privilege(:role, :table, 'SELECT')")
                assert connection.scalar(statement, {"role": role, "table": table}), (role, table)
    engine.dispose()


def test_roles_that_the_owner_may_not_make_are_what_check_asks_for(postgresql, tmp_path):
    url = postgresql.fresh()
    name = make_url(url).database
    postgresql.execute("DO $$ BEGIN CREATE ROLE modest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    postgresql.execute(f"ALTER DATABASE {name} OWNER TO modest")
    roles = ("fpvec_auditor", "fpvec_custodian")
    for role in roles:  # as on a server where nobody made them
        if _has(postgresql, role):
            postgresql.execute(f"ALTER ROLE {role} RENAME TO {role}_away")
    try:
        owner = postgresql.url(name, user="modest")
        opened_at(owner, key_file=tmp_path / "vault.key").close()
        state = check_registry(owner)
        assert state.current
        assert "CREATE ROLE fpvec_auditor NOLOGIN" in state.remarks[0]
        postgresql.execute("SELECT fpvec_grant_roles()", database=name)
        assert check_registry(owner).remarks == ()
        postgresql.execute("GRANT SELECT ON vault_secret TO fpvec_auditor", database=name)
        postgresql.execute("GRANT DELETE ON ledger TO fpvec_custodian", database=name)
        problems = check_registry(owner).problems
        assert len(problems) == 2
        assert "vault_secret.ciphertext" in problems[1]
    finally:
        for role in roles:
            postgresql.execute(f"DROP OWNED BY {role}", database=name)
            postgresql.execute(f"DROP ROLE IF EXISTS {role}")
            if _has(postgresql, f"{role}_away"):
                postgresql.execute(f"ALTER ROLE {role}_away RENAME TO {role}")


def test_downgrade_takes_the_grants_back_and_leaves_the_roles(server):
    from alembic import command
    from alembic.config import Config

    from fpvec_audit.registry.schema import migrations_directory

    server.login("alice", "fpvec_auditor")
    engine = make_engine(server.url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations_directory()))
        command.downgrade(config, "0003")
    engine.dispose()
    server.refused("alice", "fpvec_auditor", "SELECT * FROM licensee")
    assert _has(server.postgresql, "fpvec_auditor")
    with opened_at_upgraded(server) as registry, registry.snapshot() as uow:
        assert len(uow.models.list()) == 3


def opened_at_upgraded(server):
    engine = make_engine(server.url)
    schema.upgrade(engine)
    engine.dispose()
    return server.opened("alice", "fpvec_auditor")


def _has(postgresql, role):
    return bool(postgresql.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"))
