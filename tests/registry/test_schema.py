import sqlite3
from contextlib import closing

import pytest
from alembic.script import ScriptDirectory

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry import schema
from fpvec_audit.registry.database import make_engine
from fpvec_audit.registry.tables import SCHEMA_REVISION
from fpvec_audit.registry.unit_of_work import open_registry
from tests.registry.builders import model_record, opened, url_of

pytestmark = pytest.mark.usefixtures("real_migrations")


def execute(file, *statements):
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_revision_that_the_tables_describe_is_the_head_of_the_migrations():
    assert ScriptDirectory(str(schema.migrations_directory())).get_current_head() == SCHEMA_REVISION


def test_newer_registry_is_refused(file):
    opened(file).close()
    execute(file, "UPDATE alembic_version SET version_num = '9999'")
    for attempt in (open_registry, lambda url: schema.upgrade(make_engine(url))):
        with pytest.raises(RegistryError, match="newer than this program") as caught:
            attempt(url_of(file))
        assert "upgrade fpvec-audit" in caught.value.advice


def test_outdated_registry_is_refused_with_the_command_that_upgrades_it(file, monkeypatch):
    opened(file).close()
    monkeypatch.setattr(schema, "SCHEMA_REVISION", "9998")
    with pytest.raises(RegistryError, match=f"has schema {SCHEMA_REVISION}, this program needs 9998") as caught:
        open_registry(url_of(file))
    assert "fpvec registry upgrade" in caught.value.advice


def test_database_of_something_else_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "other.db"
    execute(file, "CREATE TABLE recipe (id INTEGER)")
    with pytest.raises(RegistryError, match="tables of something else"):
        open_registry(url_of(file))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipe",)]


def test_missing_registry_is_not_made_unless_asked(file):
    with pytest.raises(RegistryError, match="there is no registry") as caught:
        open_registry(url_of(file), create=False)
    assert "fpvec registry init" in caught.value.advice
    assert not file.parent.exists()


def test_empty_file_is_not_filled_unless_asked(tmp_path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(RegistryError, match="is empty"):
        open_registry(url_of(tmp_path / "empty.db"), create=False)


def test_interrupted_creation_leaves_an_empty_database_that_the_next_run_fills(file, monkeypatch):
    def fail(_connection):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = schema._run_migrations

        def interrupted(connection):
            real(connection)
            fail(connection)

        patch.setattr(schema, "_run_migrations", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    opened(file).close()


def test_upgrade_of_a_current_registry_keeps_its_content(file):
    with opened(file) as registry, registry.unit_of_work() as uow:
        uow.models.add(model_record())
    assert schema.upgrade(make_engine(url_of(file))) == (SCHEMA_REVISION, SCHEMA_REVISION)
    with opened(file) as registry, registry.unit_of_work() as uow:
        assert uow.models.get("base") == model_record()


def test_sound_registry_has_no_problems(registry):
    assert schema.problems(registry.engine) == ()


def test_missing_column_and_dangling_reference_are_problems(file):
    opened(file).close()
    execute(
        file,
        "ALTER TABLE job DROP COLUMN host",
        "INSERT INTO mark VALUES ('ks-nowhere', 0)",
    )
    found = "\n".join(schema.problems(make_engine(url_of(file))))
    assert "host" in found
    assert "refers to a key_set that does not exist" in found


def test_missing_migrations_are_an_incomplete_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "_PACKAGE", tmp_path / "fpvec_audit")
    with pytest.raises(RegistryError, match="no migrations"):
        schema.migrations_directory()


def test_migrations_of_an_installed_package_come_first(tmp_path, monkeypatch):
    for place in (tmp_path / "fpvec_audit" / "_migrations", tmp_path / "migrations"):
        place.mkdir(parents=True)
        (place / "env.py").touch()
    monkeypatch.setattr(schema, "_PACKAGE", tmp_path / "fpvec_audit")
    assert schema.migrations_directory() == tmp_path / "fpvec_audit" / "_migrations"
