"""The accuser leaves out what does not suit him: decoys, records, whole runs, or whatever came after a lucky moment."""

import hashlib
import random
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from fpvec_audit.domain.audit_plan import Begin, question_order
from fpvec_audit.domain.keys import ANCHORED, GRINDING_ALLOWANCE, SELF_ATTESTED
from fpvec_audit.domain.rank_test import rank_sum_p_value
from fpvec_audit.domain.sequential import SequentialTest
from fpvec_audit.errors import BackendError, EvidenceError, UnknownNameError
from fpvec_audit.evidence.bundle import Burn
from fpvec_audit.services.verification import verify_registry
from tests.accuser.forging import refusal, verified
from tests.evidence import builders
from tests.services.test_audit import Dying, answering, rendered, silent

EVERYBODY = range(128)


def test_decoys_that_matched_cannot_be_dropped_from_the_transcript():
    whole = builders.story(source="witness", witness=True, knows=EVERYBODY)
    kept = set(whole.key_set.issued_indices)
    contents = tuple(item for item in whole.contents if item["kind"] != "answer" or item["index"] in kept)
    fewer = replace(whole, contents=contents)
    evidence = replace(whole.evidence(), records=fewer.records, segment=fewer.ledger("MATCH")[3:])
    assert "candidates are opened, which are not the 16 that were asked" in refusal(builders.signed(evidence))


def test_decoys_that_matched_cannot_be_planned_away():
    drawn, _, _ = builders.key_set(source="witness")
    kept = tuple(sorted([*drawn.issued_indices, *[item.index for item in drawn.decoys[:60]]]))
    story = builders.story(source="witness", witness=True, population=kept)
    assert "52 candidates were left out or put in without an earlier audit" in refusal(story.bundle())


def removing(drawn, unwanted, *, tried):
    """Return earlier audits that never were, each of which showed just one candidate that is to be left out."""
    burns = []
    for index in unwanted:
        before = builders.plan_for(drawn, audit=f"{index:016x}", suspect=builders.SUSPECT | {"digest": "6" * 64})
        while True:
            tried.append(index)
            begin = Begin(hashlib.sha256(b"%d" % len(tried)).hexdigest())
            if question_order(before, begin)[0] == index:
                break
        burns.append(Burn(before, begin, 1))
    return tuple(burns)


def test_candidates_cannot_be_left_out_one_by_one_with_nonces_that_were_tried():
    """About N nonces for each candidate make any population, and with it any p, from an innocent's likelihoods.

    Several earlier audits that nobody but the owner vouches for are refused for this; the allowance of 2^40 would not
    pay for it, as each was tried on its own.
    """
    drawn, _, _ = builders.key_set(size=(16, 48))
    chance = random.Random(1)
    liked = {index: chance.random() for index in range(64)}
    issued = sorted(drawn.issued_indices, key=liked.get)[-8:]
    decoys = sorted((item.index for item in drawn.decoys), key=liked.get)[:24]
    kept = tuple(sorted([*issued, *decoys]))
    tried = []
    burns = removing(drawn, sorted(set(range(64)) - set(kept)), tried=tried)
    assert len(tried) < 32 * 64 * 3
    scores = [[Fraction(liked[index]) for index in side] for side in (issued, decoys)]
    assert rank_sum_p_value(*scores) < Fraction(1, 10**5)
    plan = {"tests": ("exact", "likelihood"), "likelihood": {"statistic": "response", "base": ""}}
    story = builders.story(size=(16, 48), population=kept, burns=burns, knows=(), **plan)
    assert "32 earlier audits" in refusal(story.bundle())
    assert "tried one after the other" in refusal(story.bundle())


def test_audits_without_a_witness_do_not_account_for_what_later_ones_leave_out(bench, witnessed_keys):
    audits = [bench.audit(answering(witnessed_keys.issued), name="other") for _ in range(2)]
    with bench.registry.unit_of_work() as uow:
        for number, earlier in enumerate(audits):
            shown = question_order(earlier.plan, earlier.begin)[: 4 + number]
            uow.key_sets.burn(earlier.plan.key_set, shown, where=earlier.audit_id)
    result = bench.audit(answering(witnessed_keys.issued), fresh_only=True)
    assert result.plan.set_grade == SELF_ATTESTED
    with pytest.raises(EvidenceError, match="because of 2 audits whose plans no witness signed"):
        bench.export(result)


def shown_before(*numbers, nonce="8", witness=True):
    """Return the story of an audit after earlier ones, of so many candidates each."""
    drawn, _, _ = builders.key_set(source="witness")
    burns, shown = [], set()
    for place, asked in enumerate(numbers):
        before = builders.plan_for(drawn, audit=f"{place:016x}", suspect=builders.SUSPECT | {"digest": "6" * 64})
        begin = builders.beginning(before, witness=witness, nonce=nonce * 64)
        burns.append(Burn(before, begin, asked))
        shown |= set(burns[-1].candidates)
    rest = tuple(index for index in EVERYBODY if index not in shown)
    return {"source": "witness", "witness": True, "population": rest, "burns": tuple(burns)}


def test_numbers_of_candidates_shown_cannot_be_searched_for_without_paying():
    """One earlier audit leaves N numbers to choose from, which the bundle says; several cost the allowance."""
    once = verified(builders.story(**shown_before(20)).bundle())
    assert (once.valid, once.grade) == (True, ANCHORED)
    assert any("multiplies p by 128" in text for text in once.not_recomputed)
    assert "grinding allowance" in refusal(builders.story(**shown_before(10, 10)).bundle())
    assert verified(builders.story(**shown_before(10, 10), set_grade=SELF_ATTESTED).bundle()).grade == SELF_ATTESTED


def test_more_numbers_than_the_allowance_pays_for_are_refused():
    story = builders.story(**shown_before(5, 5, 5, 5, 5, 5), set_grade=SELF_ATTESTED)
    assert 129**5 < GRINDING_ALLOWANCE < 129**6
    assert "more than 2^40 populations" in refusal(story.bundle())


def test_a_run_cannot_be_deleted_from_the_registry_unseen(bench, witnessed_keys):
    """Its plan and its end stand in the ledger, whose chain breaks where an entry is missing."""
    unlucky = bench.audit(silent())
    lucky = bench.audit(answering(witnessed_keys.issued))
    bench.execute("DELETE FROM audit_record WHERE audit_id = :id", id=unlucky.audit_id)
    bench.execute("DELETE FROM audit WHERE id = :id", id=unlucky.audit_id)
    with pytest.raises(UnknownNameError), bench.registry.unit_of_work() as uow:
        uow.audits.get(unlucky.audit_id)
    problems = verify_registry(registry=bench.registry).problems
    assert any(f"audit {unlucky.audit_id} is in the ledger" in problem for problem in problems)
    events = [entry.event for entry in bench.ledger() if entry.subject == unlucky.audit_id]
    assert events == ["audit.planned", "audit.begun", "audit.finished"]
    bench.execute("DELETE FROM ledger WHERE subject = :id", id=unlucky.audit_id)
    assert not verify_registry(registry=bench.registry).valid
    with pytest.raises(EvidenceError, match="does not continue the ledger's chain"):
        bench.export(lucky)


def test_a_ledger_with_an_entry_cut_out_is_refused_in_a_bundle():
    story = builders.anchored()
    evidence = story.evidence()
    for place in range(1, len(evidence.segment) - 1):
        cut = (*evidence.segment[:place], *evidence.segment[place + 1 :])
        assert "gap" in refusal(builders.signed(replace(evidence, segment=cut, anchors=())))


def test_an_exact_audit_cut_at_a_lucky_moment_has_no_result_and_goes_on(bench, witnessed_keys):
    known = {rendered(item.prompt): item.response for item in witnessed_keys.issued}
    suspect = Dying(lambda prompt: known.get(prompt, ""))
    suspect.lives = 60
    with pytest.raises(BackendError):
        bench.audit(suspect)
    with bench.registry.unit_of_work() as uow:
        (cut,) = uow.audits.list()
    assert (cut.verdict, cut.ended_at) == ("", None)
    with pytest.raises(EvidenceError, match="is not finished"):
        bench.export(SimpleNamespace(audit_id=cut.id))
    whole = bench.audit(answering(witnessed_keys.issued))
    assert [run["verdict"] for run in whole.earlier_audits] == ["unfinished"]


@pytest.mark.parametrize("reason", ["stopped early", "cut off", "complete"])
def test_an_exact_audit_that_was_cut_does_not_verify_whatever_its_end_is_called(reason):
    whole = builders.story(source="witness", witness=True)
    contents = (*whole.contents[:70], {"kind": "end", "reason": reason})
    fewer = replace(whole, contents=contents)
    disclosed = whole.evidence().disclosure
    asked = {content["index"] for content in contents if content["kind"] == "answer"}
    opened = replace(disclosed, openings=tuple(item for item in disclosed.openings if item.candidate.index in asked))
    evidence = replace(
        whole.evidence(), records=fewer.records, disclosure=opened, segment=fewer.ledger("MATCH")[3:], anchors=()
    )
    assert "70 questions were asked, planned were 128" in refusal(builders.signed(evidence))


def test_a_sequential_audit_stopped_at_its_luckiest_moment_accuses_no_more_innocents():
    """Of suspects that answer a third of the candidates, whatever the lottery says."""
    audits, level = 1500, Fraction(1, 20)
    chance, accused = random.Random(7), 0
    for _ in range(audits):
        issued, matched = set(chance.sample(range(48), 8)), set(chance.sample(range(48), 16))
        test = SequentialTest(candidates=48, issued=8)
        for index in chance.sample(range(48), 48):
            test.step(matched=index in matched, issued=index in issued)
        accused += test.p_value <= level  # the largest E of all moments
    assert accused <= audits * level + 5 * float(audits * level) ** 0.5


def test_a_sequential_order_that_the_owner_could_have_tried_out_pays_the_allowance():
    asked = {"source": "witness", "tests": ("sequential",), "asked": 60}
    assert "grinding allowance" in refusal(builders.story(**asked).bundle())
    found = verified(builders.story(**asked, set_grade=SELF_ATTESTED).bundle())
    assert (found.valid, found.verdict) == (True, "INCONCLUSIVE")
