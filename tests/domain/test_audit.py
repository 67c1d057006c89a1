from dataclasses import replace
from fractions import Fraction

import pytest

from fpvec_audit.domain.audit import Answer, AuditPlan, MatchRule, Verdict, adjusted_tests, decide, score
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, SELF_ATTESTED
from fpvec_audit.errors import UsageError

ALPHA = Fraction("1e-6")
CANDIDATES, ISSUED = 256, 32
RESPONSES = [f"word{index:03d}" for index in range(CANDIDATES)]
ASSIGNED = frozenset(range(0, CANDIDATES, 8))
PLAN = AuditPlan(
    key_set="ks-1",
    commitment_digest="0" * 64,
    root="1" * 64,
    grade="anchored",
    candidates=CANDIDATES,
    issued=ISSUED,
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
    nonce="3" * 64,
)


def answers(known, *, said=RESPONSES, silent="nothing"):
    return [Answer(index, f"prompt {index}", said[index] if index in known else silent) for index in range(CANDIDATES)]


def scored(known, plan=PLAN, **options):
    return score(plan, answers(known, **options), responses=RESPONSES, issued=ASSIGNED)


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
        "candidates": 9, "issued": 3, "max_new_tokens": 9, "repeats": 3,
    }  # fmt: skip
    digests = {replace(PLAN, **{name: other.get(name, "changed")}).digest for name in AuditPlan.__slots__}
    assert len(digests | {PLAN.digest}) == len(AuditPlan.__slots__) + 1
    canonical_bytes(PLAN.to_json())


def test_order_is_a_permutation_that_follows_from_the_plan():
    assert sorted(PLAN.order) == list(range(CANDIDATES))
    assert PLAN.order == replace(PLAN).order != replace(PLAN, nonce="4" * 64).order


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
    result = score(PLAN, failed, responses=RESPONSES, issued=ASSIGNED)
    assert (result.matched, result.errors) == (0, CANDIDATES)


def test_repeated_candidate_matches_by_majority():
    plan = replace(PLAN, repeats=4)
    half = answers(ASSIGNED) * 2 + answers(frozenset()) * 2
    most = answers(ASSIGNED) * 3 + answers(frozenset())
    assert score(plan, half, responses=RESPONSES, issued=ASSIGNED).matched == 0
    assert score(plan, most, responses=RESPONSES, issued=ASSIGNED).matched == 32


@pytest.mark.parametrize(
    ("transcript", "problem"),
    [
        (answers(ASSIGNED)[1:], "candidate 0 was asked 0 times"),
        (answers(ASSIGNED) + answers(ASSIGNED)[:1], "candidate 0 was asked 2 times"),
        ([*answers(ASSIGNED), Answer(256, "", "")], "do not exist"),
        ([*answers(ASSIGNED), Answer(-1, "", "")], "do not exist"),
    ],
)
def test_transcript_that_is_not_the_planned_one_is_refused(transcript, problem):
    with pytest.raises(UsageError, match=problem):
        score(PLAN, transcript, responses=RESPONSES, issued=ASSIGNED)


@pytest.mark.parametrize(
    ("responses", "issued"),
    [(RESPONSES[1:], ASSIGNED), (RESPONSES, some_issued(31)), (RESPONSES, some_issued(31) | {999})],
)
def test_another_key_set_s_assignment_is_refused(responses, issued):
    with pytest.raises(UsageError, match="are not the plan's"):
        score(PLAN, answers(ASSIGNED), responses=responses, issued=issued)


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
    assert verdict(some_issued(issued) | some_decoys(decoys), replace(PLAN, grade=grade)) is expected


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
