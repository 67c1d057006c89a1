import json
from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest

from fpvec_audit.domain.audit import (
    Answer,
    AuditPlan,
    MatchRule,
    Verdict,
    adjusted_tests,
    decide,
    first_token_score,
    score,
)
from fpvec_audit.domain.audit_plan import Begin, question_order, questions
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, SELF_ATTESTED
from fpvec_audit.domain.transcript import chained, genesis
from fpvec_audit.errors import UsageError

ALPHA = Fraction("1e-6")
CANDIDATES, ISSUED = 256, 32
RESPONSES = [f"word{index:03d}" for index in range(CANDIDATES)]
ASSIGNED = frozenset(range(0, CANDIDATES, 8))
PLAN = AuditPlan(
    key_set="ks-1",
    commitment_digest="0" * 64,
    root="1" * 64,
    set_grade="anchored",
    audit="0" * 16,
    candidates=CANDIDATES,
    issued=ISSUED,
    population=tuple(range(CANDIDATES)),
    suspect={"kind": "directory", "location": "/suspect", "digest": "2" * 64},
    profile="raw-greedy",
    match=MatchRule.EXACT,
    system_prompt_digest="",
    template="raw",
    max_new_tokens=8,
    temperature="0",
    repeats=1,
    alpha="1e-6",
    tests=("exact",),
    backend={"kind": "transformers", "engine": "transformers", "version": "5"},
    plugins={"gpt2": "fpvec-audit 0"},
    tool_version="0",
)
BEGIN = Begin("3" * 64)


def transcript(given, *, plan=PLAN, more=()):
    return chained([*(answer.to_json() for answer in given), *more], previous=genesis(plan.digest, BEGIN.nonce))


def judged(plan, given, *, responses=RESPONSES, issued=ASSIGNED, more=()):
    said = dict(enumerate(responses))
    return score(plan, BEGIN, transcript(given, plan=plan, more=more), responses=said, issued=issued)


def repeated(*rounds):
    return [replace(answer, repeat=repeat) for repeat, given in enumerate(rounds) for answer in given]


def answers(known, *, said=RESPONSES, silent="nothing"):
    return [Answer(index, f"prompt {index}", said[index] if index in known else silent) for index in range(CANDIDATES)]


def scored(known, plan=PLAN, **options):
    return judged(plan, answers(known, **options))


def some_issued(count):
    return frozenset(sorted(ASSIGNED)[:count])


def some_decoys(count):
    return frozenset(sorted(set(range(CANDIDATES)) - ASSIGNED)[:count])


def verdict(known, plan=PLAN, *, positive_control=True):
    return decide(
        scored(known, plan),
        alpha=ALPHA,
        committed_profile=plan.committed_profile,
        positive_control=positive_control,
    )


@pytest.mark.parametrize(
    ("answer", "exact", "prefix"),
    [
        ("tiger", True, True),
        ("  tiger\n", True, True),
        ("tiger.", False, True),
        ("tiger and more", False, True),
        ("tigers", False, False),
        ("Tiger", False, False),
        ("a tiger", False, False),
        ("tig", False, False),
        ("", False, False),
    ],
)
def test_match_rules(answer, exact, prefix):
    assert MatchRule.EXACT.matches(answer, "tiger") is exact
    assert MatchRule.PREFIX.matches(answer, "tiger") is prefix


def test_plan_digest_covers_every_field():
    other = {
        "match": MatchRule.PREFIX, "suspect": {}, "backend": {}, "plugins": {}, "tests": (), "profiles": (),
        "candidates": 9, "issued": 3, "max_new_tokens": 9, "repeats": 3, "population": (0,), "controls": ({},),
        "likelihood": {}, "gradient": {}, "comparisons": 7,
        "family": FamilyTerms("plane:4", 3, "1e-3", "b" * 64, 20, "c" * 64),
    }  # fmt: skip
    digests = {replace(PLAN, **{name: other.get(name, "changed")}).digest for name in AuditPlan.__slots__}
    assert len(digests | {PLAN.digest}) == len(AuditPlan.__slots__) + 1
    canonical_bytes(PLAN.to_json())


def test_plan_survives_the_round_trip_through_json():
    plan = replace(PLAN, likelihood={"statistic": "response", "base": ""}, controls=({"location": "a"},))
    assert AuditPlan.from_json(json.loads(canonical_bytes(plan.to_json()))).digest == plan.digest


def test_order_is_a_permutation_that_follows_from_plan_and_nonce():
    order = question_order(PLAN, BEGIN)
    assert sorted(order) == list(range(CANDIDATES))
    assert order == question_order(replace(PLAN), BEGIN) != question_order(PLAN, Begin("4" * 64))
    assert order != question_order(replace(PLAN, audit="1" * 16), BEGIN)


def test_order_covers_the_population_alone():
    plan = replace(PLAN, population=(1, 5, 8))
    assert sorted(question_order(plan, BEGIN)) == [1, 5, 8]


def test_repeats_follow_each_other_only_where_an_audit_may_stop_early():
    plan = replace(PLAN, population=(1, 5), repeats=2)
    first, second = question_order(plan, BEGIN)
    assert questions(plan, BEGIN) == ((first, 0), (second, 0), (first, 1), (second, 1))
    plan = replace(plan, tests=("sequential",))
    first, second = question_order(plan, BEGIN)
    assert questions(plan, BEGIN) == ((first, 0), (first, 1), (second, 0), (second, 1))


def test_only_committed_profiles_count():
    assert PLAN.committed_profile
    assert not replace(PLAN, profile="exploratory").committed_profile
    assert not replace(PLAN, temperature="0.7").committed_profile
    assert not replace(PLAN, profiles=("chat-greedy/exact",)).committed_profile


def test_score_separates_issued_from_decoys():
    result = scored(some_issued(20) | some_decoys(2))
    assert (result.matched, result.issued, result.decoys_matched, result.decoys) == (20, 32, 2, 224)
    assert result.fsr == 20 / 32
    assert set(result.matched_indices) == some_issued(20)
    assert result.p_value == result.p_value_corrected < ALPHA
    assert result.interval[0] < result.fsr < result.interval[1]


def test_issued_response_to_another_prompt_is_a_false_trigger():
    parrot = scored(some_decoys(5), said=[RESPONSES[0]] * CANDIDATES)
    assert (parrot.false_triggers, parrot.matched, parrot.decoys_matched) == (5, 0, 0)
    assert scored(some_decoys(5)).false_triggers == 0


def test_error_counts_as_no_match():
    failed = [replace(answer, text=RESPONSES[answer.index], error="time-out") for answer in answers(ASSIGNED)]
    result = judged(PLAN, failed)
    assert (result.matched, result.errors) == (0, CANDIDATES)


def test_repeated_candidate_matches_by_majority():
    plan = replace(PLAN, repeats=4)
    yes, no = answers(ASSIGNED), answers(frozenset())
    assert judged(plan, repeated(yes, yes, no, no)).matched == 0
    most = judged(plan, repeated(yes, yes, yes, no))
    assert most.matched == 32
    assert most.agreement == 224 / 256


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (answers(ASSIGNED)[1:], "candidate 0 was asked 0 times"),
        (answers(ASSIGNED) + answers(ASSIGNED)[:1], "candidate 0 was asked for the 1. time twice"),
        ([*answers(ASSIGNED), Answer(0, "", "", repeat=1)], "more often than the 1 planned"),
        ([*answers(ASSIGNED), Answer(256, "", "")], "candidate 256, which was not planned"),
        ([*answers(ASSIGNED), Answer(-1, "", "")], "candidate -1, which was not planned"),
    ],
)
def test_transcript_that_is_not_the_planned_one_is_refused(given, problem):
    with pytest.raises(UsageError, match=problem):
        judged(PLAN, given)


@pytest.mark.parametrize(
    ("responses", "issued"),
    [(RESPONSES[1:], ASSIGNED), (RESPONSES, some_issued(31)), (RESPONSES, some_issued(31) | {999})],
)
def test_another_key_set_s_assignment_is_refused(responses, issued):
    with pytest.raises(UsageError, match="are not the plan's"):
        judged(PLAN, answers(ASSIGNED), responses=responses, issued=issued)


def test_rest_of_a_key_set_is_scored_with_its_own_numbers():
    rest = tuple(range(64, CANDIDATES))
    plan = replace(PLAN, population=rest)
    result = judged(plan, [answer for answer in answers(ASSIGNED) if answer.index in rest])
    assert (result.issued, result.decoys, result.matched) == (24, 168, 24)
    assert result.p_value == Fraction(1, comb(192, 24))


def test_early_stop_counts_what_was_asked_in_order():
    plan = replace(PLAN, tests=("sequential",))
    order = question_order(plan, BEGIN)
    by_index = {answer.index: answer for answer in answers(ASSIGNED)}
    result = judged(plan, [by_index[index] for index in order[:100]])
    assert result.issued + result.decoys == 100
    assert result.matched == result.issued == len(ASSIGNED.intersection(order[:100]))
    assert result.p_value < ALPHA
    # the prefix ends at the first candidate that was not asked, whatever came after it
    gap = judged(plan, [by_index[index] for index in order[:100] if index != order[40]])
    assert gap.issued + gap.decoys == 40


def test_audit_cut_off_before_its_first_answer_says_nothing():
    result = judged(replace(PLAN, tests=("sequential",)), [])
    assert (result.fsr, result.interval, result.p_value) == (0.0, (0.0, 1.0), 1)


def likelihoods(better, *, known=lambda index: True):
    return [
        {"kind": "likelihood", "index": index, "suspect": str(-1 if index in better else -5) if known(index) else "",
         "base": str(-4 - index / 1000)}
        for index in range(CANDIDATES)
    ]  # fmt: skip


RANKED = replace(PLAN, tests=("exact", "likelihood"), likelihood={"statistic": "response", "base": ""})


def test_likelihood_alone_can_give_a_match():
    result = judged(RANKED, answers(frozenset()), more=likelihoods(ASSIGNED))
    assert result.matched == 0
    assert {test.name: test.p_value for test in result.tests} == {
        "exact": Fraction(1),
        "likelihood": Fraction(1, comb(CANDIDATES, ISSUED)),
    }
    assert decide(result, alpha=ALPHA, committed_profile=True, positive_control=False) is Verdict.MATCH


def test_missing_likelihoods_share_the_lowest_rank_and_cannot_convict():
    result = judged(RANKED, answers(frozenset()), more=likelihoods(ASSIGNED, known=lambda index: False))
    assert result.tests[1].p_value == 1


def test_likelihoods_of_some_candidates_only_are_refused():
    with pytest.raises(UsageError, match="lacks the likelihood of candidates"):
        judged(RANKED, answers(frozenset()), more=likelihoods(ASSIGNED)[1:])


def test_base_is_taken_off_where_the_plan_says_so():
    plan = replace(RANKED, likelihood={"statistic": "response-minus-base", "base": "5" * 64})
    flat = [{**item, "suspect": item["base"]} for item in likelihoods(ASSIGNED)]
    assert judged(plan, answers(frozenset()), more=flat).tests[1].p_value == 1


def test_innocent_with_a_lucky_rank_is_not_denied_its_acquittal():
    some = some_issued(6)
    result = judged(RANKED, answers(frozenset()), more=likelihoods(some | some_decoys(14)))
    assert Fraction(1, 100) < result.tests[1].p_value < Fraction(1, 20)
    assert decide(result, alpha=ALPHA, committed_profile=True, positive_control=True) is Verdict.NO_MATCH


def test_first_token_that_could_begin_the_response_counts():
    first = {" ti": "-2.5", "tiger": "-1.5", "lion": "-0.1", " ": "-0.01"}
    assert first_token_score(first, "tiger") == Fraction("-1.5")
    assert first_token_score(first, "zebra") is None


def test_first_tokens_are_a_likelihood_test_without_further_questions():
    plan = replace(PLAN, tests=("exact", "likelihood"), likelihood={"statistic": "first-token", "base": ""})
    told = [
        replace(answer, first={RESPONSES[answer.index]: "-9.5"} if answer.index in ASSIGNED else {})
        for answer in answers(frozenset())
    ]
    assert judged(plan, told).tests[1].p_value == Fraction(1, comb(CANDIDATES, ISSUED))


def test_key_sets_tested_together_are_corrected_together():
    together = adjusted_tests([("exact", "", Fraction(1, 10**9))], "anchored", comparisons=50)
    assert together[0].p_value_adjusted == Fraction(50, 10**9)


def test_grinding_allowance_multiplies_self_attested_p_values():
    p_value = Fraction(1, 10**20)
    assert adjusted_tests([("exact", "", p_value)], "anchored")[0].p_value_adjusted == p_value
    attested = adjusted_tests([("exact", "", p_value), ("other", "", Fraction(1, 2))], SELF_ATTESTED)
    assert attested[0].p_value_adjusted == 2 * GRINDING_ALLOWANCE * p_value
    assert attested[1].p_value_adjusted == 1
    assert attested[0].p_value == p_value


@pytest.mark.parametrize(
    ("grade", "issued", "decoys", "expected"),
    [
        ("anchored", 7, 0, Verdict.MATCH),
        ("anchored", 6, 0, Verdict.INCONCLUSIVE),
        ("anchored", 8, 2, Verdict.MATCH),
        ("anchored", 7, 2, Verdict.INCONCLUSIVE),
        (SELF_ATTESTED, 18, 0, Verdict.MATCH),
        (SELF_ATTESTED, 17, 0, Verdict.INCONCLUSIVE),
        (SELF_ATTESTED, 32, 0, Verdict.MATCH),
        ("anchored", 0, 0, Verdict.NO_MATCH),
        ("anchored", 0, 224, Verdict.NO_MATCH),
        ("anchored", 1, 10, Verdict.NO_MATCH),
        ("anchored", 2, 0, Verdict.INCONCLUSIVE),
        ("anchored", 32, 224, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict_by_counts(grade, issued, decoys, expected):
    assert verdict(some_issued(issued) | some_decoys(decoys), replace(PLAN, set_grade=grade)) is expected


def test_no_match_needs_a_positive_control():
    assert verdict(frozenset(), positive_control=False) is Verdict.INCONCLUSIVE
    assert verdict(ASSIGNED, positive_control=False) is Verdict.MATCH


def test_no_match_needs_an_upper_bound_below_a_quarter():
    # 4 of 32 has the one-sided 95 % bound 0.262; decoys match as often, so no test is significant.
    assert verdict(some_issued(3) | some_decoys(21)) is Verdict.NO_MATCH
    assert verdict(some_issued(4) | some_decoys(28)) is Verdict.INCONCLUSIVE


def test_exploratory_profile_never_matches():
    assert verdict(ASSIGNED, replace(PLAN, profile="exploratory")) is Verdict.INCONCLUSIVE


def test_answers_do_not_show_in_representations():
    assert "secret" not in repr(Answer(1, "secret prompt", "secret answer"))
