"""What a trace found, as a value and as the document that scripts read: key sets, marks, and who is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.services.audit_result import AuditResult, as_float, what_does_not_prove
from fpvec_audit.services.carriers import CarrierEvidence
from fpvec_audit.services.family_reading import FamilyReading

SCHEMA = "fpvec-audit/trace/1"
HOLM = "Holm"
"""Rule by which plain key sets are named."""
ANSWERS_ONLY = (
    "only answers were to be had: an average of several copies, or one that suppresses its answers, would look the same"
)


@dataclass(frozen=True, slots=True)
class TracedKeySet:
    """What a trace found of one key set.

    Attributes:
        record: the key set.
        audit: its audit.
        p_value_corrected: smallest p-value of its tests after Holm's correction over all tests of all key sets.
        found: whether it is found as a whole.
        family: what its marks show, None for a key set of one mark.
    """

    record: KeySetRecord
    audit: AuditResult
    p_value_corrected: Fraction
    found: bool
    family: FamilyReading | None = None

    @property
    def coded(self) -> bool:
        """Whether it is a family whose words mean licensees, so that finding it names nobody yet."""
        return self.family is not None and bool(self.family.words)

    @property
    def named(self) -> bool:
        """Whether somebody is named by it: its licensee, or holders of words of a family."""
        if self.family is not None and self.coded:
            return bool(self.family.named)
        return self.found

    @property
    def named_json(self) -> list[dict[str, Any]]:
        """One object for everybody who is named by it."""
        if self.family is not None and self.coded:
            return self.family.named_json(self.audit.audit_id)
        if not self.found:
            return []
        return [
            {
                "licensee": self.record.licensee or self.record.name,
                "key_set": self.record.id,
                "name": self.record.name,
                "p_value_corrected": as_float(self.p_value_corrected),
                "rule": HOLM,
                "audit_id": self.audit.audit_id,
            }
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        score = self.audit.score
        return {
            "key_set": self.record.id,
            "name": self.record.name,
            "licensee": self.record.licensee,
            "audit_id": self.audit.audit_id,
            "named": self.named,
            "found": self.found,
            "matched": score.matched,
            "issued": score.issued,
            "decoys_matched": score.decoys_matched,
            "decoys": score.decoys,
            "fsr": score.fsr,
            "p_value": as_float(score.p_value),
            "p_value_corrected": as_float(self.p_value_corrected),
            "tests": [
                {"name": test.name, "statistic": test.statistic, "p_value": as_float(test.p_value)}
                for test in score.tests
            ],
        }


@dataclass(frozen=True, slots=True)
class TraceResult:
    """What a trace found.

    Attributes:
        trace_id: ``tr-`` and 16 characters.
        verdict: MATCH where somebody is named.
        traced: all key sets, the likeliest first.
        suspect: what was asked.
        backend: which engine answered.
        alpha: significance level as decimal text.
        questions: how many texts were sent.
        controls: documents of positive controls.
        warnings: what limits the result, in sentences.
        seconds: how long it took.
        weights: how much of each known vector the suspect's weights seem to hold; descriptive, None where not told.
        carriers: whose carriers the suspect's weights hold, by key set; empty where none were added or nothing read.
        first_seen: when the suspect was met first, ISO 8601.
    """

    trace_id: str
    verdict: Verdict
    traced: tuple[TracedKeySet, ...]
    suspect: Mapping[str, str]
    backend: BackendDescription
    alpha: str
    questions: int
    controls: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    seconds: float
    weights: Mapping[str, Any] | None = None
    carriers: tuple[CarrierEvidence, ...] = ()
    first_seen: str = ""

    @property
    def named(self) -> tuple[TracedKeySet, ...]:
        """Key sets by which somebody is named."""
        return tuple(item for item in self.traced if item.named)

    @property
    def families(self) -> tuple[FamilyReading, ...]:
        """What the marks of the key sets show that have several."""
        return tuple(item.family for item in self.traced if item.family is not None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "schema": SCHEMA,
            "trace_id": self.trace_id,
            "verdict": self.verdict.value,
            "named": [
                *(named for item in self.traced for named in item.named_json),
                *(named for item in self.carriers for named in item.named_json),
            ],
            "marks": [mark for item in self.families for mark in item.marks_json],
            "families": [item.to_json() for item in self.families],
            "candidates": [item.to_json() for item in self.traced],
            "suspect": dict(self.suspect),
            "first_seen": self.first_seen or None,
            "backend": {
                "kind": self.backend.kind,
                "engine": self.backend.engine,
                "version": self.backend.version,
                "deterministic": self.backend.deterministic,
            },
            "alpha": float(Fraction(self.alpha)),
            "queries": self.questions,
            "controls": [dict(control) for control in self.controls],
            "warnings": list(self.warnings),
            "does_not_prove": list(
                what_does_not_prove(self.verdict, {test for item in self.traced for test in item.audit.plan.tests})
            ),
            "weights": None if self.weights is None else dict(self.weights),
            "carriers": [item.to_json() for item in self.carriers],
            "seconds": self.seconds,
        }


def trace_verdict(traced: Sequence[TracedKeySet]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict of a trace, and what limits it, in sentences."""
    found = [item for item in traced if item.family is not None and item.found]
    notes = [
        f"family {item.record.name!r} was found, and names nobody: {item.family.why}"
        for item in found
        if item.family is not None and item.coded and not item.named
    ]
    if len(found) > 1:
        names = ", ".join(repr(item.record.name) for item in found)
        notes.append(
            f"it shows marks of {len(found)} families ({names}): copies of several were pooled, or one was stamped "
            "over another; each family is read by itself"
        )
    if any(item.named for item in traced):
        return Verdict.MATCH, tuple(notes)
    if found:
        return Verdict.INCONCLUSIVE, tuple(notes)
    if any(len(item.audit.plan.tests) == 1 for item in traced):
        return Verdict.INCONCLUSIVE, (ANSWERS_ONLY,)
    small = [item for item in traced if item.family is not None and not item.family.not_found]
    if not all(item.audit.verdict is Verdict.NO_MATCH for item in traced if item not in small):
        return Verdict.INCONCLUSIVE, ()
    if small:
        return Verdict.INCONCLUSIVE, (
            f"a copy of {', '.join(repr(item.record.name) for item in small)} carries so few of the family's keys that "
            "one which answers a quarter of them could not be told from silence",
        )
    return Verdict.NO_MATCH, ()
