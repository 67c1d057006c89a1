"""Backups made while others write, and what may become of them."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from fpvec_audit.errors import FpvecError, OutputError, RegistryError
from fpvec_audit.registry.backup import back_up_file
from fpvec_audit.registry.master_key import KeyFile, NoKey
from fpvec_audit.services.moving import backup_registry, restore_registry
from tests.migrations.test_migrations import config_for
from tests.registry.builders import Clock, key_set_record, model_record, opened, opened_at, secret, url_of
from tests.registry.filled import counts, fill
from tests.registry.test_moving import exported, told_by


@pytest.fixture
def backup(tmp_path):
    return tmp_path / "registry.backup"


@pytest.fixture
def key(file):
    return KeyFile(file.parent / "vault.key")


@pytest.fixture
def empty(url, tmp_path, request):
    """URL of an empty place on the same kind of database."""
    if url.startswith("sqlite"):
        return url_of(tmp_path / "restored" / "registry.db")
    return request.getfixturevalue("postgresql").fresh()


def refused(backup, url, problem, *, kind=RegistryError):
    with pytest.raises(kind, match=problem) as caught:
        restore_registry(backup, url, master_key=NoKey("none"))
    assert caught.value.advice


def leftovers(directory):
    return [path.name for path in directory.iterdir() if path.name.endswith(".part")]


def test_restored_copy_equals_and_its_secrets_open_with_the_same_key(registry, url, empty, backup, key):
    fill(registry)
    made = backup_registry(backup, url)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    restored = restore_registry(backup, empty, master_key=key, clock=Clock())
    assert (restored.rows, restored.entries, restored.head) == (made.rows, made.entries, made.head)
    with opened_at(empty, key_file=key.path) as copy:
        assert told_by(exported(copy)) == told_by(exported(registry))
        with copy.unit_of_work() as uow:
            assert uow.vault.reveal(key_set_record().id) == secret()
            uow.models.add(model_record("later", digit="9"))
    if url.startswith("sqlite"):
        assert stat.S_IMODE(Path(empty.removeprefix("sqlite:///")).stat().st_mode) == 0o600


def test_master_key_that_is_not_in_the_backup_is_named(registry, url, empty, backup, key, tmp_path):
    fill(registry)
    (named,) = backup_registry(backup, url).warnings
    assert key.keys()[0].id in named
    assert "not in the" in named
    assert key.keys()[0].content.hex().encode() not in backup.read_bytes()
    (needed,) = restore_registry(backup, empty, master_key=KeyFile(tmp_path / "elsewhere.key")).warnings
    assert key.keys()[0].id in needed
    assert "elsewhere.key" in needed


def test_registry_that_holds_something_is_not_overwritten(registry, url, backup, key):
    fill(registry)
    backup_registry(backup, url)
    before = exported(registry)
    refused(backup, url, "holds entries already")
    assert exported(registry) == before


def test_empty_registry_is_filled(registry, url, backup, empty, key):
    fill(registry)
    backup_registry(backup, url)
    opened_at(empty, key_file=key.path).close()
    restore_registry(backup, empty, master_key=key)
    with opened_at(empty, key_file=key.path) as copy:
        assert told_by(exported(copy)) == told_by(exported(registry))


def test_file_that_exists_is_not_overwritten(registry, url, backup):
    backup.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        backup_registry(backup, url)
    assert backup.read_text() == "mine"


def test_missing_registry_is_told_and_not_made(tmp_path, backup):
    with pytest.raises(RegistryError, match="there is no registry"):
        backup_registry(backup, url_of(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


class Writer(threading.Thread):
    """Registers models until it is told to stop."""

    def __init__(self, url, key_file):
        super().__init__()
        self.url, self.key_file, self.stop, self.count = url, key_file, threading.Event(), 0

    def run(self):
        with opened_at(self.url, key_file=self.key_file) as registry:
            while not self.stop.is_set():
                with registry.unit_of_work() as uow:
                    uow.models.add(model_record(f"m{self.count}", id=f"{self.count:064d}"))
                self.count += 1

    def __enter__(self):
        self.start()
        while self.count < 3:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join()


def test_backup_while_others_write_is_one_moment(registry, url, backup, empty, key):
    with Writer(url, key.path) as writer:
        first = writer.count
        backup_registry(backup, url)
        last = writer.count
    restore_registry(backup, empty, master_key=key)
    with opened_at(empty, key_file=key.path) as copy, copy.snapshot() as uow:
        assert first <= len(uow.models.list()) <= last + 1
        assert len(uow.models.list()) + 1 == uow.ledger.head().serial  # the last one tells of the restoring


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_cut_backup_is_refused_and_leaves_nothing(registry, url, backup, empty, size):
    fill(registry)
    backup_registry(backup, url)
    backup.write_bytes(backup.read_bytes()[:size])
    refused(backup, empty, ".")
    if url.startswith("sqlite"):
        file = Path(empty.removeprefix("sqlite:///"))
        assert not file.parent.exists() or not leftovers(file.parent)
    with opened_at(empty, key_file=backup.with_name("k")) as copy:
        assert counts(copy)["ledger"] == 0


def test_any_changed_byte_in_the_rows_of_a_backup_is_found(embedded, file, backup, tmp_path):
    fill(embedded)
    back_up_file(file, backup)
    content = backup.read_bytes()
    for part in (b"/vectors/v", b"/stamped", b"Globex", bytes(range(256))):
        position = content.index(part) + 3
        backup.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        refused(backup, url_of(tmp_path / "to" / "registry.db"), "digest differs")
    backup.write_bytes(content)
    restore_registry(backup, url_of(tmp_path / "to" / "registry.db"), master_key=NoKey(""))


def test_backup_with_another_history_is_refused(embedded, file, backup, tmp_path):
    fill(embedded)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TRIGGER ledger_no_update")
        connection.execute("UPDATE ledger SET event = 'else' WHERE serial = 2")
        connection.commit()
    with pytest.raises(RegistryError, match="from entry 2 on"):
        back_up_file(file, backup)
    assert not backup.exists()


def test_registry_of_an_older_schema_can_be_backed_up_before_its_upgrade(file, backup, tmp_path):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    command.downgrade(config_for(file), "0003")
    made = backup_registry(backup, url_of(file))
    assert made.schema == "0003"
    target = tmp_path / "restored" / "registry.db"
    restored = restore_registry(backup, url_of(target), master_key=NoKey(""))
    assert any("registry upgrade" in sentence for sentence in restored.warnings)
    with pytest.raises(RegistryError, match="registry upgrade"):
        opened(target)
    command.upgrade(config_for(target), "head")
    with opened(target) as registry, registry.unit_of_work() as uow:
        assert uow.models.list() == (model_record(),)


def test_backup_of_another_program_or_a_newer_one_is_refused(tmp_path, file, backup):
    with opened(file):
        pass
    back_up_file(file, backup)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("DROP TABLE fpvec_backup")
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    refused(backup, url_of(tmp_path / "to.db"), "9999")
    strange = tmp_path / "strange.db"
    with closing(sqlite3.connect(strange)) as connection:
        connection.execute("CREATE TABLE t (x)")
    refused(strange, url_of(tmp_path / "to.db"), "holds no registry")
    assert not (tmp_path / "to.db").exists()


def test_plain_copy_of_a_file_is_restored_with_a_remark_but_not_while_it_is_used(embedded, file, tmp_path):
    fill(embedded)
    shutil.copy(file, tmp_path / "copy.db")
    shutil.copy(f"{file}-wal", tmp_path / "copy.db-wal") if Path(f"{file}-wal").exists() else None
    if (tmp_path / "copy.db-wal").exists():
        refused(tmp_path / "copy.db", url_of(tmp_path / "to.db"), "in use")
    embedded.close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "copy.db-wal").unlink(missing_ok=True)
    shutil.copy(file, tmp_path / "copy.db")
    restored = restore_registry(tmp_path / "copy.db", url_of(tmp_path / "to.db"), master_key=NoKey(""))
    assert any("not made by" in sentence for sentence in restored.warnings)


def test_backup_of_a_file_does_not_go_into_a_server(embedded, file, backup, postgresql):
    fill(embedded)
    back_up_file(file, backup)
    refused(backup, postgresql.fresh(), "embedded registry")


def test_nothing_that_was_deleted_is_in_a_backup(embedded, file, backup):
    with embedded.unit_of_work() as uow:
        uow.session.execute(text("INSERT INTO registry_fact VALUES ('x', 'what was here before')"))
    with embedded.unit_of_work() as uow:
        uow.session.execute(text("DELETE FROM registry_fact WHERE name = 'x'"))
    back_up_file(file, backup)
    assert b"what was here before" not in backup.read_bytes()


def test_registry_filled_meanwhile_is_not_overwritten(embedded, file, backup, tmp_path, monkeypatch):
    from fpvec_audit.registry import backup as module

    fill(embedded)
    back_up_file(file, backup)
    target = tmp_path / "to" / "registry.db"
    examined = module._examined

    def fill_meanwhile(*arguments):
        found = examined(*arguments)
        with opened(target) as other, other.unit_of_work() as uow:
            uow.models.add(model_record("mine"))
        return found

    monkeypatch.setattr(module, "_examined", fill_meanwhile)
    refused(backup, url_of(target), "holds entries already")
    with opened(target) as other, other.unit_of_work() as uow:
        assert [model.name for model in uow.models.list()] == ["mine"]


_PROGRAM = """
import os, sys, threading, time
from pathlib import Path
from fpvec_audit.registry.master_key import NoKey
from fpvec_audit.services.moving import backup_registry, restore_registry
word, backup, url, seconds = sys.argv[1:]
def die():
    time.sleep(float(seconds))
    os.kill(os.getpid(), 9)
threading.Thread(target=die, daemon=True).start()
if word == "backup":
    backup_registry(Path(backup), url)
else:
    restore_registry(Path(backup), url, master_key=NoKey(""))
"""


def killed(word, backup, url, seconds):
    command_line = [sys.executable, "-c", _PROGRAM, word, str(backup), url, str(seconds)]
    return subprocess.run(command_line, check=False, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_backup_and_restore_that_are_killed_leave_all_or_nothing(registry, url, backup, empty, key, seconds):
    fill(registry)
    with registry.unit_of_work() as uow:
        for number in range(3000):
            uow.session.execute(
                text("INSERT INTO digested_files VALUES (:state, :digest)"),
                {"state": f"{number:064d}", "digest": "0" * 64},
            )
    before = exported(registry)
    killed("backup", backup, url, seconds)
    if not backup.exists():
        backup_registry(backup, url)
    assert exported(registry) == before
    killed("restore", backup, empty, seconds)
    with suppress(RegistryError):  # it was whole before the kill
        restore_registry(backup, empty, master_key=key)
    with opened_at(empty, key_file=key.path) as copy:
        assert told_by(exported(copy)) == told_by(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_told_and_leaves_nothing(registry, url, tmp_path, key, request):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(small)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        fill(registry)
        with registry.unit_of_work() as uow:
            uow.session.execute(
                text("INSERT INTO model_manifest VALUES (:id, 1, :content)"),
                {"id": "b" * 64, "content": bytes(200_000)},
            )
        with pytest.raises(OutputError, match=r"cannot be written") as caught:
            backup_registry(small / "x.backup", url)
        assert "space" in caught.value.advice
        assert list(small.iterdir()) == []
        if url.startswith("sqlite"):
            backup_registry(tmp_path / "fine.backup", url)
            with pytest.raises(FpvecError, match=r"cannot be (written|copied)"):
                restore_registry(tmp_path / "fine.backup", url_of(small / "registry.db"), master_key=key)
            assert not leftovers(small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
