"""A database that fails: an error with advice, nothing half-recorded, and the next unit of work works again."""

import os
import shutil
import socket
import sqlite3
import subprocess
import threading
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import text

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry import database
from fpvec_audit.registry.unit_of_work import open_registry
from tests.postgresql import running_server
from tests.registry.builders import model_record, opened, opened_at, url_of


def recorded(registry):
    with registry.unit_of_work() as uow:
        assert uow.ledger.verify() is None
        assert [entry.subject for entry in uow.ledger.entries()] == [model.id for model in uow.models.list()]
        return [model.name for model in uow.models.list()]


def record(registry, name="one", digit="a", *, after=None):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record(name, digit=digit))
        if after is not None:
            after(uow)


def refuse(registry, problem, **options):
    with pytest.raises(RegistryError, match=problem) as caught:
        record(registry, "two", "b", **options)
    assert caught.value.advice
    assert caught.value.exit_code == 4


@pytest.fixture(scope="module")
def server():
    """A server of its own, which these tests may stop."""
    with running_server() as server:
        server.execute("ALTER ROLE postgres SET synchronous_commit = on")  # so that what is confirmed survives a crash
        yield server


@pytest.fixture
def served(server, tmp_path):
    with opened_at(server.with_schema(), key_file=tmp_path / "vault.key") as registry:
        record(registry)
        yield registry


def test_connection_cut_in_a_unit_of_work_records_nothing(served, server):
    def cut(uow):
        own = uow.session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        server.execute(f"SELECT pg_terminate_backend({own})")

    refuse(served, "meanwhile", after=cut)
    assert recorded(served) == ["one"]


def test_server_restarted_in_a_unit_of_work_records_nothing(served, server):
    def restart(_):
        server.stop()
        server.start()

    refuse(served, "meanwhile", after=restart)
    assert recorded(served) == ["one"]
    record(served, "two", "b")
    assert recorded(served) == ["one", "two"]


def test_server_that_is_away_is_named_and_used_again_when_it_is_back(served, server):
    server.stop("fast")
    try:
        refuse(served, "does not answer|went away|was restarted")
        with pytest.raises(RegistryError, match="does not answer") as caught:
            open_registry(served.engine.url.render_as_string(hide_password=False))
        assert "start the database server" in caught.value.advice
    finally:
        server.start()
    assert recorded(served) == ["one"]


def test_missing_database_is_named(server):
    with pytest.raises(RegistryError, match="does not exist") as caught:
        open_registry(server.url("nowhere"))
    assert "createdb" in caught.value.advice


def test_wrong_password_is_told_without_showing_it(server):
    server.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    access = server.place / "data" / "pg_hba.conf"
    before = access.read_text()
    access.write_text("host all locked 127.0.0.1/32 scram-sha-256\n" + before)
    server.control("reload")
    try:
        with pytest.raises(RegistryError, match="does not let you in") as caught:
            open_registry(server.url(user="locked", password="hunter2"))
        assert "password" in caught.value.advice
        assert "hunter2" not in str(caught.value)
    finally:
        access.write_text(before)
        server.control("reload")


def test_lock_held_by_another_is_told_after_a_while(served, monkeypatch):
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 0.2)
    with served.unit_of_work() as uow:
        uow.ledger.head()
        refuse(served, "locked by another process")
        with served.snapshot() as reader:  # who reads waits for nobody
            assert len(reader.models.list()) == 1
    assert recorded(served) == ["one"]


def test_host_that_does_not_exist_or_listen_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RegistryError, match="does not answer") as caught:
        open_registry(f"postgresql+psycopg://me:hunter2@127.0.0.1:{port}/x")
    assert "hunter2" not in str(caught.value)


@contextmanager
def small_disk(place, kilobytes, *, owner=None):
    """Mount a file system of its own that is soon full; skip where that is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs rights that are not given here")
    try:
        if owner:
            shutil.chown(place, owner)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def flood(uow):
    for number in range(1500):
        uow.ledger.append("thing.done", "thing", {"number": number, "text": os.urandom(4000).hex()})


def test_full_disk_of_the_server_loses_nothing(server, tmp_path):
    with small_disk(server.place / "small", 12_000, owner="postgres") as place:
        server.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.with_schema()
        server.execute("CREATE DATABASE full_disk TEMPLATE fpvec_template TABLESPACE small")
        try:
            with opened_at(server.url("full_disk"), key_file=tmp_path / "vault.key") as registry:
                record(registry)
                refuse(registry, "disk of the server is full", after=flood)
                assert recorded(registry) == ["one"]
        finally:
            server.execute("DROP DATABASE full_disk WITH (FORCE)")
            server.execute("DROP TABLESPACE small")


def test_full_disk_under_a_file_loses_nothing(tmp_path):
    with small_disk(tmp_path / "small", 1_000) as place, opened(place / "registry.db") as registry:
        record(registry)
        refuse(registry, "disk is full|disk reports an error", after=flood)
        assert recorded(registry) == ["one"]


def test_file_that_is_gone_is_not_made_anew_behind_your_back(file):
    with opened(file) as registry:
        record(registry)
        for path in file.parent.glob("registry.db*"):
            path.rename(path.with_suffix(".moved" + path.suffix))
        refuse(registry, "lacks a table|cannot be opened|is gone")


def test_locked_file_is_told_and_works_again(file):
    with open_registry(url_of(file) + "?timeout=0.05") as registry:
        record(registry)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refuse(registry, "locked by another process")
        assert recorded(registry) == ["one"]


def test_error_in_one_thread_leaves_the_others_alone(registry):
    problems = []

    def fail():
        try:
            record(registry, "two", "b", after=lambda uow: uow.session.execute(text("SELECT * FROM nowhere")))
        except RegistryError as error:
            problems.append(error)

    record(registry)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert len(problems) == 1
    assert recorded(registry) == ["one"]
