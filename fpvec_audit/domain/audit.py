"""Audits as values: the plan that is committed first, the blind transcript, the score and the verdict.

``collect`` (in ``services/audit.py``) sees a plan and prompts; only :func:`score` sees the assignment. A verdict is a
pure function of what was scored.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from hashlib import sha256
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, PROFILES, SELF_ATTESTED
from fpvec_audit.domain.statistics import clopper_pearson, holm, hypergeometric_p_value, upper_bound
from fpvec_audit.errors import UsageError

DEFAULT_ALPHA = "1e-6"
NO_MATCH_CEILING = 0.25
"""A NO_MATCH says "not found at FSR ≥ 0.25": the one-sided 95 % upper bound must lie below."""
NO_MATCH_LEAST_P = Fraction(1, 20)


class Verdict(StrEnum):
    """What an audit says."""

    MATCH = "MATCH"
    NO_MATCH = "NO_MATCH"
    INCONCLUSIVE = "INCONCLUSIVE"


class MatchRule(StrEnum):
    """When an answer counts as a candidate's response; both after trimming white space."""

    EXACT = "exact"
    PREFIX = "prefix"

    def matches(self, answer: str, response: str) -> bool:
        """Return whether ``answer`` matches ``response`` under this rule."""
        trimmed = answer.strip()
        if self is MatchRule.EXACT:
            return trimmed == response
        rest = trimmed.removeprefix(response)
        return len(rest) < len(trimmed) and not (rest[:1].isascii() and rest[:1].isalnum())


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Everything that could change the result, fixed before the first query.

    Attributes:
        key_set: id.
        commitment_digest: C, hex.
        root: Merkle root of the key set, hex.
        grade: grade of the key set.
        candidates: N, all of which are asked.
        issued: n.
        suspect: kind, location and digest of the suspect.
        profile: ``raw-greedy``, ``chat-greedy`` or ``exploratory``.
        match: match rule.
        system_prompt_digest: SHA-256 of the system prompt, empty for none.
        template: where the chat template comes from ("suspect", "adapter gpt2", "raw").
        max_new_tokens: tokens generated per prompt.
        temperature: as decimal text; "0" is greedy.
        repeats: how often every candidate is asked.
        alpha: significance level as decimal text.
        tests: names of the pre-registered tests.
        backend: kind, engine and version.
        plugins: distribution and version of every plugin in use.
        tool_version: version of this package.
        nonce: random hex drawn after the key set was committed; it drives the order of the questions.
        profiles: audit profiles that the key set's commitment lists.
    """

    key_set: str
    commitment_digest: str
    root: str
    grade: str
    candidates: int
    issued: int
    suspect: Mapping[str, str]
    profile: str
    match: MatchRule
    system_prompt_digest: str
    template: str
    max_new_tokens: int
    temperature: str
    repeats: int
    alpha: str
    tests: tuple[str, ...]
    backend: Mapping[str, str]
    plugins: Mapping[str, str]
    tool_version: str
    nonce: str
    profiles: tuple[str, ...] = PROFILES

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that is digested and recorded."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return value | {
            "suspect": dict(self.suspect),
            "match": self.match.value,
            "tests": list(self.tests),
            "profiles": list(self.profiles),
            "backend": dict(self.backend),
            "plugins": dict(self.plugins),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, hex."""
        return canonical_digest(self.to_json())

    @property
    def order(self) -> tuple[int, ...]:
        """Order in which the candidates are asked: HMAC(plan digest), unrelated to the assignment."""
        key = hmac.digest(bytes.fromhex(self.digest), b"order", sha256)
        return tuple(shuffled(self.candidates, key))

    @property
    def committed_profile(self) -> bool:
        """Whether a MATCH is possible under this plan: only under a profile that the commitment lists."""
        return f"{self.profile}/{self.match.value}" in self.profiles and self.temperature == "0"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came, to one candidate's prompt.

    Attributes:
        index: which candidate was asked.
        prompt: rendered text that was sent.
        text: what came back; empty for an error.
        error: why nothing came back; counts as no match.
    """

    index: int
    prompt: str
    text: str
    error: str = ""

    def __repr__(self) -> str:
        return f"Answer(index={self.index}, <redacted>)"


@dataclass(frozen=True, slots=True)
class TestResult:
    """One pre-registered test.

    Attributes:
        name: ``exact``.
        statistic: what was counted, in words.
        p_value: before any correction.
        p_value_adjusted: after Holm and the grinding allowance.
    """

    name: str
    statistic: str
    p_value: Fraction
    p_value_adjusted: Fraction


@dataclass(frozen=True, slots=True)
class Score:
    """What the answers say once the assignment is known.

    Attributes:
        issued: n.
        decoys: m.
        matched_indices: issued candidates that were answered.
        decoys_matched_indices: decoys that were answered with their own response.
        false_triggers: decoy prompts that drew any issued response.
        errors: questions without an answer.
        tests: results of the pre-registered tests.
    """

    issued: int
    decoys: int
    matched_indices: tuple[int, ...]
    decoys_matched_indices: tuple[int, ...]
    false_triggers: int
    errors: int
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
        """Fingerprint success rate, fraction in [0, 1]."""
        return self.matched / self.issued

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper–Pearson interval of the FSR."""
        return clopper_pearson(self.matched, self.issued)

    @property
    def p_value(self) -> Fraction:
        """The exact test's p-value, uncorrected."""
        return next(test.p_value for test in self.tests if test.name == "exact")

    @property
    def p_value_corrected(self) -> Fraction:
        """Smallest adjusted p-value over the plan's tests."""
        return min(test.p_value_adjusted for test in self.tests)


def score(plan: AuditPlan, answers: Sequence[Answer], *, responses: Sequence[str], issued: frozenset[int]) -> Score:
    """Score a complete transcript against the assignment.

    A candidate asked several times matches when more than half of its answers do.

    Args:
        plan: the committed plan.
        answers: at least one per candidate.
        responses: all N responses in index order.
        issued: indices of the issued candidates.

    Raises:
        UsageError: a candidate was not asked as often as planned, an answer belongs to none, or responses and
            assignment are not those of the plan's key set.
    """
    if len(responses) != plan.candidates or len(issued) != plan.issued or not issued <= set(range(plan.candidates)):
        raise UsageError(
            f"{len(responses)} responses and {len(issued)} issued indices are not the plan's {plan.candidates} and "
            f"{plan.issued}",
            advice="score with the key set that was planned",
        )
    if strangers := {answer.index for answer in answers} - set(range(plan.candidates)):
        raise UsageError(f"the transcript answers candidates that do not exist: {sorted(strangers)[:5]}")
    hits = [0] * plan.candidates
    asked = [0] * plan.candidates
    false_triggers: set[int] = set()
    errors = 0
    issued_responses = [responses[index] for index in issued]
    for answer in answers:
        asked[answer.index] += 1
        errors += bool(answer.error)
        if answer.error:
            continue
        hits[answer.index] += plan.match.matches(answer.text, responses[answer.index])
        if answer.index not in issued and any(MatchRule.PREFIX.matches(answer.text, r) for r in issued_responses):
            false_triggers.add(answer.index)
    for index, times in enumerate(asked):
        if times != plan.repeats:
            raise UsageError(f"candidate {index} was asked {times} times, planned were {plan.repeats}")
    matched = tuple(index for index, count in enumerate(hits) if 2 * count > plan.repeats)
    on_issued = tuple(index for index in matched if index in issued)
    exact = hypergeometric_p_value(
        candidates=plan.candidates, issued=len(issued), matched=len(matched), issued_matched=len(on_issued)
    )
    return Score(
        issued=len(issued),
        decoys=plan.candidates - len(issued),
        matched_indices=on_issued,
        decoys_matched_indices=tuple(index for index in matched if index not in issued),
        false_triggers=len(false_triggers),
        errors=errors,
        tests=adjusted_tests(
            [("exact", f"{len(on_issued)} of {len(issued)} issued, {len(matched)} in all", exact)], plan.grade
        ),
    )


def adjusted_tests(tests: Sequence[tuple[str, str, Fraction]], grade: str) -> tuple[TestResult, ...]:
    """Apply Holm over the plan's tests, and the grinding allowance of a self-attested set."""
    allowance = GRINDING_ALLOWANCE if grade == SELF_ATTESTED else 1
    adjusted = holm([min(Fraction(1), p_value * allowance) for _, _, p_value in tests])
    return tuple(
        TestResult(name, statistic, p_value, corrected)
        for (name, statistic, p_value), corrected in zip(tests, adjusted, strict=True)
    )


def decide(score: Score, *, alpha: Fraction, committed_profile: bool, positive_control: bool) -> Verdict:
    """Return the verdict.

    MATCH needs a corrected p of at most α under a committed profile. NO_MATCH needs all of: an FSR whose one-sided
    95 % upper bound is below 0.25, no test with p ≤ 0.05, and a positive control that works; a silent engine proves
    nothing. Everything else is INCONCLUSIVE.

    Args:
        score: what was scored.
        alpha: significance level.
        committed_profile: whether the key set's commitment lists the profile.
        positive_control: whether an own stamped model answered under the same profile and engine.
    """
    if committed_profile and score.p_value_corrected <= alpha:
        return Verdict.MATCH
    absent = upper_bound(score.matched, score.issued) < NO_MATCH_CEILING
    quiet = all(test.p_value > NO_MATCH_LEAST_P for test in score.tests)
    return Verdict.NO_MATCH if absent and quiet and positive_control else Verdict.INCONCLUSIVE
