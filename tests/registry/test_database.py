import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.database import describe, make_engine, parse_url
from fpvec_audit.registry.unit_of_work import open_registry
from tests.registry.builders import model_record, opened, url_of


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_new_registry_is_for_its_owner_alone(file):
    before = os.umask(0)
    try:
        with opened(file) as registry, registry.unit_of_work() as uow:
            uow.models.add(model_record())
            journals = [path for path in file.parent.iterdir() if path != file]
            assert {mode(path) for path in journals} <= {0o600}
    finally:
        os.umask(before)
    assert mode(file) == 0o600
    assert mode(file.parent) == 0o700


def test_directory_that_exists_keeps_its_permissions(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    opened(shared / "registry.db").close()
    assert mode(shared) == 0o755


def test_connections_check_references_and_write_ahead(embedded):
    with embedded.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 30000


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "no database URL"),
        ("", "no database URL"),
        ("foo://host/db", "no driver"),
        ("sqlite+nothing:///x.db", "no driver"),
        ("oracle://user:hunter2@host/db", "no driver"),
        ("http://user:hunter2@host:port/", "no database URL"),
    ],
)
def test_url_that_cannot_be_used_is_refused_with_advice(url, problem):
    with pytest.raises(RegistryError, match=problem) as caught:
        open_registry(url)
    assert caught.value.advice
    assert "hunter2" not in str(caught.value)


def test_description_hides_the_password():
    assert "hunter2" not in describe(parse_url("postgresql+psycopg://user:hunter2@host/db"))
    assert describe(parse_url("sqlite:////a/b.db")) == "/a/b.db"


@pytest.mark.parametrize("content", [b"this is no database at all" * 50, bytes(4096) + b"x" * 4096])
def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="no SQLite database") as caught:
        open_registry(url_of(file))
    assert caught.value.advice
    assert file.read_bytes() == content


def read_everything(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.ledger.verify()
        uow.models.list()


def test_damaged_file_is_reported(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        for number in range(300):
            uow.ledger.append("thing.done", "thing", {"number": number, "text": "x" * 500})
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xa5" * (size - 8192))
    with pytest.raises(RegistryError, match=r"damaged|no SQLite database") as caught:
        read_everything(file)
    assert caught.value.advice


def test_truncated_file_is_reported(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    os.truncate(file, 10000)
    with pytest.raises(RegistryError, match="damaged"):
        read_everything(file)


def test_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be created") as caught:
        open_registry(url_of(tmp_path / "file" / "registry.db"))
    assert caught.value.advice


def test_directory_as_registry_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="cannot be created: Is a directory"):
        open_registry(url_of(tmp_path))


def test_read_only_directory_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    # A real read-only directory does not stop root, as whom tests in containers run.
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RegistryError, match="cannot be created: Permission denied") as caught:
        open_registry(url_of(tmp_path / "home" / "registry.db"))
    assert caught.value.advice


def test_read_only_registry_can_be_read_but_not_written(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    with open_registry(f"sqlite:///file:{file}?mode=ro&uri=true") as registry:
        with registry.unit_of_work() as uow:
            assert [model.name for model in uow.models.list()] == ["base"]
        with pytest.raises(RegistryError, match="cannot be written") as caught, registry.unit_of_work() as uow:
            uow.jobs.start("stamp", {})
    assert caught.value.advice


def append_on_a_full_disk(registry):
    with registry.unit_of_work() as uow:
        pages = uow._session.execute(text("PRAGMA page_count")).scalar_one()
        uow._session.execute(text(f"PRAGMA max_page_count = {pages}"))
        for number in range(2000):
            uow.ledger.append("thing.done", "thing", {"number": number, "text": "x" * 500})


def test_full_disk_loses_nothing(file):
    with opened(file) as registry:
        with registry.unit_of_work() as uow:
            uow.models.add(model_record())
        with pytest.raises(RegistryError, match="disk is full"):
            append_on_a_full_disk(registry)
        with registry.unit_of_work() as uow:
            assert [model.name for model in uow.models.list()] == ["base"]
            assert uow.ledger.verify() is None


def test_errors_carry_no_values(registry):
    secret = "hunter2"
    with pytest.raises(RegistryError) as caught, registry.unit_of_work() as uow:
        uow._session.execute(text("INSERT INTO vault_secret (kind) VALUES (:kind)"), {"kind": secret})
    assert secret not in str(caught.value)
    assert secret not in str(caught.value.__cause__)


def test_engine_opens_nothing(tmp_path):
    make_engine(url_of(tmp_path / "never.db"))
    assert not (tmp_path / "never.db").exists()


def test_registry_in_memory_needs_no_file():
    with open_registry("sqlite://") as registry, registry.unit_of_work() as uow:
        assert uow.models.list() == ()


def test_registry_is_named_without_its_password_in_representations(file):
    with opened(file) as registry:
        assert repr(registry) == f"Registry('{file}')"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_process_that_closes_nothing_leaves_one_file_with_everything(file):
    program = (
        "import sys; from pathlib import Path; from tests.registry.builders import *\n"
        "registry = opened(Path(sys.argv[1]))\n"
        "with registry.unit_of_work() as uow:\n"
        "    uow.models.add(model_record())\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM model").fetchone() == (1,)
