"""What an audit's transcript says once the assignment is known: scores, tests and the verdict, as pure functions.

``collect`` (in ``services/``) sees a plan and prompts; only :func:`score` sees the assignment. The same functions serve
the audit and whoever verifies its evidence, so a verdict is recomputed, not believed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from fpvec_audit.domain.audit_plan import DEFAULT_ALPHA as DEFAULT_ALPHA
from fpvec_audit.domain.audit_plan import (
    EXACT,
    FIRST_TOKEN,
    GRADIENT,
    RESPONSE_MINUS_BASE,
    SEQUENTIAL,
    VOCABULARY_GRADIENT,
    Begin,
    question_order,
)
from fpvec_audit.domain.audit_plan import AuditPlan as AuditPlan
from fpvec_audit.domain.audit_plan import MatchRule as MatchRule
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, SELF_ATTESTED
from fpvec_audit.domain.rank_test import pairs_won, rank_sum_p_value
from fpvec_audit.domain.sequential import SequentialTest
from fpvec_audit.domain.statistics import clopper_pearson, holm, hypergeometric_p_value, upper_bound
from fpvec_audit.domain.transcript import Answer as Answer
from fpvec_audit.domain.transcript import Record, answers, decimal, gradient_scores, likelihood_scores
from fpvec_audit.errors import UsageError

NO_MATCH_CEILING = 0.25
"""A NO_MATCH says "not found at FSR ≥ 0.25": the one-sided 95 % upper bound must lie below."""
QUIET_ANSWERS = Fraction(1, 20)
"""Least p-value of the test on answers for a NO_MATCH."""
QUIET_RANKS = Fraction(1, 100)
"""Least p-value of the rank tests together for a NO_MATCH.

Their p-values are spread evenly where there is nothing to find: with 0.05 for each of two, an innocent would be denied
its NO_MATCH in one audit of ten.
"""


class Verdict(StrEnum):
    """What an audit says."""

    MATCH = "MATCH"
    NO_MATCH = "NO_MATCH"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class TestResult:
    """One pre-registered test.

    Attributes:
        name: ``exact``, ``sequential``, ``likelihood``, ``gradient`` or ``vocabulary-gradient``.
        statistic: what was counted, in words.
        p_value: before any correction.
        p_value_adjusted: after Holm, the key sets tested together, and the grinding allowance.
    """

    name: str
    statistic: str
    p_value: Fraction
    p_value_adjusted: Fraction


@dataclass(frozen=True, slots=True)
class Score:
    """What the answers say once the assignment is known.

    Attributes:
        issued: issued candidates that were asked.
        decoys: decoys that were asked.
        matched_indices: issued candidates that were answered.
        decoys_matched_indices: decoys that were answered with their own response.
        false_triggers: decoy prompts that drew any issued response.
        errors: questions without an answer.
        silent: questions that drew nothing but white space, errors included.
        agreement: share of the candidates whose repeated answers are all alike, 1 when each was asked once.
        tests: results of the pre-registered tests.
    """

    issued: int
    decoys: int
    matched_indices: tuple[int, ...]
    decoys_matched_indices: tuple[int, ...]
    false_triggers: int
    errors: int
    silent: int
    agreement: float
    tests: tuple[TestResult, ...]

    @property
    def matched(self) -> int:
        """H, matched issued keys."""
        return len(self.matched_indices)

    @property
    def decoys_matched(self) -> int:
        """Matched decoys."""
        return len(self.decoys_matched_indices)

    @property
    def fsr(self) -> float:
        """Fingerprint success rate, fraction in [0, 1]; 0 when no issued key was asked."""
        return self.matched / self.issued if self.issued else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper–Pearson interval of the FSR."""
        return clopper_pearson(self.matched, self.issued) if self.issued else (0.0, 1.0)

    @property
    def p_value(self) -> Fraction:
        """The p-value of the test on answers (exact, or sequential), uncorrected."""
        return next(test.p_value for test in self.tests if test.name in (EXACT, SEQUENTIAL))

    @property
    def p_value_corrected(self) -> Fraction:
        """Smallest adjusted p-value over the plan's tests."""
        return min(test.p_value_adjusted for test in self.tests)


def score(
    plan: AuditPlan,
    begin: Begin,
    records: Sequence[Record],
    *,
    responses: Mapping[int, str],
    issued: frozenset[int],
) -> Score:
    """Score a transcript against the assignment.

    A candidate asked several times matches when more than half of its answers do. An audit that may stop early counts
    the candidates that were asked as often as planned, in the plan's order; any other must have asked all.

    Args:
        plan: the committed plan.
        begin: what chance decided afterwards.
        records: the transcript.
        responses: response of every candidate of the population.
        issued: indices of all issued candidates of the key set.

    Raises:
        UsageError: the transcript is not one of this plan, or responses and assignment are not those of its key set.
    """
    if len(issued) != plan.issued or not issued <= set(range(plan.candidates)) or set(plan.population) - set(responses):
        raise UsageError(
            f"{len(responses)} responses and {len(issued)} issued indices are not the plan's {len(plan.population)} "
            f"and {plan.issued}",
            advice="score with the key set that was planned",
        )
    given = _by_candidate(plan, answers(records))
    asked = _asked(plan, begin, given)
    hits = {
        index: 2 * sum(_matches(plan, answer, responses[index]) for answer in given[index]) > plan.repeats
        for index in asked
    }
    matched = tuple(sorted(index for index, hit in hits.items() if hit))
    on_issued = tuple(index for index in matched if index in issued)
    return Score(
        issued=sum(index in issued for index in asked),
        decoys=sum(index not in issued for index in asked),
        matched_indices=on_issued,
        decoys_matched_indices=tuple(index for index in matched if index not in issued),
        false_triggers=_false_triggers(given, asked, responses, issued),
        errors=sum(bool(answer.error) for index in asked for answer in given[index]),
        silent=sum(not answer.text.strip() for index in asked for answer in given[index]),
        agreement=_agreement(given, asked),
        tests=adjusted_tests(
            [_test(name, plan, records, asked, hits, given, responses, issued) for name in plan.tests],
            plan.set_grade,
            comparisons=plan.comparisons,
        ),
    )


def adjusted_tests(
    tests: Sequence[tuple[str, str, Fraction]], set_grade: str, *, comparisons: int = 1
) -> tuple[TestResult, ...]:
    """Apply Holm over the plan's tests, the key sets tested together, and the allowance of a self-attested set.

    Args:
        tests: name, statistic and p-value of each.
        set_grade: grade of the key set.
        comparisons: key sets tested together; each is corrected as if it were the luckiest (Bonferroni), so that its
            result stands by itself.
    """
    factor = comparisons * (GRINDING_ALLOWANCE if set_grade == SELF_ATTESTED else 1)
    adjusted = holm([min(Fraction(1), p_value * factor) for _, _, p_value in tests])
    return tuple(
        TestResult(name, statistic, p_value, corrected)
        for (name, statistic, p_value), corrected in zip(tests, adjusted, strict=True)
    )


def rank_scores(
    plan: AuditPlan, records: Sequence[Record], *, responses: Mapping[int, str]
) -> dict[str, Mapping[int, Fraction | None]]:
    """Return what each of the plan's rank tests compares, by test and candidate; None where a number is missing.

    Args:
        plan: the committed plan.
        records: the transcript, complete.
        responses: response of every candidate of the population.
    """
    given = _by_candidate(plan, answers(records))
    return {
        name: _scores(name, plan, records, given, responses) for name in plan.tests if name not in (EXACT, SEQUENTIAL)
    }


def decide(
    score: Score, *, alpha: Fraction, committed_profile: bool, positive_control: bool, comparisons: int = 1
) -> Verdict:
    """Return the verdict.

    MATCH needs a corrected p of at most α under a committed profile. NO_MATCH needs all of: an FSR whose one-sided
    95 % upper bound is below 0.25, tests that are quiet (:data:`QUIET_ANSWERS`, :data:`QUIET_RANKS`), and a positive
    control that works; a silent engine proves nothing. Everything else is INCONCLUSIVE.

    Args:
        score: what was scored.
        alpha: significance level.
        committed_profile: whether the key set's commitment lists the profile.
        positive_control: whether an own stamped model answered under the same profile and engine.
        comparisons: key sets tested together, which are quiet together.
    """
    if committed_profile and score.p_value_corrected <= alpha:
        return Verdict.MATCH
    absent = score.issued > 0 and upper_bound(score.matched, score.issued) < NO_MATCH_CEILING
    ranked = [test.p_value for test in score.tests if test.name not in (EXACT, SEQUENTIAL)]
    quiet = score.p_value * comparisons > QUIET_ANSWERS and all(
        p_value * len(ranked) * comparisons > QUIET_RANKS for p_value in ranked
    )
    return Verdict.NO_MATCH if absent and quiet and positive_control else Verdict.INCONCLUSIVE


def first_token_score(first: Mapping[str, str], response: str) -> Fraction | None:
    """Return the log-probability of the likeliest first token with which an answer could begin to be a response.

    None where none of the tokens that were told is its beginning.
    """
    begun = [
        value
        for token, text in first.items()
        if token.strip() and response.startswith(token.strip()) and (value := decimal(text)) is not None
    ]
    return max(begun, default=None)


def _by_candidate(plan: AuditPlan, given: Iterable[Answer]) -> dict[int, list[Answer]]:
    """Group answers by candidate; each was asked for once as planned."""
    population = set(plan.population)
    found: dict[int, list[Answer]] = {index: [] for index in plan.population}
    seen: set[tuple[int, int]] = set()
    for answer in given:
        if answer.index not in population:
            raise UsageError(f"the transcript answers candidate {answer.index}, which was not planned")
        if not 0 <= answer.repeat < plan.repeats or (answer.index, answer.repeat) in seen:
            raise UsageError(
                f"candidate {answer.index} was asked for the {answer.repeat + 1}. time twice, or more often than the "
                f"{plan.repeats} planned"
            )
        seen.add((answer.index, answer.repeat))
        found[answer.index].append(answer)
    return found


def _asked(plan: AuditPlan, begin: Begin, given: Mapping[int, Sequence[Answer]]) -> tuple[int, ...]:
    """Return the candidates that count, in the order in which they were asked."""
    order = question_order(plan, begin)
    whole = [len(given[index]) == plan.repeats for index in order]
    reached = whole.index(False) if False in whole else len(whole)
    if plan.sequential:
        return order[:reached]
    if reached < len(order):
        index = order[reached]
        raise UsageError(f"candidate {index} was asked {len(given[index])} times, planned were {plan.repeats}")
    return order


def _matches(plan: AuditPlan, answer: Answer, response: str) -> bool:
    return not answer.error and plan.match.matches(answer.text, response)


def _false_triggers(
    given: Mapping[int, Sequence[Answer]], asked: Sequence[int], responses: Mapping[int, str], issued: frozenset[int]
) -> int:
    issued_responses = {responses[index] for index in issued if index in responses}
    return sum(
        any(
            MatchRule.PREFIX.matches(answer.text, response)
            for answer in given[index]
            if not answer.error
            for response in issued_responses
        )
        for index in asked
        if index not in issued
    )


def _agreement(given: Mapping[int, Sequence[Answer]], asked: Sequence[int]) -> float:
    alike = sum(len({answer.text for answer in given[index]}) == 1 for index in asked)
    return alike / len(asked) if asked else 1.0


def _test(
    name: str,
    plan: AuditPlan,
    records: Sequence[Record],
    asked: Sequence[int],
    hits: Mapping[int, bool],
    given: Mapping[int, Sequence[Answer]],
    responses: Mapping[int, str],
    issued: frozenset[int],
) -> tuple[str, str, Fraction]:
    if name == EXACT:
        return _exact(asked, hits, issued)
    if name == SEQUENTIAL:
        return _sequential(plan, asked, hits, issued)
    return _ranked(name, plan, _scores(name, plan, records, given, responses), issued)


def _scores(
    name: str,
    plan: AuditPlan,
    records: Sequence[Record],
    given: Mapping[int, Sequence[Answer]],
    responses: Mapping[int, str],
) -> Mapping[int, Fraction | None]:
    """Return what a rank test compares, by candidate."""
    if name in (GRADIENT, VOCABULARY_GRADIENT):
        return gradient_scores(records, vocabulary=name == VOCABULARY_GRADIENT)
    if plan.likelihood is None:
        raise UsageError("the plan registers the likelihood test, and does not say on what")
    if plan.likelihood["statistic"] == FIRST_TOKEN:
        return {index: first_token_score(given[index][0].first, responses[index]) for index in plan.population}
    return likelihood_scores(records, with_base=plan.likelihood["statistic"] == RESPONSE_MINUS_BASE)


def _exact(asked: Sequence[int], hits: Mapping[int, bool], issued: frozenset[int]) -> tuple[str, str, Fraction]:
    those = sum(index in issued for index in asked)
    on_issued = sum(hits[index] for index in asked if index in issued)
    in_all = sum(hits.values())
    p_value = hypergeometric_p_value(candidates=len(asked), issued=those, matched=in_all, issued_matched=on_issued)
    return EXACT, f"{on_issued} of {those} issued, {in_all} in all", p_value


def _sequential(
    plan: AuditPlan, asked: Sequence[int], hits: Mapping[int, bool], issued: frozenset[int]
) -> tuple[str, str, Fraction]:
    test = SequentialTest(candidates=len(plan.population), issued=len(issued.intersection(plan.population)))
    for index in asked:
        test.step(matched=hits[index], issued=index in issued)
    largest = test.largest
    shown = f"E = {float(largest):.3g}" if largest < 10**12 else f"E > {10**12:.0e}"
    return SEQUENTIAL, f"{shown} after {len(asked)} of {len(plan.population)} candidates", test.p_value


def _ranked(
    name: str, plan: AuditPlan, scores: Mapping[int, Fraction | None], issued: frozenset[int]
) -> tuple[str, str, Fraction]:
    if strangers := set(scores) - set(plan.population):
        raise UsageError(f"the transcript scores candidates that were not planned: {sorted(strangers)[:5]}")
    if missing := set(plan.population) - set(scores):
        raise UsageError(f"the transcript lacks the {name} of candidates {sorted(missing)[:5]}")
    those = [scores[index] for index in plan.population if index in issued]
    others = [scores[index] for index in plan.population if index not in issued]
    known = sum(value is not None for value in scores.values())
    area = float(pairs_won(those, others))
    statistic = (
        f"an issued candidate ranks above a decoy in {100 * area:.1f} % of pairs ({known} of {len(scores)} known)"
    )
    return name, statistic, rank_sum_p_value(those, others)
