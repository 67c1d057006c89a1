"""An audit of one's own attacked copy: the same questions, tests and verdict as an audit, without its records.

Guarded here: attacks do not touch the owner's history. An audit of a suspect is planned in the ledger, kept record by
record, and counts in what later audits are corrected for; a copy that the owner bent himself is no suspect. What a
rehearsal says is decided by the very functions that decide an audit. The positive control of a silent copy is the
stamped model itself, asked in the same way by the same engine in the same run.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fpvec_audit.domain.audit import Score, Verdict
from fpvec_audit.domain.audit_plan import EXACT, LIKELIHOOD, AuditPlan, Begin
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.ports import BackendDescription, InferenceBackend
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.robustness import TracedCopy
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.collecting import PROMPTS_AT_ONCE, Interview, collect
from fpvec_audit.services.described_weights import described_weights
from fpvec_audit.services.examination import Case, end_transcript, rendered, tell_likelihoods
from fpvec_audit.services.likelihoods import BaseModel
from fpvec_audit.services.measured_weights import keep_measured
from fpvec_audit.services.planning import likelihood_statistic, planned
from fpvec_audit.services.rehearsed_family import RehearsedFamily, rehearsed_family
from fpvec_audit.services.subjects import Bench, Subject, answer_length
from fpvec_audit.services.transcripts import RememberedTranscript


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What an audit of a copy would say.

    Attributes:
        case: plan, key set and transcript.
        score: what the answers and likelihoods say.
        engine: which engine answered.
        family: the family whose licensees a trace would look for, None for a key set without.
    """

    case: Case
    score: Score
    engine: BackendDescription
    family: RehearsedFamily | None = None

    def verdict(self, control: "Rehearsal | None") -> Verdict:
        """Return the verdict.

        Args:
            control: rehearsal of the stamped model as it is; it counts where it is a MATCH by the same engine.
        """
        decided = self.case.verdict(self.score, controlled=control is not None and control.stands_for(self))
        return (
            decided if self.family is None else self.family.verdict(self.family.judge(self.case, self.score), decided)
        )

    def traced(self, pooled: Iterable[str]) -> TracedCopy | None:
        """Return whom a trace would name, None for a key set whose marks mean nobody.

        Args:
            pooled: licensees whose copies are in what was asked.
        """
        if self.family is None:
            return None
        return self.family.told(self.family.judge(self.case, self.score), pooled)

    def stands_for(self, other: "Rehearsal") -> bool:
        """Return whether this is a positive control of another rehearsal."""
        same = all(getattr(self.engine, name) == getattr(other.engine, name) for name in ("kind", "engine", "version"))
        return same and self.case.verdict(self.score, controlled=False) is Verdict.MATCH

    @property
    def plan(self) -> AuditPlan:
        """What was asked, and how."""
        return self.case.plan

    def tests_json(self) -> tuple[Mapping[str, Any], ...]:
        """Return the tests that were possible, as JSON objects."""
        return tuple(
            {
                "name": test.name,
                "statistic": test.statistic,
                "p_value": as_float(test.p_value),
                "p_value_adjusted": as_float(test.p_value_adjusted),
            }
            for test in self.score.tests
        )


class Rehearsals:
    """Rehearses audits of one key set.

    Args:
        record: the key set without secrets.
        key_set: its candidates and assignment.
        bench: registry, catalog, bases and progress; its settings and engines are left aside.
        seed: the order of the questions follows from it.
    """

    def __init__(self, record: KeySetRecord, key_set: KeySet, bench: Bench, *, seed: int) -> None:
        self.record = record
        self.key_set = key_set
        self.family = rehearsed_family(record, bench.registry)
        self._bench = bench
        self._seed = seed

    def rehearse(self, subject: Subject, *, label: str, weights: Mapping[str, Any] | None = None) -> Rehearsal:
        """Ask a subject for all candidates, and test as an audit does; of a family, read its marks as a trace does.

        Args:
            subject: who is asked; left open.
            label: what the progress is called.
            weights: document about the subject's weights, None where only its answers are to be had.

        Raises:
            BackendError: the engine failed.
        """
        case = self._case(subject)
        interview = Interview(case.plan, case.begin, rendered(case, subject.rendering))

        def keep(_place: int, given: Any) -> bool:
            case.keeper.keep_answers(given)
            return False

        collect(
            [interview], subject.backend, keep=keep, at_once=PROMPTS_AT_ONCE, label=label, progress=self._bench.progress
        )
        tell_likelihoods([case], subject, self._bench)
        if case.base is not None and weights is not None:
            keep_measured([case], {case.base.digest: weights}, (), registry=self._bench.registry)
        end_transcript(case)
        return Rehearsal(case, case.scored, subject.backend.description, self.family)

    def weights(self, subject: Subject, base: BaseModel | None) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
        """Return how much of each known vector a copy seems to carry, and why nothing is told, in sentences."""
        return described_weights(subject.suspect, base, self._bench)

    def new_tokens(self, tokenizer: Any) -> int:
        """Return how many tokens an answer may have."""
        return answer_length([self.key_set], tokenizer)

    def _case(self, subject: Subject) -> Case:
        base = self._bench.bases.of(self.record, progress=self._bench.progress)
        tests = (EXACT, LIKELIHOOD) if likelihood_statistic(subject, base) else (EXACT,)
        bench = replace(self._bench, settings=replace(self._bench.settings, tests=tests))
        plan, known = planned(self.record, self.key_set, subject, bench, new_tokens=self.new_tokens(subject.tokenizer))
        begin = Begin(hashlib.sha256(f"attack {self._seed} {plan.suspect['digest']}".encode()).hexdigest())
        return Case(self.record, self.key_set, plan, begin, RememberedTranscript(plan, begin), known)


def served(subject: Subject, backend: InferenceBackend) -> Subject:
    """Return a subject that is asked through another backend, such as an attacked service."""
    return replace(subject, backend=backend)
