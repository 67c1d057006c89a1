"""The result of an audit as a value, and as the versioned document that scripts read and the registry keeps."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fpvec_audit.domain.audit import Score, TestResult, Verdict
from fpvec_audit.domain.audit_plan import EXACT, SEQUENTIAL, AuditPlan, Begin
from fpvec_audit.domain.keys import SELF_ATTESTED
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.transcript import Answer, Record, answers

SCHEMA = "fpvec-audit/audit/1"
TRACE_DOCUMENT = "trace_document"
"""Member of the recorded document of a trace's likeliest audit that holds the document of the whole trace."""

DOES_NOT_PROVE = (
    "that the suspect is who it is said to be: nobody but the person who ran this audit chose what was asked",
    "that anything was copied: the answers are not independent of the keys, which poisoning or planting also causes",
    "by whom, when or how the keys came into the suspect",
    "that no other registry, and no audit outside this ledger, exists",
    "that the keys never leaked",
)
NEVER_IN_CONTACT_BY_ANSWERS = (
    "that the suspect never had contact with the keys: averaged or suppressed copies are not excluded, as only answers "
    "were looked at"
)
NEVER_IN_CONTACT = (
    "that the suspect never had contact with the keys: copies that were averaged, trained further or made to suppress "
    "them, so far that none of these tests shows them, are not excluded"
)
ANSWER_TESTS = frozenset({EXACT, SEQUENTIAL})


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found.

    Attributes:
        audit_id: ``au-`` and 16 characters.
        verdict: what it says.
        plan: what was fixed before the first question.
        begin: what chance decided afterwards.
        score: what the answers say.
        records: the transcript; secret, as it holds prompts.
        backend: which engine answered.
        key_set_name: name of the key set.
        campaign_suspects: how many different suspects the ledger has seen so far, this one included.
        burnt: candidates of the key set that were shown to somebody before.
        warnings: what weakens or limits the result, in sentences.
        earlier_audits: audits of the same suspect with the same key set.
        controls: documents of the positive controls that count.
        seconds: how long it took.
        weights: how much of the known vectors the suspect's weights seem to hold; descriptive, None where not told.
        first_seen: when the suspect was met first, ISO 8601.
    """

    audit_id: str
    verdict: Verdict
    plan: AuditPlan
    begin: Begin
    score: Score
    records: tuple[Record, ...]
    backend: BackendDescription
    key_set_name: str
    campaign_suspects: int
    burnt: int
    warnings: tuple[str, ...]
    earlier_audits: tuple[Mapping[str, str], ...]
    controls: tuple[Mapping[str, Any], ...]
    seconds: float
    weights: Mapping[str, Any] | None = None
    first_seen: str = ""

    def __repr__(self) -> str:
        return f"AuditResult({self.audit_id}, {self.verdict.value}, matched={self.score.matched}/{self.score.issued})"

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What was asked and answered; secret."""
        return answers(self.records)

    @property
    def grade(self) -> str:
        """How far a stranger can rely on the order of things."""
        return audit_grade(self.plan, self.begin)

    @property
    def p_value_campaign(self) -> Fraction:
        """Corrected p-value times the number of suspects in the owner's ledger, at most 1."""
        return min(Fraction(1), self.score.p_value_corrected * self.campaign_suspects)

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """What no reader should take from the verdict."""
        return what_does_not_prove(self.verdict, self.plan.tests)

    def to_json(self) -> dict[str, Any]:
        """Return the document; it holds no prompt, no response and no word about which candidates are issued."""
        plan, score = self.plan, self.score
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "grade": self.grade,
            "key_set_grade": plan.set_grade,
            "fsr": score.fsr,
            "issued": score.issued,
            "matched": score.matched,
            "decoys": score.decoys,
            "decoys_matched": score.decoys_matched,
            "false_triggers": score.false_triggers,
            "p_value": as_float(score.p_value),
            "p_value_exact": str(score.p_value),
            "p_value_corrected": as_float(score.p_value_corrected),
            "p_value_campaign": as_float(self.p_value_campaign),
            "campaign_suspects": self.campaign_suspects,
            "alpha": float(Fraction(plan.alpha)),
            "interval": list(score.interval),
            "tests": [_test_json(test) for test in score.tests],
            "warnings": list(self.warnings),
            "earlier_audits": [dict(audit) for audit in self.earlier_audits],
            "audit_id": self.audit_id,
            "key_set": plan.key_set,
            "key_set_name": self.key_set_name,
            "plan_digest": plan.digest,
            "profile": plan.profile,
            "match": plan.match.value,
            "template": plan.template,
            "max_new_tokens": plan.max_new_tokens,
            "repeats": plan.repeats,
            "temperature": plan.temperature,
            "top_p": plan.top_p,
            "agreement": score.agreement,
            "stopped_early": SEQUENTIAL in plan.tests and score.issued + score.decoys < len(plan.population),
            "population": len(plan.population),
            "nonce": self.begin.nonce,
            "trace": plan.trace,
            "comparisons": plan.comparisons,
            "suspect": dict(plan.suspect),
            "first_seen": self.first_seen or None,
            "backend": {
                "kind": self.backend.kind,
                "engine": self.backend.engine,
                "version": self.backend.version,
                "deterministic": self.backend.deterministic,
                "settings": dict(self.backend.settings),
            },
            "queries": len(self.answers),
            "errors": score.errors,
            "burnt": self.burnt,
            "seconds": self.seconds,
            "controls": [dict(control) for control in self.controls],
            "does_not_prove": list(self.does_not_prove),
            "weights": None if self.weights is None else dict(self.weights),
            "tool_version": plan.tool_version,
        }


def what_does_not_prove(verdict: Verdict, tests: Iterable[str]) -> tuple[str, ...]:
    """Return what no reader should take from a verdict, in sentences.

    Args:
        verdict: of an audit or a trace.
        tests: names of the tests that it rests on.
    """
    if verdict is Verdict.MATCH:
        return DOES_NOT_PROVE
    return NEVER_IN_CONTACT_BY_ANSWERS if ANSWER_TESTS.issuperset(tests) else NEVER_IN_CONTACT, DOES_NOT_PROVE[0]


def audit_grade(plan: AuditPlan, begin: Begin) -> str:
    """Return ``anchored`` where third parties vouch for commitment, chance and plan, else ``self-attested``."""
    return "anchored" if plan.set_grade != SELF_ATTESTED and begin.witness is not None else SELF_ATTESTED


def as_float(value: Fraction) -> float:
    """Return a probability as a float; one too small for a float becomes the smallest normal one, never 0."""
    return max(float(value), sys.float_info.min) if value else 0.0


def _test_json(test: TestResult) -> dict[str, Any]:
    return {
        "name": test.name,
        "statistic": test.statistic,
        "p_value": as_float(test.p_value),
        "p_value_exact": str(test.p_value),
        "p_value_adjusted": as_float(test.p_value_adjusted),
    }
