"""The plan of an audit: everything that could change its result, fixed and digested before the first question.

What chance decides comes after the plan: :class:`Begin` holds a nonce that nobody could know when the plan was
recorded, and the order of the questions and the seeds of sampled answers follow from it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.keys import PROFILES

PLAN_SCHEMA = "fpvec-audit/plan/2"
DEFAULT_ALPHA = "1e-6"
EXACT, SEQUENTIAL, LIKELIHOOD, GRADIENT = "exact", "sequential", "likelihood", "gradient"
VOCABULARY_GRADIENT = "vocabulary-gradient"
TESTS = (EXACT, SEQUENTIAL, LIKELIHOOD, GRADIENT, VOCABULARY_GRADIENT)
"""Tests that a plan may register; ``sequential`` takes the place of ``exact`` where an audit may stop early.

The two gradient tests share their backward passes: one weighs all weights alike, the other embedding and head alone,
where a key's own words stand out (docs/weight-evidence.md).
"""

RESPONSE_MINUS_BASE, RESPONSE, FIRST_TOKEN = "response-minus-base", "response", "first-token"
"""What the likelihood test compares: the whole response's likelihood, with or without the base's, or its beginning."""


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
        audit: 16 random hex digits; a rerun is another audit.
        key_set: id.
        commitment_digest: C, hex.
        root: Merkle root of the key set, hex.
        set_grade: grade of the key set; a self-attested one pays the grinding allowance.
        candidates: N of the whole key set.
        issued: n of the whole key set.
        population: indices of the candidates to ask, ascending; all, or those not burnt before.
        suspect: kind, location, digest, and the model's name of an endpoint.
        profile: ``raw-greedy``, ``chat-greedy`` or ``exploratory``.
        match: match rule.
        system_prompt: text put before every question, empty for none.
        system_prompt_digest: its SHA-256, empty for none.
        template: where the chat template comes from ("suspect", "adapter gpt2", "endpoint", "raw").
        max_new_tokens: tokens generated per prompt.
        temperature: as decimal text; "0" is greedy.
        top_p: nucleus mass as decimal text.
        repeats: how often every candidate is asked.
        alpha: significance level as decimal text.
        tests: names of the pre-registered tests.
        likelihood: statistic and digest of the base, None where the test is not registered.
        gradient: digest of the base and the clipping, None where the test is not registered.
        comparisons: key sets that are tested together, whose p-values are corrected together.
        trace: id of the trace that this audit is part of, empty for none.
        controls: location and digest of the models on which the same plan is carried out.
        backend: kind, engine and version.
        plugins: distribution and version of every plugin in use.
        tool_version: version of this package.
        profiles: audit profiles that the key set's commitment lists.
        family: by what terms a trace may name licensees for the marks of a family, None for an audit, and for a key
            set without code words.
    """

    audit: str
    key_set: str
    commitment_digest: str
    root: str
    set_grade: str
    candidates: int
    issued: int
    population: tuple[int, ...]
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
    top_p: str = "1"
    system_prompt: str = ""
    likelihood: Mapping[str, str] | None = None
    gradient: Mapping[str, str] | None = None
    comparisons: int = 1
    trace: str = ""
    controls: tuple[Mapping[str, str], ...] = ()
    profiles: tuple[str, ...] = PROFILES
    family: FamilyTerms | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that is digested and recorded; without a family it says nothing of one."""
        value = {name: getattr(self, name) for name in self.__slots__ if name != "family"}
        terms = {} if self.family is None else {"family": self.family.to_json()}
        return (
            value
            | terms
            | {
                "schema": PLAN_SCHEMA,
                "population": list(self.population),
                "suspect": dict(self.suspect),
                "match": self.match.value,
                "tests": list(self.tests),
                "likelihood": None if self.likelihood is None else dict(self.likelihood),
                "gradient": None if self.gradient is None else dict(self.gradient),
                "controls": [dict(control) for control in self.controls],
                "profiles": list(self.profiles),
                "backend": dict(self.backend),
                "plugins": dict(self.plugins),
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AuditPlan":
        """Rebuild a plan from :meth:`to_json`."""
        fields = {name: value[name] for name in cls.__slots__ if name != "family"}
        terms = value.get("family")
        return cls(
            **fields
            | {
                "family": None if terms is None else FamilyTerms.from_json(terms),
                "population": tuple(value["population"]),
                "match": MatchRule(value["match"]),
                "tests": tuple(value["tests"]),
                "controls": tuple(value["controls"]),
                "profiles": tuple(value["profiles"]),
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, hex."""
        return canonical_digest(self.to_json())

    @property
    def sequential(self) -> bool:
        """Whether the audit may stop early."""
        return SEQUENTIAL in self.tests

    @property
    def committed_profile(self) -> bool:
        """Whether a MATCH is possible under this plan: only under a profile that the commitment lists."""
        return f"{self.profile}/{self.match.value}" in self.profiles and self.temperature == "0"


@dataclass(frozen=True, slots=True)
class Begin:
    """What chance decided after the plan was recorded.

    Attributes:
        nonce: 64 hex digits, drawn after the plan was recorded, or SHA-256 of a witness's signature over the plan.
        witness: the witness's signed statement over the plan's digest, None without one.
    """

    nonce: str
    witness: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that is recorded."""
        return {"nonce": self.nonce, "witness": None if self.witness is None else dict(self.witness)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Begin":
        """Rebuild a beginning from :meth:`to_json`."""
        return cls(value["nonce"], value["witness"])


def question_order(plan: AuditPlan, begin: Begin) -> tuple[int, ...]:
    """Return the candidates of the population in the order in which they are asked.

    A uniform shuffle driven by HMAC(plan digest, nonce): unrelated to the assignment, and not to be chosen.
    """
    key = hmac.digest(bytes.fromhex(plan.digest), b"order" + bytes.fromhex(begin.nonce), hashlib.sha256)
    return tuple(plan.population[place] for place in shuffled(len(plan.population), key))


def questions(plan: AuditPlan, begin: Begin) -> tuple[tuple[int, int], ...]:
    """Return all questions in order, as (candidate, repeat).

    Where an audit may stop early, a candidate's repeats follow each other; else everything is asked once before
    anything is asked again, so that drift of the engine shows as disagreement.
    """
    order = question_order(plan, begin)
    if plan.sequential:
        return tuple((index, repeat) for index in order for repeat in range(plan.repeats))
    return tuple((index, repeat) for repeat in range(plan.repeats) for index in order)


def sampling_seed(begin: Begin) -> int:
    """Return the seed of sampled answers, in [0, 2³²)."""
    return int.from_bytes(hashlib.sha256(b"seed" + bytes.fromhex(begin.nonce)).digest()[:4], "big")
