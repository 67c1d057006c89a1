"""The whole registry is held against its history: whatever is changed behind its back shows."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column, delete, insert, inspect, select, table, update

from fpvec_audit.registry.row_digests import CHRONICLED
from fpvec_audit.registry.tables import Base
from fpvec_audit.registry.verification import verify_snapshot
from tests.registry.builders import fill, key_set_record, model_record, opened_at, secret
from tests.registry.tampering import on_sqlite, tamper, unguarded

VOUCHED = {
    "licensee": ("name", "created_at"),
    "model": ("name", "role", "architecture", "parent_id", "parameters", "created_at"),
    "model_manifest": ("tensors", "content"),
    "key_set": ("name", "owner", "licensee_id", "commitment", "commitment_digest", "root", "grade", "state", "chance"),
    "candidate": ("position", "mark", "leaf", "burnt_at", "burnt_in"),
    "mark": ("number",),
    "code": ("key_set_id", "text", "colluders", "epsilon", "binding", "created_at"),
    "code_word": ("code_id", "number", "licensee_id", "commitment", "state", "created_at"),
    "vector": ("digest", "family_id", "mark", "fingerprinted_id", "architecture", "inexact_elements", "norm"),
    "vector_family": ("key_set_id", "base_id", "created_at"),
    "stamp": ("downstream_id", "stamped_id", "licensee_id", "location", "applied_ratio", "cosine", "policies"),
    "stamp_vector": ("position", "vector_id", "scale"),
    "audit": ("key_set_id", "suspect", "plan_digest", "plan", "begin", "verdict", "result", "created_at", "ended_at"),
    "audit_record": ("serial", "digest"),
    "attack_run": ("stamped_id", "key_set_id", "attack", "parameters", "state", "result", "created_at"),
    "vault_secret": ("kind", "subject"),
}
"""Every column whose every byte the history vouches for."""


def found(registry):
    with registry.snapshot() as uow:
        return verify_snapshot(uow)


@pytest.fixture
def filled(registry):
    fill(registry)
    return registry


def test_everything_recorded_through_the_repositories_fits(filled):
    verified = found(filled)
    assert (verified.problems, verified.fault) == ((), None)
    assert {"stamp": 2, "stamp_vector": 2, "audit": 2, "audit_record": 3, "candidate": 20}.items() <= (
        verified.rows.items()
    )
    assert set(VOUCHED) <= set(verified.rows) | {"vault_secret"}


def test_every_column_is_vouched_for_or_left_out_on_purpose():
    for spec in CHRONICLED.values():
        mapped = set(Base.metadata.tables[spec.kind].columns.keys())
        assert set(spec.columns) <= mapped <= set(spec.columns) | spec.left_out, spec.kind


def test_digests_are_the_same_on_both_databases(filled, tmp_path):
    with opened_at(f"sqlite:///{tmp_path}/other/registry.db", key_file=tmp_path / "other" / "vault.key") as other:
        fill(other)
        with filled.snapshot() as one, other.snapshot() as two:
            assert one.ledger.head().digest == two.ledger.head().digest


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_changed_value_of_a_row_is_found(filled, data):
    name = data.draw(st.sampled_from(sorted(VOUCHED)))
    changed = data.draw(st.sampled_from(VOUCHED[name]))
    rows, place = stored(filled, name), None
    place = data.draw(st.integers(0, len(rows) - 1))
    try:
        change(filled, name, changed, rows[place], data)
        assert found(filled).problems, (name, changed)
    finally:
        restore(filled, name, rows)
    assert not found(filled).problems


def test_any_deleted_row_is_found(filled):
    for name in VOUCHED:
        rows = stored(filled, name)
        restore(filled, name, rows[1:])
        assert found(filled).problems, name
        restore(filled, name, rows)
    assert not found(filled).problems


def test_any_inserted_row_is_found(filled):
    for name in VOUCHED:
        rows = stored(filled, name)
        restore(filled, name, [*rows, forged(name, rows[0])])
        assert found(filled).problems, name
        restore(filled, name, rows)
    assert not found(filled).problems


def forged(name, row):
    keys = [key.name for key in inspect(Base.metadata.tables[name]).primary_key.columns]
    if name == "vault_secret":
        return row | {"id": 99, "subject": "ks-forged"}
    if len(keys) > 1:
        return row | {keys[1]: 77}
    unique = {"name": "forged", "commitment": "9" * 64, "number": 77, "key_set_id": "ks-forged"}
    unique |= {"digest": "9" * 64, "commitment_digest": "9" * 64}
    return row | {keys[0]: "f" * 20} | {each: value for each, value in unique.items() if each in row}


def test_problem_names_row_field_and_both_values(filled):
    tamper(filled, "UPDATE audit SET verdict = 'NO_MATCH' WHERE id LIKE 'au-f%'")
    assert found(filled).problems == ("audit au-ffffffffffffffff: verdict is 'NO_MATCH', the ledger says 'MATCH'",)


def test_missing_secret_is_found(filled):
    tamper(filled, "DELETE FROM vault_secret")
    assert sum("the vault has no secret" in problem for problem in found(filled).problems) == 2


def test_row_without_an_entry_and_entry_without_a_row_are_found(filled):
    tamper(filled, "UPDATE licensee SET id = 'li-0' WHERE name = 'Bob'")
    problems = found(filled).problems
    assert any("li-0 is recorded, but the ledger has no entry about it" in problem for problem in problems)
    assert any("is in the ledger" in problem and "but not recorded" in problem for problem in problems)


def test_where_files_were_seen_last_is_no_history(filled):
    with filled.unit_of_work() as uow:
        uow.models.locate("b" * 64, "/elsewhere")
    assert found(filled).problems == ()


def test_many_problems_are_counted_and_not_all_told(registry):
    with registry.unit_of_work() as uow:
        for number in range(250):
            uow.models.add(model_record(f"model-{number}", id=f"{number:064x}"))
    tamper(registry, "UPDATE model SET parameters = 1")
    verified = found(registry)
    assert (len(verified.problems), verified.unnamed) == (200, 50)


def old_entries(registry):
    """Rewrite the ledger as a program would have that knew of no digests of rows."""
    from dataclasses import replace

    from fpvec_audit.domain.canonical_json import canonical_bytes
    from fpvec_audit.registry.ledger import FIRST_PREVIOUS, entry_digest

    with registry.snapshot() as uow:
        entries = uow.ledger.entries()
    ledger, previous = Base.metadata.tables["ledger"], FIRST_PREVIOUS
    with unguarded(registry) as connection:
        connection.execute(delete(ledger))
        for entry in entries:
            young = entry.event.startswith("code")  # that program knew of no codes either
            content = {name: value for name, value in entry.content.items() if name != "row" or young}
            entry = replace(entry, content=content, previous=previous)
            previous = entry_digest(entry)
            values = {name: getattr(entry, name) for name in ("serial", "at", "event", "subject", "previous")}
            values |= {"content": canonical_bytes(content).decode(), "digest": previous}
            connection.execute(insert(ledger).values(values))


def test_entries_of_before_rows_had_digests_still_verify(filled):
    old_entries(filled)
    assert found(filled).problems == ()


BY_FIELD = (
    "UPDATE licensee SET name = 'Mallory' WHERE name = 'Bob'",
    "UPDATE model SET role = 'downstream' WHERE role = 'base'",
    "UPDATE key_set SET owner = 'Mallory'",
    "UPDATE key_set SET base_id = NULL",
    "UPDATE candidate SET burnt_at = NULL, burnt_in = NULL",
    "UPDATE candidate SET leaf = 'ff' WHERE position = 2",
    "UPDATE candidate SET mark = NULL",
    "DELETE FROM candidate WHERE position = 9",
    "UPDATE vector SET norm = 0.2",
    "UPDATE vector_family SET base_id = 'x'",
    "UPDATE stamp SET licensee_id = NULL",
    "UPDATE stamp SET location = '/stamped'",
    "UPDATE stamp_vector SET scale = 0.25",
    "DELETE FROM stamp_vector",
    "UPDATE audit SET verdict = 'NO_MATCH' WHERE verdict = 'MATCH'",
    "UPDATE audit SET result = '{}'",
    "UPDATE audit SET begin = NULL",
    "DELETE FROM audit_record WHERE serial = 3",
    "UPDATE attack_run SET state = 'failed'",
    "DELETE FROM attack_run",
)


def test_change_is_found_by_the_fields_that_old_entries_say(filled):
    old_entries(filled)
    for statement in BY_FIELD:
        name = statement.split()[2 if statement.startswith("DELETE") else 1]
        rows = stored(filled, name)
        tamper(filled, statement)
        assert found(filled).problems, statement
        restore(filled, name, rows)
    assert not found(filled).problems


def test_old_and_new_entries_about_one_row_go_together(filled):
    old_entries(filled)
    with filled.unit_of_work() as uow:
        uow.key_sets.burn(key_set_record().id, [5], where="au-2")
    assert found(filled).problems == ()
    tamper(filled, "UPDATE candidate SET burnt_in = 'au-3' WHERE burnt_in = 'au-2'")
    assert found(filled).problems


def test_key_set_that_waits_for_chance_fits(registry):
    record = key_set_record(grade="pending")
    with registry.unit_of_work() as uow:
        uow.key_sets.add(record, secret())
    assert found(registry).problems == ()
    old_entries(registry)
    assert found(registry).problems == ()


def stored(registry, name):
    mapped = Base.metadata.tables[name]
    raw = table(name, *(column(each.name) for each in mapped.columns))
    with registry.engine.connect() as connection:
        keys = [each.name for each in mapped.primary_key.columns]
        rows = connection.execute(select(raw).order_by(*(raw.c[key] for key in keys))).mappings().all()
    return [{key: as_bound(value) for key, value in row.items()} for row in rows]


def as_bound(value):
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def restore(registry, name, rows):
    raw = table(name, *(column(each.name) for each in Base.metadata.tables[name].columns))
    with unguarded(registry) as connection:
        connection.execute(delete(raw))
        for row in rows:
            connection.execute(insert(raw).values(row))


def change(registry, name, changed, row, data):
    """Change one byte (one character, one number) of a value; a value that is missing is put in."""
    value = row[changed]
    if value is None:
        new = "2026-01-02 03:04:05.000678" if changed.endswith("_at") else {"mark": 0, "begin": "{}"}.get(changed, "x")
        if changed.endswith("_at") and not on_sqlite(registry):
            new = "2026-01-02 03:04:05.000678+00"
    elif isinstance(value, bytes):
        new = bytearray(value)
        new[data.draw(st.integers(0, len(new) - 1))] ^= data.draw(st.integers(1, 255))
        new = bytes(new)
    elif isinstance(value, str):
        new = other_text(value, data, registry, changed)
    elif isinstance(value, float):
        new = value + 2.0 ** -data.draw(st.integers(1, 40))
    elif isinstance(value, int):
        new = value ^ (1 << data.draw(st.integers(7, 20)))  # no other row's number
    else:
        new = value.replace(microsecond=(value.microsecond + data.draw(st.integers(1, 999))) % 1_000_000)
    raw = table(name, *(column(each.name) for each in Base.metadata.tables[name].columns))
    keys = [each.name for each in Base.metadata.tables[name].primary_key.columns]
    with unguarded(registry) as connection:
        clause = [raw.c[key] == row[key] for key in keys]
        connection.execute(update(raw).where(*clause).values({changed: new}))


def other_text(value, data, registry, changed):
    document = changed in {"commitment", "policies", "plan", "begin", "result", "parameters"}
    while True:
        place = data.draw(st.integers(0, max(0, len(value) - 1)))
        letter = data.draw(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["Cs", "Cc"]))
        new = value[:place] + letter + value[place + 1 :]
        if new == value:
            continue
        if document and not on_sqlite(registry):
            try:
                if json.loads(new) == json.loads(value):
                    continue
            except ValueError:
                continue
        return new
