"""Lives of key sets, suspects and jobs in the registry, on both databases."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from fpvec_audit.domain.keys import PENDING
from fpvec_audit.domain.records import JobState, KeySetState, ModelRole, SuspectKind
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import KeySetError, RegistryError, UsageError
from fpvec_audit.registry.processes import Process, is_gone, this_process
from fpvec_audit.registry.repositories.jobs import LIFELESS
from fpvec_audit.registry.tables import JobRow
from tests.registry.builders import (
    START,
    audit_record,
    key_set_record,
    model_record,
    secret,
    stamp_record,
    vector_record,
)

KEY_SET = key_set_record().id
ENDPOINT = {"suspect": {"kind": "endpoint"}}


@pytest.fixture
def uow(registry):
    with registry.unit_of_work() as uow:
        uow.key_sets.add(key_set_record(), secret())
        uow.models.add(model_record())
        yield uow


def state(uow):
    return uow.key_sets.get(KEY_SET).state


def events(uow, subject):
    return [entry.event for entry in uow.ledger.about(subject)]


def issued(uow):
    from sqlalchemy import select

    from fpvec_audit.registry.tables import CandidateRow

    return list(uow.session.scalars(select(CandidateRow.position).where(CandidateRow.mark.is_not(None))))


def test_bound_key_set_is_embedded_when_a_model_carries_it_and_not_before(uow):
    uow.key_sets.bind(KEY_SET, "a" * 64)
    assert state(uow) is KeySetState.ISSUED
    assert uow.key_sets.embed(KEY_SET, "a" * 64).state is KeySetState.EMBEDDED
    uow.key_sets.embed(KEY_SET, "a" * 64)
    assert events(uow, KEY_SET).count("key_set.embedded") == 1


def test_key_set_is_burnt_with_the_last_issued_candidate_that_nobody_had_seen(uow):
    *first, last = issued(uow)
    decoys = set(range(10)) - {*first, last}
    uow.key_sets.burn(KEY_SET, [*first, *decoys], where="au-1")
    assert state(uow) is KeySetState.ISSUED
    uow.key_sets.burn(KEY_SET, [last], where="au-2")
    assert state(uow) is KeySetState.BURNT
    assert uow.ledger.about(KEY_SET, events=["key_set.used_up"])[0].content["where"] == "au-2"
    assert uow.candidates.burnt_counts([KEY_SET]) == {KEY_SET: 10}


def test_key_set_ends_for_good_and_the_ledger_says_who_and_why(uow):
    uow.key_sets.end(KEY_SET, KeySetState.RETIRED, reason=" replaced ", by="ann")
    end = uow.key_sets.ended(KEY_SET)
    assert (end.state, end.by, end.reason) == (KeySetState.RETIRED, "ann", "replaced")
    with pytest.raises(KeySetError, match="retired already"):
        uow.key_sets.end(KEY_SET, KeySetState.RETIRED, reason="again", by="ann")
    uow.key_sets.end(KEY_SET, KeySetState.COMPROMISED, reason="leaked", by="bob")
    assert uow.key_sets.ended(KEY_SET).reason == "leaked"
    said = {"reason": "leaked", "by": "bob", "before": "retired"}
    assert said.items() <= uow.ledger.entries()[-1].content.items()
    for other in (KeySetState.RETIRED, KeySetState.COMPROMISED):
        with pytest.raises(KeySetError, match="compromised already"):
            uow.key_sets.end(KEY_SET, other, reason="again", by="ann")
    uow.key_sets.embed(KEY_SET, "a" * 64)
    uow.key_sets.burn(KEY_SET, range(10), where="au-1")
    assert state(uow) is KeySetState.COMPROMISED


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 201])
def test_key_set_does_not_end_without_a_reason_that_can_be_read(uow, reason):
    with pytest.raises(UsageError):
        uow.key_sets.end(KEY_SET, KeySetState.RETIRED, reason=reason, by="ann")
    assert state(uow) is KeySetState.ISSUED


def test_key_set_that_ended_while_it_waited_for_chance_is_not_issued_any_more(registry):
    waiting = key_set_record("waiting", grade=PENDING)
    with registry.unit_of_work() as uow:
        uow.key_sets.add(waiting, secret())
        uow.key_sets.end(waiting.id, KeySetState.RETIRED, reason="not needed", by="ann")
        with pytest.raises(KeySetError, match="not issued any more"):
            uow.key_sets.complete(waiting.id, object(), chance=b"", grade="anchored", proof={})


def test_suspect_is_recorded_at_the_first_meeting_only(uow):
    later = START + timedelta(days=1)
    uow.audits.plan(audit_record(KEY_SET, id="au-1", suspect_digest="5" * 64, suspect="/first"))
    uow.audits.plan(audit_record(KEY_SET, id="au-2", suspect_digest="5" * 64, suspect="/second", created_at=later))
    uow.audits.plan(audit_record(KEY_SET, id="au-3", suspect_digest="6" * 64, plan=ENDPOINT, created_at=later))
    first, second = uow.suspects.list()
    assert (first.kind, first.location, first.first_seen_at) == (SuspectKind.CHECKPOINT, "/first", START)
    assert (second.kind, second.first_seen_at) == (SuspectKind.ENDPOINT, later)
    assert uow.suspects.get("55555") == first
    assert events(uow, first.id) == ["suspect.seen"]
    assert [audit.id for audit in uow.audits.of_suspect(first.id)] == ["au-1", "au-2"]


def test_suspects_of_old_audits_without_a_digest_are_counted_by_location(uow):
    for number, (suspect, digest) in enumerate([("/a", ""), ("/a", ""), ("/b", ""), ("/c", "5" * 64)]):
        uow.audits.plan(audit_record(KEY_SET, id=f"au-{number}", suspect=suspect, suspect_digest=digest))
    assert len(uow.suspects.list()) == 1
    assert uow.suspects.count() == 3


def test_audits_are_found_by_what_is_asked_of_them(uow):
    for number in range(3):
        uow.audits.plan(audit_record(KEY_SET, id=f"au-{number}", plan_digest=str(number) * 64))
    uow.audits.finish("au-1", verdict="MATCH", result={})
    assert [audit.id for audit in uow.audits.unfinished(KEY_SET)] == ["au-0", "au-2"]
    assert uow.audits.with_plan("2" * 64).id == "au-2"
    assert uow.audits.with_plan("9" * 64) is None
    assert uow.audits.some({"au-0", "au-9"}).keys() == {"au-0"}


def test_own_models_that_carry_a_key_set_come_newest_stamp_first_and_their_matches_are_found(uow):
    for name, digit, role in (
        ("fingerprinted", "b", ModelRole.FINGERPRINTED),
        ("stamped", "c", ModelRole.STAMPED),
        ("newer", "d", ModelRole.STAMPED),
        ("trained", "e", ModelRole.FINGERPRINTED),
        ("stranger", "f", ModelRole.SUSPECT),
    ):
        uow.models.add(model_record(name, digit=digit, role=role, parent="a" * 64))
    uow.vectors.add(vector_record(key_set=KEY_SET))
    uow.stamps.add(stamp_record(stamped="c" * 64))
    newer = START + timedelta(days=1)
    uow.stamps.add(stamp_record(id="st-1", stamped="d" * 64, created_at=newer))
    own = uow.models.own(KEY_SET, base="a" * 64, most=9)
    assert [model.name for model in own] == ["newer", "stamped", "fingerprinted", "trained"]
    assert [model.name for model in uow.models.own(KEY_SET, base=None, most=1)] == ["newer", "fingerprinted"]
    for number, digit in enumerate("cdf"):
        uow.audits.plan(audit_record(KEY_SET, id=f"au-{number}", suspect_digest=digit * 64))
        uow.audits.finish(f"au-{number}", verdict="MATCH", result={})
    matches = uow.audits.of_own_models(KEY_SET, base="a" * 64, verdict="MATCH")
    assert [audit.id for audit in matches] == ["au-1", "au-0"]


def test_model_is_found_where_it_was_registered_last(uow):
    uow.models.add(model_record("newer", digit="b", location="/models/base", created_at=START + timedelta(days=1)))
    assert uow.models.lying_at("/models/base").name == "newer"
    assert uow.models.lying_at("/nowhere") is None


def test_licensees_are_listed_with_what_was_issued_to_them(uow):
    uow.key_sets.add(key_set_record("globex", seed=1, licensee="Globex"), secret(1))
    uow.models.add(model_record("fingerprinted", digit="b"))
    uow.vectors.add(vector_record())
    uow.stamps.add(stamp_record())
    shown = [(item.name, item.key_sets, item.stamps) for item in uow.licensees.select(Selection(sort="name"))]
    assert shown == [("Bob", 0, 1), ("Globex", 1, 0)]
    vector = "vec-" + "d" * 16
    assert uow.stamps.count_with(vector) == 1
    assert [stamp.licensee for stamp in uow.stamps.latest_with(vector, most=5)] == ["Bob"]


def changed(uow, job, **values):
    uow.session.flush()
    uow.session.execute(update(JobRow).where(JobRow.id == job.id).values(**values))
    uow.session.expire_all()


def test_job_is_interrupted_when_its_process_is_gone_though_another_one_has_its_number(uow):
    own = this_process()
    job = uow.jobs.start("stamp", {})
    assert uow.jobs.vanished() == ()
    changed(uow, job, identity=own.identity + "0")
    assert [found.id for found in uow.jobs.mark_interrupted()] == [job.id]
    assert uow.jobs.get(job.id).state is JobState.INTERRUPTED


def test_job_elsewhere_is_interrupted_after_two_minutes_without_a_sign(uow):
    job = uow.jobs.start("stamp", {})
    now = uow.jobs.get(job.id).started_at
    changed(uow, job, host="elsewhere", heartbeat_at=now - LIFELESS + timedelta(seconds=30))
    assert uow.jobs.vanished() == ()
    changed(uow, job, heartbeat_at=now - LIFELESS)
    assert [found.id for found in uow.jobs.vanished()] == [job.id]


def test_job_that_was_only_held_up_is_running_again_at_its_next_beat_and_ends_as_it_ends(uow):
    job = uow.jobs.start("stamp", {})
    changed(uow, job, host="elsewhere", heartbeat_at=START - LIFELESS)
    uow.jobs.mark_interrupted()
    assert uow.jobs.beat(job.id) is False
    shown = uow.jobs.get(job.id)
    assert (shown.state, shown.ended_at) == (JobState.RUNNING, None)
    uow.jobs.mark_interrupted()
    assert uow.jobs.finish(job.id, JobState.SUCCEEDED, {}).state is JobState.SUCCEEDED
    with pytest.raises(RegistryError, match="not running"):
        uow.jobs.finish(job.id, JobState.FAILED, {})


def test_only_a_running_job_can_be_asked_to_end_and_the_first_asking_counts(uow):
    job = uow.jobs.start("stamp", {})
    asked = uow.jobs.ask_to_cancel(job.id).cancel_asked_at
    assert uow.jobs.ask_to_cancel(job.id).cancel_asked_at == asked
    assert uow.jobs.beat(job.id) is True
    uow.jobs.finish(job.id, JobState.CANCELLED, {})
    with pytest.raises(UsageError, match="was cancelled"):
        uow.jobs.ask_to_cancel(job.id)


def test_process_is_gone_only_where_that_is_certain():
    own = this_process()
    assert not is_gone(own)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    assert is_gone(replace(own, number=child))
    os.waitpid(child, 0)
    assert is_gone(replace(own, number=child))
    assert is_gone(Process(own.host, child))
    assert not is_gone(replace(own, number=child, host="elsewhere"))
    assert not is_gone(replace(own, number=child, identity="another-boot/pid:[1]/7"))
