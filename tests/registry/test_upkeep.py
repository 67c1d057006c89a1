"""Registries of before there was a master key: sealed and written anew, whatever interrupts that."""

import json
import os
import signal
import sqlite3
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, event, text

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.transcript import chained
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry import schema, upkeep
from fpvec_audit.registry.database import make_engine
from fpvec_audit.registry.master_key import KeyFile, NoKey
from fpvec_audit.registry.tables import SCHEMA_REVISION
from fpvec_audit.registry.unit_of_work import utc_now
from fpvec_audit.services.registry import check_registry, upgrade_registry
from tests.registry.builders import audit_record, key_set_record, opened_at, secret

OLD = {"0001": False, "0003": True}
"""Schema → whether it kept transcripts record by record."""
RECORDS = chained(
    [
        {"kind": "answer", "index": number, "position": number, "repeat": 0, "prompt": f"山川雨雪{number:04}",
         "answer": f"kingfisher {number}", "error": "", "finish": "stop", "first": {}}
        for number in range(300)
    ],
    previous="0" * 64,
)  # fmt: skip
TRANSCRIPT = "an older transcript 山川雨雪星海".encode()
SEEDS_BY_NAME = {"one": 0x41, "two": 0x42}
SEEDS = tuple(SEEDS_BY_NAME.values())
AT = datetime(2026, 1, 2, tzinfo=UTC)


def hidden():
    """Everything that must not be found afterwards, in the form in which it was stored."""
    texts = [*(record.content["prompt"] for record in RECORDS), *(record.content["answer"] for record in RECORDS)]
    forms = [part for written in texts for part in (written.encode(), json.dumps(written)[1:-1].encode())]
    return [secret(SEEDS[0]).reveal(), secret(SEEDS[1]).reveal(), TRANSCRIPT, *forms]


def made_by(revision, url, *, with_records):
    """Fill a registry of an older schema as its own program did, rows in the clear."""
    from alembic import command
    from alembic.config import Config

    engine = make_engine(url)
    config = Config(attributes={})
    config.set_main_option("script_location", str(schema.migrations_directory()))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    at = AT.isoformat(sep=" ") if engine.dialect.name == "sqlite" else AT
    with engine.begin() as connection:

        def insert(table, **values):
            names = ", ".join(values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)

        for name, seed in SEEDS_BY_NAME.items():
            record = key_set_record(name, seed=seed)
            insert(
                "key_set", id=record.id, name=name, owner="", commitment=json.dumps(record.commitment.to_json()),
                commitment_digest=record.commitment.digest, root=record.commitment.root, grade=record.grade,
                chance="", created_at=at,
            )  # fmt: skip
            insert(
                "vault_secret", id=seed, kind="key_set", subject=record.id, scheme="plain",
                ciphertext=secret(seed).reveal(), created_at=at,
            )  # fmt: skip
        audit = audit_record(key_set_record(seed=SEEDS[0]).id)
        insert(
            "audit", id=audit.id, key_set_id=key_set_record(seed=SEEDS[0]).id, suspect="s", suspect_digest="",
            plan_digest="1" * 64, plan="{}", verdict="", result="{}", created_at=at,
        )  # fmt: skip
        insert(
            "vault_secret", id=9, kind="transcript", subject=audit.id, scheme="plain", ciphertext=TRANSCRIPT,
            created_at=at,
        )  # fmt: skip
        for record in RECORDS if with_records else ():
            insert(
                "audit_record", audit_id=audit.id, serial=record.serial, scheme="plain",
                content=canonical_bytes(record.to_json()), digest=record.digest,
            )  # fmt: skip
    engine.dispose()


@contextmanager
def engine_of(url):
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def files_of(file):
    return {path.name: path.read_bytes() for path in file.parent.iterdir() if path.is_file()}


def found_in_the_clear(file):
    contents = b"\0".join(files_of(file).values())
    return [part for part in hidden() if part in contents]


@pytest.fixture(params=OLD)
def revision(request):
    return request.param


@pytest.fixture
def empty_url(request, file):
    """URL of a database in which there is nothing: a file, or on a server."""
    file.parent.mkdir(mode=0o700)
    if request.node.callspec.params.get("database") == "postgresql":
        return request.getfixturevalue("postgresql").fresh()
    return f"sqlite:///{file}"


@pytest.fixture
def old(empty_url, revision):
    made_by(revision, empty_url, with_records=OLD[revision])
    return empty_url


@pytest.fixture
def key_file(file):
    return KeyFile(file.parent / "vault.key")


def everything_is_there(url, key_file, *, with_records):
    with opened_at(url, key_file=key_file.path, clock=utc_now) as registry, registry.unit_of_work() as uow:
        assert upkeep.facts(registry.engine).keys() == {"id"}
        for name, seed in SEEDS_BY_NAME.items():
            assert uow.vault.reveal(key_set_record(name, seed=seed).id) == secret(seed)
        audit = audit_record("").id
        assert uow.vault.unseal("transcript", audit, purpose="a test") == TRANSCRIPT
        assert uow.audits.records(audit, purpose="a test") == (RECORDS if with_records else ())
        assert uow.ledger.verify() is None


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_upgrade_seals_everything_and_says_so(old, revision, database, file, key_file):
    state = upgrade_registry(old, master_key=key_file, actor="an operator")
    records = len(RECORDS) if OLD[revision] else 0
    assert state.before == revision
    assert state.done[0] == f"3 secrets and {records} records of transcripts were sealed"
    assert "written anew" in state.done[1]
    everything_is_there(old, key_file, with_records=OLD[revision])
    with opened_at(old, key_file=key_file.path, clock=utc_now) as registry, registry.snapshot() as uow:
        (entry,) = [entry for entry in uow.ledger.entries() if entry.event == "vault.sealed"]
        assert entry.content == {"secrets": 3, "records": records, "who": "an operator"}
    assert upgrade_registry(old, master_key=key_file).done == ()
    if database == "sqlite":
        assert found_in_the_clear(file) == []


def test_old_file_holds_what_is_looked_for(old, revision, file):
    """Or else finding nothing would mean nothing."""
    found = found_in_the_clear(file)
    assert {secret(SEEDS[0]).reveal(), secret(SEEDS[1]).reveal(), TRANSCRIPT} <= set(found)
    assert (RECORDS[7].content["prompt"].encode() in found) is OLD[revision]


def test_check_tells_what_is_due_before_and_after(old, file, key_file):
    with engine_of(old) as engine:
        schema.upgrade(engine)
    state = check_registry(old, master_key=key_file)
    assert "lie in the clear" in state.due[0]
    assert state.master_key.to_json() == {
        "id": "", "source": "", "given": str(key_file.path), "fits": None, "problem": "",
    }  # fmt: skip
    assert not key_file.path.exists()
    opened_at(old, key_file=key_file.path, clock=utc_now).close()
    state = check_registry(old, master_key=key_file)
    assert state.due == ()
    assert (state.master_key.fits, state.master_key.source) == (True, "file")


def test_without_a_key_upgrade_fails_nothing_is_lost_and_the_next_opening_goes_on(old, revision, key_file, caplog):
    with pytest.raises(RegistryError, match="secrets can neither be kept nor read"):
        upgrade_registry(old, master_key=NoKey())
    with opened_at(old, key_file=key_file.path, master_key=NoKey()) as registry, registry.snapshot() as uow:
        assert {item.name for item in uow.key_sets.list()} == {"one", "two"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "upkeep of the registry is due" in caplog.text
    everything_is_there(old, key_file, with_records=OLD[revision])


def test_reader_keeps_old_pages_until_it_is_gone_and_a_warning_tells_so_once(old, file, key_file, caplog, monkeypatch):
    monkeypatch.setattr(upkeep, "_PATIENCE_AT_OPENING", 0.05)
    with engine_of(old) as engine:
        schema.upgrade(engine)
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM key_set").fetchall()
        opened_at(old, key_file=key_file.path, clock=utc_now).close()
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "may still hold what they were" in warning
        with (
            opened_at(old, key_file=key_file.path, clock=utc_now) as registry,
            registry.unit_of_work() as uow,
        ):  # work goes on
            assert uow.vault.reveal(key_set_record("two", seed=SEEDS[1]).id) == secret(SEEDS[1])
        assert "may still hold" in check_registry(old, master_key=key_file).due[0]
        with pytest.raises(RegistryError, match="in use by another process") as caught:
            upgrade_registry(f"{old}?timeout=0.05", master_key=key_file)
        assert "fpvec registry upgrade" in caught.value.advice
        reader.execute("ROLLBACK")
    caplog.clear()
    opened_at(old, key_file=key_file.path, clock=utc_now).close()
    assert not caplog.records
    assert found_in_the_clear(file) == []


def killed_at(moment, url, key_file):
    """Upgrade in a process that is killed just before its ``moment``-th step; return whether it was."""
    pid = os.fork()
    if not pid:
        try:
            left = [moment]

            def step(*_):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

            real = upkeep._execute
            upkeep._execute = lambda driver, statement: (step(), real(driver, statement))[1]
            event.listen(Engine, "commit", step)
            upgrade_registry(url, master_key=key_file)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_upgrade_killed_at_any_moment_is_finished_by_the_next_opening(file, key_file, tmp_path):
    file.parent.mkdir(mode=0o700)
    url = f"sqlite:///{file}"
    made_by("0003", url, with_records=True)
    template = files_of(file)
    moment, stages = 1, set()
    while True:
        for path in file.parent.iterdir():
            path.unlink()
        for name, content in template.items():
            (file.parent / name).write_bytes(content)
        killed = killed_at(moment, url, key_file)
        with engine_of(url) as engine:
            revision = schema.revision_of(engine, create=False)
            stages.add((revision, upkeep.facts(engine).get("plaintext") if revision == SCHEMA_REVISION else None))
        if revision != SCHEMA_REVISION:
            upgrade_registry(url, master_key=key_file)
        everything_is_there(url, key_file, with_records=True)
        assert found_in_the_clear(file) == [], moment
        if not killed:
            break
        moment += 1
    assert {(SCHEMA_REVISION, "rows"), (SCHEMA_REVISION, "pages"), (SCHEMA_REVISION, None)} <= stages
