import json
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column, delete, insert, select, table

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import FIRST_PREVIOUS, Choice, entry_digest, floatless
from fpvec_audit.registry.tables import LedgerRow
from tests.registry.builders import START, Clock, opened_at
from tests.registry.tampering import on_sqlite, tamper, unguarded

COLUMNS = ("serial", "at", "event", "subject", "content", "previous", "digest")


@pytest.fixture
def told(registry):
    """A registry with a history of five entries."""
    tell(registry)
    return registry


def tell(registry):
    with registry.unit_of_work() as uow:
        for number in range(5):
            uow.ledger.append("thing.done", f"thing-{number}", {"number": number, "text": "größe"})


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


ANYWHERE = ("UPDATE ledger SET event = 'other' WHERE serial = 2", "DELETE FROM ledger WHERE serial = 5")
ON_SQLITE = (
    "INSERT OR REPLACE INTO ledger SELECT serial, at, 'other', subject, content, previous, digest FROM ledger",
    "INSERT INTO ledger VALUES (0, 'x', 'x', 'x', '{}', 'x', 'y')",
)
ON_POSTGRESQL = ("TRUNCATE ledger", "UPDATE ledger SET event = 'other' WHERE false")


def test_database_refuses_to_change_history(told):
    for statement in (*ANYWHERE, *(ON_SQLITE if on_sqlite(told) else ON_POSTGRESQL)):
        with pytest.raises(RegistryError, match="ledger is append-only"), told.unit_of_work() as uow:
            uow.session.connection().exec_driver_sql(statement)
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
        ("UPDATE ledger SET digest = upper(digest) WHERE serial = 5", 5),
        ("UPDATE ledger SET previous = 'g' || substr(previous, 2) WHERE serial = 3", 3),
        ("UPDATE ledger SET serial = 9 WHERE serial = 3", 4),
        ("UPDATE ledger SET serial = -1 WHERE serial = 3", -1),
        ("DELETE FROM ledger WHERE serial = 1", 2),
        ("DELETE FROM ledger WHERE serial = 3", 4),
    ],
)
def test_first_entry_that_does_not_fit_is_named(told, statement, serial):
    tamper(told, statement)
    assert first_fault(told).serial == serial


@pytest.mark.parametrize(
    ("statement", "serial"),
    [
        ("UPDATE ledger SET content = CAST(x'22ff22' AS TEXT) WHERE serial = 4", 4),
        ("UPDATE ledger SET content = x'7b7d' WHERE serial = 4", 4),
        ("UPDATE ledger SET serial = 'x' WHERE serial = 3", 4),
    ],
)
def test_entry_with_what_only_a_file_can_hold_is_named(embedded, statement, serial):
    tell(embedded)
    tamper(embedded, statement)
    assert first_fault(embedded).serial == serial


def test_reordered_entries_are_found(told):
    tamper(
        told,
        "UPDATE ledger SET serial = 100 WHERE serial = 2",
        "UPDATE ledger SET serial = 2 WHERE serial = 3",
        "UPDATE ledger SET serial = 3 WHERE serial = 100",
    )
    assert first_fault(told).serial == 2


def test_inserted_entry_is_found_even_with_a_digest_of_its_own(told):
    with told.unit_of_work() as uow:
        forged = uow.ledger.entries()[2]
    values = {name: getattr(forged, name) for name in COLUMNS} | {"subject": "forged"}
    values["digest"] = canonical_digest({name: values[name] for name in COLUMNS if name != "digest"})
    values["content"] = json.dumps(values["content"])
    with unguarded(told) as connection:
        connection.execute(delete(LedgerRow).where(LedgerRow.serial == 3))
        connection.execute(insert(LedgerRow).values(values))
    assert first_fault(told).serial in (3, 4)


def test_long_history_is_walked_in_pages(registry):
    with registry.unit_of_work() as uow:
        for number in range(1100):
            uow.ledger.append("thing.done", "thing", {"number": number})
    assert first_fault(registry) is None
    tamper(registry, "UPDATE ledger SET content = '{}' WHERE serial = 1050")
    assert first_fault(registry).serial == 1050


def test_entry_that_is_no_text_is_found_on_a_later_page(embedded):
    with embedded.unit_of_work() as uow:
        for number in range(1100):
            uow.ledger.append("thing.done", "thing", {"number": number})
    tamper(embedded, "UPDATE ledger SET content = CAST(x'ff' AS TEXT) WHERE serial = 1050")
    assert first_fault(embedded).serial == 1050


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_changed_byte_is_found(told, data):
    serial = data.draw(st.integers(1, 5))
    name = data.draw(st.sampled_from(COLUMNS))
    before = stored(told)
    row = dict(before[serial - 1])
    row[name] = changed(row[name], data, told)
    with unguarded(told) as connection:
        connection.execute(delete(LEDGER).where(LEDGER.c.serial == serial))
        connection.execute(insert(LEDGER).values(row))
    try:
        assert first_fault(told) is not None
    finally:
        put_back(told, before)
    assert first_fault(told) is None


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_deleted_inserted_or_reordered_entry_is_found(told, data):
    before = stored(told)
    rows = [dict(row) for row in before]
    kind = data.draw(st.sampled_from(["deleted", "inserted", "reordered"]))
    place = data.draw(st.integers(0, 3))
    if kind == "deleted":  # the last one is no case: a cut tail shows with an anchor only
        del rows[place]
        closed = data.draw(st.booleans())
        for row in rows[place:]:
            row["serial"] -= closed
    elif kind == "inserted":
        forged = rows[place] | {"subject": "forged", "digest": "f" * 64, "previous": "e" * 64}
        for row in rows[place:]:
            row["serial"] += 1
        rows.append(forged)
    else:
        one, other = rows[place], rows[place + 1]
        one["serial"], other["serial"] = other["serial"], one["serial"]
    put_back(told, rows)
    try:
        assert first_fault(told) is not None
    finally:
        put_back(told, before)


LEDGER = table("ledger", *(column(name) for name in COLUMNS))


def stored(registry):
    with registry.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(LEDGER).order_by(LEDGER.c.serial)).mappings()]


def put_back(registry, rows):
    with unguarded(registry) as connection:
        connection.execute(delete(LEDGER))
        connection.execute(insert(LEDGER), [dict(row) for row in rows])


def changed(value, data, registry):
    """Change one byte of a value; on PostgreSQL the result stays text, or the server would not have it."""
    if isinstance(value, int):
        return value ^ (1 << data.draw(st.integers(3, 40)))
    content = bytearray(value.encode())
    place, flipped = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    if not on_sqlite(registry):
        letter = chr(data.draw(st.integers(32, 126)))
        text = value[: place % len(value)] + letter + value[place % len(value) + 1 :]
        return text if text != value else value[:-1] + chr(ord(value[-1]) ^ 1)
    content[place] ^= flipped
    return content.decode("utf-8", "surrogateescape") if is_text(content) else bytes(content)


def is_text(content):
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def at(registry, moment, **options):
    clock = Clock()
    clock.now = moment
    return opened_at(registry.engine.url.render_as_string(hide_password=False), clock=clock, **options)


def test_clock_that_is_a_little_behind_takes_the_time_of_the_last_entry(told, file):
    with at(told, START - timedelta(minutes=4), key_file=file.parent / "vault.key") as behind:
        with behind.unit_of_work() as uow:
            before, entry = uow.ledger.head(), uow.ledger.append("thing.done", "late", {})
        assert entry.at == before.at


def test_clock_that_is_far_behind_is_refused_until_it_is_accepted(told, file):
    with at(told, START - timedelta(days=400), key_file=file.parent / "vault.key") as behind:
        refused = pytest.raises(RegistryError, match=r"the clock says 2024-.* was written at 2026-")
        with refused as caught, behind.unit_of_work() as uow:
            uow.ledger.append("thing.done", "late", {})
        assert "accept-clock" in caught.value.advice
        with behind.unit_of_work() as uow:
            accepted = uow.ledger.accept_clock("tester")
            entry = uow.ledger.append("thing.done", "late", {})
            assert uow.ledger.accept_clock("tester") is None
    assert (accepted.event, accepted.content["who"]) == ("clock.accepted", "tester")
    assert accepted.content["before"] > accepted.at
    assert entry.at.startswith("2024-")
    assert first_fault(told) is None


def test_entries_are_chosen_by_event_subject_and_time(told):
    with told.unit_of_work() as uow:
        uow.ledger.append("other.done", "thing-9", {})
    with told.snapshot() as uow:
        ledger = uow.ledger
        assert [entry.serial for entry in ledger.entries(chosen=Choice(events=("other",)))] == [6]
        assert [entry.serial for entry in ledger.entries(chosen=Choice(events=("thing.done",)))] == [1, 2, 3, 4, 5]
        assert [entry.serial for entry in ledger.entries(chosen=Choice(subject="thing-3"))] == [4]
        since = datetime.fromisoformat(ledger.entries()[3].at)
        assert [entry.serial for entry in ledger.newest(2, chosen=Choice(since=since))] == [5, 6]
        assert [entry.serial for entry in ledger.newest(9, chosen=Choice(since=since))] == [4, 5, 6]
        assert ledger.newest(0) == ()
        assert ledger.entries(chosen=Choice(subject="thing%")) == ()
