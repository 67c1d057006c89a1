from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import update

from fpvec_audit.domain.keys import KeySetSpecification, draw_key_set
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import AmbiguousNameError, KeySetError, RegistryError, UnknownNameError, UsageError
from fpvec_audit.registry.tables import KeySetRow
from tests.registry.builders import (
    START,
    attack_run_record,
    audit_record,
    key_set_record,
    model_record,
    secret,
    stamp_record,
    vector_record,
)


@pytest.fixture
def stocked(registry):
    """Two models and a key set, ready for vectors and stamps."""
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record("fingerprinted", digit="b", role=ModelRole.FINGERPRINTED, parent="a" * 64))
        uow.key_sets.add(key_set_record(), secret())
    return registry


def events(registry):
    with registry.unit_of_work() as uow:
        return [entry.event for entry in uow.ledger.entries()]


def test_key_set_comes_back_as_it_was_given(registry):
    record = key_set_record(licensee="Bob")
    with registry.unit_of_work() as uow:
        uow.key_sets.add(record, secret())
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme") == record
        assert uow.key_sets.list() == (record,)
        assert uow.vault.reveal(record.id) == secret()
        assert uow.licensees.list() == ("Bob",)


def test_key_set_with_marks_keeps_its_assignment(registry):
    record = key_set_record(specification=KeySetSpecification(issued=6, decoys=6, marks=3))
    with registry.unit_of_work() as uow:
        uow.key_sets.add(record, secret())
    drawn = draw_key_set(secret(), KeySetSpecification(issued=6, decoys=6, marks=3))
    with registry.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT position, mark FROM candidate ORDER BY position").all()
    assert [tuple(position for position, mark in rows if mark == number) for number in range(3)] == [
        tuple(sorted(indices)) for indices in drawn.marks
    ]
    assert sum(mark is None for _, mark in rows) == 6


def test_key_set_with_another_secret_is_refused(registry):
    with pytest.raises(KeySetError, match="does not belong"), registry.unit_of_work() as uow:
        uow.key_sets.add(key_set_record(), secret(9))
    assert events(registry) == []


def test_key_set_name_that_exists_is_refused(stocked):
    with pytest.raises(UsageError, match="'acme' exists already"), stocked.unit_of_work() as uow:
        uow.key_sets.add(key_set_record(seed=1), secret(1))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "a\x1b[31m", "x" * 201, "half \ud800 pair"])
def test_unusable_names_are_refused(registry, name):
    with pytest.raises(UsageError, match="name of a key set"), registry.unit_of_work() as uow:
        uow.key_sets.add(key_set_record(name), secret())


def test_name_is_found_in_either_unicode_form(registry):
    with registry.unit_of_work() as uow:
        uow.key_sets.add(key_set_record("cafe\u0301"), secret())
        assert uow.key_sets.get("caf\u00e9").name == "caf\u00e9"


def test_reference_by_beginning_of_an_id(stocked):
    record = key_set_record()
    with stocked.unit_of_work() as uow:
        for reference in (record.id, record.id[:6], record.id[3:9]):
            assert uow.key_sets.get(reference) == record
        assert uow.models.get("aaaa").name == "base"


def test_unknown_reference_suggests_the_nearest_name(stocked):
    with pytest.raises(UnknownNameError, match="did you mean acme") as caught, stocked.unit_of_work() as uow:
        uow.key_sets.get("acne")
    assert "fpvec key list" in caught.value.advice


@pytest.mark.parametrize("reference", ["", "a", "aaa", "%", "ks-", "ks-%", "aaaa%", "zzzz", "A" * 64])
def test_what_is_no_beginning_of_an_id_is_unknown(stocked, reference):
    with stocked.unit_of_work() as uow:
        for find in (uow.key_sets.get, uow.models.get, uow.vectors.get, uow.stamps.get, uow.audits.get, uow.jobs.get):
            with pytest.raises(UnknownNameError):
                find(reference)


def test_ambiguous_beginning_names_the_candidates(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("one", digit="a"))
        uow.models.add(replace(model_record("two"), id="aaaaa" + "b" * 59))
        with pytest.raises(AmbiguousNameError, match="fits several ids: aaaaa"):
            uow.models.get("aaaa")
        assert uow.models.get("aaaaab").name == "two"


def test_name_wins_over_the_beginning_of_an_id(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("one", digit="a"))
        uow.models.add(model_record("aaaa", digit="b"))
        assert uow.models.get("aaaa").id == "b" * 64


def test_binding_is_recorded_once_and_to_one_base(stocked):
    with stocked.unit_of_work() as uow:
        bound = uow.key_sets.bind(key_set_record().id, "a" * 64, {"settings": {"rate": 1e-3}})
        assert bound.base == "a" * 64
        assert uow.ledger.head().content["settings"] == {"rate": "0.001"}
        assert uow.ledger.head().content["root"] == bound.commitment.root
        assert uow.key_sets.bind(bound.id, "a" * 64).base == "a" * 64
        with pytest.raises(KeySetError, match="bound to the base aaaaaaaa"):
            uow.key_sets.bind(bound.id, "b" * 64)


def test_burnt_candidates_keep_their_first_date(stocked):
    identifier = key_set_record().id
    with stocked.unit_of_work() as uow:
        uow.key_sets.burn(identifier, [1, 3], where="au-1")
        uow.key_sets.burn(identifier, [3, 4], where="au-2")
        assert uow.candidates.burnt(identifier) == {1, 3, 4}
        assert [entry.content["candidates"] for entry in uow.ledger.entries() if entry.event == "key_set.burnt"] == [
            [1, 3],
            [4],
        ]


def test_altered_commitment_is_noticed(stocked):
    changed = {**key_set_record().commitment.to_json(), "issued": 5}
    with stocked.engine.begin() as connection:
        connection.execute(update(KeySetRow).values(commitment=changed))
    with pytest.raises(RegistryError, match="not the one that was issued"), stocked.unit_of_work() as uow:
        uow.key_sets.get("acme")


def test_model_with_the_same_weights_is_the_same_model(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("parent", digit="9"))
        first = uow.models.add(model_record("seen", role=ModelRole.SUSPECT, architecture=""))
        again = uow.models.add(model_record("other name", parent="9" * 64, location="/elsewhere"))
        assert (again.name, again.created_at) == (first.name, first.created_at)
        assert (again.role, again.parent, again.location, again.architecture) == (
            ModelRole.BASE,
            "9" * 64,
            "/elsewhere",
            "gpt2",
        )
        assert len(uow.models.list()) == 2
    assert events(registry) == ["model.registered", "model.registered", "model.completed"]


def test_known_model_at_a_new_place_makes_no_history(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record(location="/elsewhere"))
        uow.models.locate("a" * 64, "/third")
        assert uow.models.find("a" * 64).location == "/third"
        assert uow.models.find("0" * 64) is None
    assert events(registry) == ["model.registered"]


def test_model_name_of_other_weights_is_refused_and_a_free_one_offered(stocked):
    with stocked.unit_of_work() as uow:
        assert uow.models.free_name("base") == "base-2"
        assert uow.models.free_name("new") == "new"
        with pytest.raises(UsageError, match="'base' exists already"):
            uow.models.add(model_record(digit="c"))


def test_model_with_unknown_parent_is_refused(registry):
    with pytest.raises(RegistryError, match="is not registered"), registry.unit_of_work() as uow:
        uow.models.add(model_record(parent="9" * 64))


def test_models_are_listed_by_role(stocked):
    with stocked.unit_of_work() as uow:
        assert [model.name for model in uow.models.list(ModelRole.FINGERPRINTED)] == ["fingerprinted"]


def test_vector_comes_back_and_joins_its_family(stocked):
    record = vector_record(key_set=key_set_record().id)
    second = vector_record(digit="c", mark=1, key_set=record.key_set)
    with stocked.unit_of_work() as uow:
        assert uow.vectors.add(record) == record
        assert uow.vectors.add(second) == second
        assert uow.vectors.get("vec-d") == record
        assert set(uow.vectors.list(base="a" * 64, key_set=record.key_set)) == {record, second}
        assert uow.vectors.list(base="b" * 64) == ()
        moved = uow.vectors.add(replace(record, location="/moved"))
        assert moved == replace(record, location="/moved")


def test_vector_of_a_family_on_another_base_is_refused(stocked):
    with stocked.unit_of_work() as uow:
        uow.vectors.add(vector_record())
        with pytest.raises(RegistryError, match="belongs to the base aaaaaaaa"):
            uow.vectors.add(vector_record(digit="c", base="b" * 64))


def test_stamp_comes_back_with_vectors_in_order(stocked):
    record = stamp_record(vectors=(("vec-" + "d" * 16, 0.5), ("vec-" + "c" * 16, 1.0), ("vec-" + "d" * 16, 0.25)))
    with stocked.unit_of_work() as uow:
        uow.vectors.add(vector_record())
        uow.vectors.add(vector_record(digit="c", mark=1))
        assert uow.stamps.add(record) == record
        assert uow.stamps.get("st-e") == record
        assert uow.stamps.of_model("b" * 64) == uow.stamps.list() == (record,)
        assert uow.stamps.of_model("a" * 64) == ()
        assert uow.ledger.head().content["vectors"][0] == ["vec-" + "d" * 16, "0.5"]


def test_repeated_stamp_only_moves(stocked):
    with stocked.unit_of_work() as uow:
        uow.vectors.add(vector_record())
        uow.stamps.add(stamp_record())
        assert uow.stamps.add(stamp_record(location="/second")).location == "/second"
        assert len(uow.stamps.list()) == 1
    assert events(stocked)[-2:] == ["stamp.made", "stamp.repeated"]


def test_stamp_with_an_unknown_vector_is_refused_whole(stocked):
    with pytest.raises(RegistryError, match="contradicts"), stocked.unit_of_work() as uow:
        uow.stamps.add(stamp_record())
    with stocked.unit_of_work() as uow:
        assert uow.stamps.list() == ()
        assert uow.licensees.list() == ()
    assert "stamp.made" not in events(stocked)


def test_audit_is_planned_then_finished_once(stocked):
    record = audit_record(key_set_record().id)
    with stocked.unit_of_work() as uow:
        assert uow.audits.plan(record) == record
    with stocked.unit_of_work() as uow:
        done = uow.audits.finish(record.id, verdict="MATCH", result={"fsr": 0.9})
        assert (done.verdict, done.result, done.ended_at > START) == ("MATCH", {"fsr": 0.9}, True)
        assert uow.audits.get("au-f") == done
        assert uow.audits.list(key_set=record.key_set) == uow.audits.list() == (done,)
        assert uow.audits.list(key_set="ks-0") == ()
        with pytest.raises(RegistryError, match="ended already"):
            uow.audits.finish(record.id, verdict="NO_MATCH", result={})
        with pytest.raises(RegistryError, match="no audit"):
            uow.audits.finish("au-0", verdict="MATCH", result={})
    assert events(stocked)[-2:] == ["audit.planned", "audit.finished"]


def test_unknown_trace_suggests_the_nearest(stocked):
    with stocked.unit_of_work() as uow:
        for digit, trace in (("1", ""), ("2", "tr-5f0c"), ("3", "tr-5f0c"), ("4", "tr-0001")):
            plan = {"trace": trace} if trace else {}
            uow.audits.plan(audit_record(key_set_record().id, id="au-" + digit * 16, plan=plan))
        with pytest.raises(UnknownNameError, match="did you mean tr-5f0c"):
            uow.audits.of_trace("tr-5fc")
        with pytest.raises(UnknownNameError, match="known: tr-0001, tr-5f0c"):
            uow.audits.of_trace("tr-nope")


def test_attack_runs_are_listed_by_model(stocked):
    record = attack_run_record(key_set_record().id)
    with stocked.unit_of_work() as uow:
        assert uow.attack_runs.add(record) == record
        assert uow.attack_runs.list(stamped="b" * 64) == uow.attack_runs.list() == (record,)
        assert uow.attack_runs.list(stamped="a" * 64) == ()
        assert uow.ledger.head().content["parameters"] == {"steps": 3, "rate": "0.1"}


def test_job_runs_and_ends_once(registry):
    with registry.unit_of_work() as uow:
        job = uow.jobs.start("stamp", {"out": "/x"})
        assert job.state is JobState.RUNNING
        assert job.ended_at is None
    with registry.unit_of_work() as uow:
        ended = uow.jobs.finish(job.id, JobState.FAILED, {"problem": "disk full"})
        assert ended.detail == {"out": "/x", "problem": "disk full"}
        assert ended.ended_at > ended.started_at
        assert uow.jobs.get(job.id[:8]) == ended
        assert uow.jobs.list() == (ended,)
        with pytest.raises(RegistryError, match="not running"):
            uow.jobs.finish(job.id, JobState.SUCCEEDED, {})
    assert events(registry) == []


def test_times_come_back_in_utc_with_microseconds(registry):
    there = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with registry.unit_of_work() as uow:
        uow.models.add(model_record(created_at=there))
    with registry.unit_of_work() as uow:
        assert uow.models.get("base").created_at == there
        assert uow.models.get("base").created_at.tzinfo is UTC


def test_path_that_is_not_unicode_is_refused_in_words(registry):
    with pytest.raises(UsageError, match="not valid Unicode"), registry.unit_of_work() as uow:
        uow.models.add(model_record(location="/models/\udcff"))
    assert events(registry) == []
