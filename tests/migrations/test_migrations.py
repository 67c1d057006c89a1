"""The migrations as a developer runs them: `alembic …` in the repository root."""

import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from sqlite3 import connect

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from fpvec_audit.domain.records import KeySetState
from fpvec_audit.registry.database import make_engine
from fpvec_audit.registry.tables import Base
from tests.registry.builders import (
    START,
    audit_record,
    key_set_record,
    model_record,
    opened,
    secret,
    stamp_record,
    url_of,
    vector_record,
)

pytestmark = pytest.mark.usefixtures("real_migrations")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "registry.db"


def config_for(file):
    config = Config(ROOT / "alembic.ini")
    config.cmd_opts = type("Options", (), {"x": [f"url={url_of(file)}"]})()
    return config


def tables_of(file):
    engine = make_engine(url_of(file))
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def test_upgrade_makes_every_table(file):
    command.upgrade(config_for(file), "head")
    assert tables_of(file) == set(Base.metadata.tables) | {"alembic_version"}


def test_check_finds_no_drift(file):
    command.upgrade(config_for(file), "head")
    command.check(config_for(file))


def test_downgrade_leaves_nothing_and_can_be_taken_back(file):
    config = config_for(file)
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    assert tables_of(file) == {"alembic_version"}
    command.upgrade(config, "head")
    command.check(config)


def test_upgrade_of_a_filled_registry_keeps_everything(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record("fingerprinted", digit="b"))
        uow.key_sets.add(key_set_record(), secret())
        uow.vectors.add(vector_record(key_set=key_set_record().id))
        uow.stamps.add(stamp_record())
        before = uow.ledger.entries()
    command.upgrade(config_for(file), "head")
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme") == key_set_record()
        assert uow.vault.reveal(key_set_record().id) == secret()
        assert uow.stamps.list() == (stamp_record(),)
        assert uow.ledger.entries()[: len(before)] == before
        assert uow.ledger.verify() is None


def test_registry_of_the_first_schema_is_upgraded_with_all_it_holds(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    command.downgrade(config_for(file), "0001")
    assert "model_manifest" not in tables_of(file)
    command.upgrade(config_for(file), "head")
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.models.list() == (model_record(),)
        assert uow.models.manifest(model_record().id) is None


def test_registry_made_by_alembic_is_one_that_the_program_opens(file):
    command.upgrade(config_for(file), "head")
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.ledger.append("thing.done", "thing", {}).serial == 1


def test_history_is_protected_by_triggers(file):
    command.upgrade(config_for(file), "head")
    with closing(connect(file)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger'")
        assert {name for (name,) in names} == {"ledger_no_update", "ledger_no_delete", "ledger_no_replace"}


def test_every_constraint_has_a_name_that_a_later_migration_can_use(file):
    command.upgrade(config_for(file), "head")
    with closing(connect(file)) as connection:
        for (statement,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND sql LIKE '%('"):
            assert statement.count("FOREIGN KEY") + statement.count("UNIQUE") <= statement.count("CONSTRAINT")
    for table in Base.metadata.tables.values():
        assert all(constraint.name for constraint in table.constraints)


def test_revisions_are_numbered_without_branches():
    revisions = [script.revision for script in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()]
    assert revisions == [f"{number:04d}" for number in range(len(revisions), 0, -1)]


@pytest.mark.parametrize("words", [["-x", "url={url}", "upgrade", "head"], ["upgrade", "head"]])
def test_command_line_works_from_the_repository_root(file, words):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(file.parent), "FPVEC_REGISTRY": url_of(file)}
    command_line = [sys.executable, "-m", "alembic", *(word.format(url=url_of(file)) for word in words)]
    subprocess.run(command_line, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert "ledger" in tables_of(file)


def test_suspects_and_states_of_key_sets_are_told_from_what_is_recorded(file):
    names = ("issued", "embedded", "burnt", "retired", "compromised")
    sets = {name: key_set_record(name, seed=seed) for seed, name in enumerate(names)}
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
        for seed, record in enumerate(sets.values()):
            uow.key_sets.add(record, secret(seed))
            uow.key_sets.bind(record.id, "a" * 64)
        uow.ledger.append("model.fingerprinted", "a" * 64, {"base": "a" * 64, "key_set": sets["embedded"].id})
        uow.key_sets.embed(sets["embedded"].id, "a" * 64)
        uow.key_sets.burn(sets["burnt"].id, range(10), where="au-1")
        uow.key_sets.end(sets["compromised"].id, KeySetState.RETIRED, reason="old", by="ann")
        for name in ("retired", "compromised"):
            uow.key_sets.end(sets[name].id, KeySetState(name), reason="old", by="ann")
        for number, suspect in enumerate(["/a", "/elsewhere", "https://host/v1"]):
            digest, day = ("6" if "://" in suspect else "5") * 64, timedelta(days=number)
            plan = {"suspect": {"kind": "endpoint" if "://" in suspect else "directory"}}
            uow.audits.plan(
                audit_record(
                    sets["issued"].id,
                    id=f"au-{number}",
                    suspect=suspect,
                    suspect_digest=digest,
                    plan=plan,
                    created_at=START + day,
                )
            )
        before = uow.suspects.list()
    command.downgrade(config_for(file), "0003")
    with closing(connect(file)) as connection, connection:
        connection.execute("DROP TABLE fpvec_aside")  # as if it had never been at head
    command.upgrade(config_for(file), "head")
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.ledger.entries()[-1].event == "suspect.seen"
        assert uow.ledger.verify() is None
        assert {record.name: record.state.value for record in uow.key_sets.list()} == {name: name for name in names}
        assert uow.suspects.list() == before
        assert len(before) == 2
