import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import FIRST_PREVIOUS, entry_digest, floatless
from tests.registry.builders import opened

COLUMNS = ("serial", "at", "event", "subject", "content", "previous", "digest")


@pytest.fixture
def told(registry):
    """A registry with a history of five entries and no triggers that protect it."""
    with registry.unit_of_work() as uow:
        for number in range(5):
            uow.ledger.append("thing.done", f"thing-{number}", {"number": number, "text": "größe"})
    return registry


def unprotected(registry):
    with registry.engine.begin() as connection:
        for trigger in ("ledger_no_update", "ledger_no_delete", "ledger_no_replace"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}")


def tamper(registry, *statements):
    unprotected(registry)
    with registry.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def first_fault(registry):
    with registry.unit_of_work() as uow:
        return uow.ledger.verify()


def test_chain_links_every_entry_to_the_one_before(told):
    with told.unit_of_work() as uow:
        entries = uow.ledger.entries()
        assert uow.ledger.head() == entries[-1]
    assert [entry.serial for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.previous for entry in entries] == [FIRST_PREVIOUS, *(entry.digest for entry in entries[:-1])]
    assert all(entry.digest == entry_digest(entry) for entry in entries)
    assert entries[0].at == "2026-01-02T03:04:06.000678+00:00"
    assert first_fault(told) is None


def test_digest_is_that_of_the_canonical_json_of_the_other_fields(told):
    with told.unit_of_work() as uow:
        entry = uow.ledger.head()
    value = {name: getattr(entry, name) for name in COLUMNS if name != "digest"}
    assert entry.digest == canonical_digest(value)


def test_entries_can_be_read_page_by_page(told):
    with told.unit_of_work() as uow:
        assert [entry.serial for entry in uow.ledger.entries(after=2, limit=2)] == [3, 4]


def test_empty_ledger_verifies(registry):
    assert first_fault(registry) is None
    with registry.unit_of_work() as uow:
        assert uow.ledger.head() is None


def test_floats_are_written_as_text():
    assert floatless({"a": 0.1, "b": [1.5, {"c": True, "d": None}], "e": 3}) == {
        "a": "0.1",
        "b": ["1.5", {"c": True, "d": None}],
        "e": 3,
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET event = 'other' WHERE serial = 2",
        "DELETE FROM ledger WHERE serial = 5",
        "INSERT OR REPLACE INTO ledger SELECT serial, at, 'other', subject, content, previous, digest FROM ledger",
        "INSERT INTO ledger VALUES (0, 'x', 'x', 'x', '{}', 'x', 'y')",
    ],
)
def test_database_refuses_to_change_history(told, statement):
    with pytest.raises(RegistryError, match="ledger is append-only"), told.unit_of_work() as uow:
        uow._session.connection().exec_driver_sql(statement)
    assert first_fault(told) is None


@pytest.mark.parametrize(
    ("statement", "serial"),
    [
        ("UPDATE ledger SET event = 'other' WHERE serial = 2", 2),
        ("UPDATE ledger SET subject = subject || ' ' WHERE serial = 1", 1),
        ("UPDATE ledger SET at = replace(at, '2026', '2025') WHERE serial = 3", 3),
        ("UPDATE ledger SET content = replace(content, '3', '4') WHERE serial = 4", 4),
        ("UPDATE ledger SET content = content || ' ' WHERE serial = 4", 4),
        ("UPDATE ledger SET content = '[1]' WHERE serial = 4", 4),
        ("UPDATE ledger SET content = 'no json' WHERE serial = 4", 4),
        ("UPDATE ledger SET content = CAST(x'22ff22' AS TEXT) WHERE serial = 4", 4),
        ("UPDATE ledger SET content = x'7b7d' WHERE serial = 4", 4),
        ("UPDATE ledger SET digest = upper(digest) WHERE serial = 5", 5),
        ("UPDATE ledger SET previous = 'g' || substr(previous, 2) WHERE serial = 3", 3),
        ("UPDATE ledger SET serial = 9 WHERE serial = 3", 4),
        ("UPDATE ledger SET serial = -1 WHERE serial = 3", -1),
        ("UPDATE ledger SET serial = 'x' WHERE serial = 3", 4),
        ("DELETE FROM ledger WHERE serial = 1", 2),
        ("DELETE FROM ledger WHERE serial = 3", 4),
    ],
)
def test_first_entry_that_does_not_fit_is_named(told, statement, serial):
    tamper(told, statement)
    assert first_fault(told).serial == serial


def test_reordered_entries_are_found(told):
    tamper(
        told,
        "UPDATE ledger SET serial = 100 WHERE serial = 2",
        "UPDATE ledger SET serial = 2 WHERE serial = 3",
        "UPDATE ledger SET serial = 3 WHERE serial = 100",
    )
    assert first_fault(told).serial == 2


def test_inserted_entry_is_found_even_with_a_digest_of_its_own(told):
    unprotected(told)
    with told.unit_of_work() as uow:
        forged = uow.ledger.entries()[2]
    with told.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ledger WHERE serial = 3")
        values = {name: getattr(forged, name) for name in COLUMNS} | {"subject": "forged"}
        values["digest"] = canonical_digest({name: values[name] for name in COLUMNS if name != "digest"})
        connection.exec_driver_sql(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)",
            tuple(json.dumps(values[name]) if name == "content" else values[name] for name in COLUMNS),
        )
    assert first_fault(told).serial in (3, 4)


def test_long_history_is_walked_in_pages(registry):
    with registry.unit_of_work() as uow:
        for number in range(2100):
            uow.ledger.append("thing.done", "thing", {"number": number})
    assert first_fault(registry) is None
    tamper(registry, "UPDATE ledger SET content = CAST(x'ff' AS TEXT) WHERE serial = 2050")
    assert first_fault(registry).serial == 2050


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path, data):
    with TemporaryDirectory(dir=tmp_path) as home, opened(Path(home) / "registry.db") as registry:
        with registry.unit_of_work() as uow:
            for number in range(3):
                uow.ledger.append("thing.done", f"thing-{number}", {"number": number})
            entries = uow.ledger.entries()
        unprotected(registry)
        serial = data.draw(st.integers(1, 3))
        column = data.draw(st.sampled_from(COLUMNS[1:]))
        with registry.engine.begin() as connection:
            query = f"SELECT CAST({column} AS BLOB) FROM ledger WHERE serial = ?"
            content = bytearray(connection.exec_driver_sql(query, (serial,)).scalar_one())
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= data.draw(st.integers(1, 255))
            change = f"UPDATE ledger SET {column} = CAST(? AS TEXT) WHERE serial = ?"
            connection.exec_driver_sql(change, (bytes(content), serial))
        assert first_fault(registry).serial in (serial, serial + 1)
        assert len(entries) == 3
