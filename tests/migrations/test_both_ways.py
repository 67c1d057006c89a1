"""Going back to an older schema and forward again loses nothing, on either database, whatever interrupts it."""

import multiprocessing
import os
import random
import signal
import time

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry import schema
from fpvec_audit.registry.database import make_engine
from fpvec_audit.registry.tables import SCHEMA_REVISION, Base
from fpvec_audit.registry.verification import verify_snapshot
from tests.migrations.test_migrations import ROOT
from tests.registry.builders import fill, key_set_record, opened_at, secret
from tests.registry.tampering import on_sqlite

ROUNDS = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/home/registry.db"
    return request.getfixturevalue("postgresql").fresh()


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "home" / "vault.key"


@pytest.fixture
def filled(url, key_file):
    """URL of a registry that holds some of everything."""
    with opened_at(url, key_file=key_file) as registry:
        fill(registry)
        with registry.engine.begin() as connection:  # what no repository of today does
            connection.exec_driver_sql("UPDATE key_set SET state = 'retired' WHERE name = 'other'")
            connection.exec_driver_sql("UPDATE job SET heartbeat_at = started_at")
            first = "'2026-01-02 03:04:05.000678'" if on_sqlite(registry) else "'2026-01-02T03:04:05.000678Z'"
            connection.exec_driver_sql(f"INSERT INTO suspect VALUES ('5', 'endpoint', 'https://x', {first})")
    return url


def config_for(url):
    config = Config(ROOT / "alembic.ini")
    config.cmd_opts = type("Options", (), {"x": [f"url={url}"]})()
    return config


def everything(url):
    """Return every row of every table."""
    engine = make_engine(url)
    with engine.connect() as connection:
        rows = {
            name: sorted(map(repr, connection.execute(table.select()).all()))
            for name, table in Base.metadata.tables.items()
        }
    engine.dispose()
    return rows


def tables_of(url):
    engine = make_engine(url)
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names


def test_empty_database_comes_to_head_without_drift(url):
    config = config_for(url)
    command.upgrade(config, "head")
    assert tables_of(url) == set(Base.metadata.tables) | {"alembic_version"}
    command.check(config)
    command.downgrade(config, "base")
    assert tables_of(url) == {"alembic_version"}
    command.upgrade(config, "head")
    command.check(config)


@pytest.mark.parametrize("down", ["0005", "0004", "0003", "0002", "0001", "base"])
def test_nothing_is_lost_on_the_way_back_and_forward(filled, key_file, down):
    config, before = config_for(filled), everything(filled)
    command.downgrade(config, down)
    command.upgrade(config, "head")
    after = everything(filled)
    before["registry_fact"], facts = sorted(before["registry_fact"]), after["registry_fact"]
    assert [fact for fact in facts if "sketches" not in fact] == before["registry_fact"]
    assert {**after, "registry_fact": 0} == {**before, "registry_fact": 0}
    command.check(config)
    with opened_at(filled, key_file=key_file) as registry, registry.unit_of_work() as uow:
        assert uow.ledger.verify() is None
        assert uow.vault.reveal(key_set_record().id) == secret()
        uow.vault.seal("other", "thing", b"more")


def test_program_brings_back_what_a_downgrade_to_nothing_set_aside(filled, key_file):
    before = everything(filled)
    command.downgrade(config_for(filled), "base")
    assert tables_of(filled) == {
        "alembic_version",
        schema.SET_ASIDE,
        f"{schema.SET_ASIDE}_0005",
        f"{schema.SET_ASIDE}_0006",
    }
    with opened_at(filled, key_file=key_file) as registry, registry.unit_of_work() as uow:
        assert uow.vault.reveal(key_set_record().id) == secret()
    assert everything(filled)["stamp"] == before["stamp"]


def test_what_an_older_program_wrote_meanwhile_stays(filled, key_file):
    config = config_for(filled)
    command.downgrade(config, "0003")
    engine = make_engine(filled)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE model SET location = '/older'")
        connection.exec_driver_sql("UPDATE key_set SET owner = 'Older'")
        connection.exec_driver_sql(f"INSERT INTO licensee VALUES ('li-9', 'Newcomer', {'CURRENT_TIMESTAMP'})")
        plain = "'706c61696e'" if filled.startswith("postgresql") else "706c61696e"
        content = f"decode({plain}, 'hex')" if filled.startswith("postgresql") else f"x'{plain}'"
        connection.exec_driver_sql(
            "INSERT INTO vault_secret (kind, subject, scheme, ciphertext, created_at) "
            f"VALUES ('other', 'thing', 'plain', {content}, CURRENT_TIMESTAMP)"
        )
    engine.dispose()
    command.upgrade(config, "head")
    with opened_at(filled, key_file=key_file) as registry, registry.unit_of_work() as uow:
        assert {model.location for model in uow.models.list()} == {"/older"}
        assert {record.owner for record in uow.key_sets.list()} == {"Older"}
        assert {record.name: record.state.value for record in uow.key_sets.list()}["other"] == "retired"
        assert "Newcomer" in uow.licensees.list()
        assert uow.vault.unseal("other", "thing", purpose="test") == b"plain"  # sealed at opening
        assert uow.vault.reveal(key_set_record().id) == secret()


def test_history_of_another_registry_is_not_mixed_with_the_one_set_aside(filled):
    config = config_for(filled)
    command.downgrade(config, "base")
    command.upgrade(config, "0003")
    engine = make_engine(filled)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO ledger VALUES (1, 'x', 'x', 'x', '{{}}', '{'0' * 64}', '{'1' * 64}')")
    with pytest.raises(RegistryError, match="the history of two registries"):
        schema.upgrade(engine)
    assert schema.revision_of(engine, create=False) == "0003"
    engine.dispose()


def migrate(url, direction, started):
    config = config_for(url)
    started.set()
    if direction == "down":
        command.downgrade(config, "0003")
    else:
        engine = make_engine(url)
        schema.upgrade(engine)


def test_killed_migration_leaves_the_old_or_the_new_schema_with_everything(filled, key_file):
    before, context, chance = everything(filled), multiprocessing.get_context("fork"), random.Random(5)
    seen = set()
    for _ in range(ROUNDS):
        for direction in ("down", "up"):
            started = context.Event()
            process = context.Process(target=migrate, args=(filled, direction, started))
            process.start()
            started.wait(30)
            time.sleep(chance.uniform(0, 0.4))
            os.kill(process.pid, signal.SIGKILL)
            process.join(30)
            engine = make_engine(filled)
            revision = schema.revision_of(engine, create=False)
            engine.dispose()
            assert revision in ("0003", SCHEMA_REVISION)
            seen.add((direction, revision))
            assert (schema.SET_ASIDE in tables_of(filled)) == (revision == "0003")
    command.upgrade(config_for(filled), "head")
    after = everything(filled)
    assert {**after, "registry_fact": 0} == {**before, "registry_fact": 0}
    with opened_at(filled, key_file=key_file) as registry, registry.snapshot() as uow:
        assert verify_snapshot(uow).fault is None
