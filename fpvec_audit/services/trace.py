"""Use case: which of the issued key sets are in a suspect? One engine start and one interview for all of them.

Every key set is an audit of its own in the ledger, with a plan that says how many are tested together. Whom a trace
names is settled by Holm's correction over all tests of all key sets, so that the chance of naming an innocent stays
below α however many are asked for.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import Engines, EngineSource
from fpvec_audit.domain.audit import Score, Verdict
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, PENDING, SELF_ATTESTED
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.statistics import holm
from fpvec_audit.errors import UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit import LARGEST_SILENT_SHARE, examine_control
from fpvec_audit.services.audit_history import History, earlier_audits
from fpvec_audit.services.audit_result import DOES_NOT_PROVE, NOT_FOUND_DOES_NOT_PROVE, AuditResult, as_float
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.audit_warnings import engine_warnings, result_warnings
from fpvec_audit.services.described_weights import described_weights
from fpvec_audit.services.examination import Case, end_transcript, interview, tell_gradients, tell_likelihoods
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.key_life import life_warnings
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.planning import begun, commit, planned
from fpvec_audit.services.positive_controls import ControlSearch, find_positive_control
from fpvec_audit.services.spending import announce_spending
from fpvec_audit.services.subjects import Bench, Subject, answer_length, open_key_sets, open_subject
from fpvec_audit.services.suspects import is_endpoint
from fpvec_audit.services.transcripts import TranscriptKeeper

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

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
        named: whether it is named.
    """

    record: KeySetRecord
    audit: AuditResult
    p_value_corrected: Fraction
    named: bool

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        score = self.audit.score
        return {
            "key_set": self.record.id,
            "name": self.record.name,
            "licensee": self.record.licensee,
            "audit_id": self.audit.audit_id,
            "named": self.named,
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
    first_seen: str = ""

    @property
    def named(self) -> tuple[TracedKeySet, ...]:
        """Key sets that are named."""
        return tuple(item for item in self.traced if item.named)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "schema": SCHEMA,
            "trace_id": self.trace_id,
            "verdict": self.verdict.value,
            "named": [
                {
                    "licensee": item.record.licensee or item.record.name,
                    "key_set": item.record.id,
                    "name": item.record.name,
                    "p_value_corrected": as_float(item.p_value_corrected),
                    "rule": HOLM,
                    "audit_id": item.audit.audit_id,
                }
                for item in self.named
            ],
            "marks": [],
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
                DOES_NOT_PROVE if self.verdict is Verdict.MATCH else NOT_FOUND_DOES_NOT_PROVE + DOES_NOT_PROVE[:1]
            ),
            "weights": None if self.weights is None else dict(self.weights),
            "seconds": self.seconds,
        }


def trace(
    suspect: str | Path,
    *,
    settings: AuditSettings,
    registry: "Registry",
    catalog: "Catalog",
    key_sets: Sequence[str] = (),
    backend: str | EngineSource = "auto",
    bases: BaseModels | None = None,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    announce: Callable[[str], None] = lambda _sentence: None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    timer: Callable[[], float] = time.monotonic,
) -> TraceResult:
    """Ask a suspect for several key sets at once and name those that are in it.

    Args:
        suspect: checkpoint directory, the id of a repository on the hub, or the base URL of an endpoint.
        settings: how the suspect is asked.
        registry: where key sets, plans and results are recorded.
        catalog: plugins.
        key_sets: names or ids; empty for all that are issued.
        backend: ``auto``, ``vllm`` or ``transformers``, or a source of engines.
        bases: base models, shared by audits so that each is asked once.
        device: torch device of the engine.
        progress: where to report.
        announce: takes a sentence that the user should read before anything is sent.
        entropy: gives random bytes.
        timer: gives seconds from any beginning.

    Raises:
        UsageError: there is no key set, or a setting that a trace cannot have.
        FpvecError: as :func:`fpvec_audit.services.audit.audit`.
    """
    if settings.stop_early or settings.controls:
        raise UsageError(
            "a trace asks all candidates of all key sets, without controls of its own",
            advice="leave --stop-early and --control out, or audit for one key set",
        )
    records = _wanted(registry, key_sets)
    with ExitStack() as stack:
        engines = stack.enter_context(Engines(backend, device=device)) if isinstance(backend, str) else backend
        if not is_endpoint(suspect):
            engines.warm_up()
        bench = Bench(
            settings,
            registry,
            catalog,
            engines,
            bases or BaseModels(registry=registry, catalog=catalog),
            progress,
            entropy,
            timer,
            device="cpu" if device == "auto" else device,
            trace=f"tr-{entropy(8).hex()}",
        )
        detail = {"suspect": ascii(str(suspect))[1:-1], "key_sets": len(records), "trace": bench.trace}
        with recorded_job(registry, "trace", detail):
            return _trace(str(suspect), records, bench, announce)


def _trace(suspect: str, records: Sequence[KeySetRecord], bench: Bench, announce: Callable[[str], None]) -> TraceResult:
    started = bench.timer()
    subject = open_subject(suspect, bench)
    try:
        cases = _opened(subject, records, bench)
        announce_spending(cases, subject, bench, announce=announce)
        interview(cases, subject, bench)
        tell_likelihoods(cases, subject, bench)
        description = subject.backend.description
    finally:
        subject.backend.close()
    scores = []
    with bench.progress.step("score", len(cases), "key sets") as step:
        for case in cases:
            tell_gradients(case, subject, bench)
            end_transcript(case)
            scores.append(case.scored)
            step.advance()
    corrected = _corrected(cases, scores)
    alpha = Fraction(bench.settings.alpha)
    named = [case.plan.committed_profile and p <= alpha for case, p in zip(cases, corrected, strict=True)]
    search = _controls(cases, scores, subject, bench) if not any(named) else ControlSearch(())
    controlled = bool(search.documents) or (subject.suspect.directory is None and not search.warnings)
    history = earlier_audits(bench.registry, subject.suspect, cases[0].plan.key_set, leave_out="")
    traced = [
        TracedKeySet(
            case.record, _finish(case, scored, description, history, bench, controlled=controlled), p, is_named
        )
        for case, scored, p, is_named in zip(cases, scores, corrected, named, strict=True)
    ]
    traced.sort(key=lambda item: (item.p_value_corrected, item.record.name))
    verdict, why = _verdict(traced)
    weights, untold = described_weights(subject.suspect, cases[0].base, bench)
    return TraceResult(
        trace_id=bench.trace,
        verdict=verdict,
        traced=tuple(traced),
        suspect=subject.suspect.to_json(),
        backend=description,
        alpha=bench.settings.alpha,
        questions=len({answer.prompt for item in traced for answer in item.audit.answers}),
        controls=search.documents,
        warnings=(
            *subject.suspect.warnings,
            *subject.rendering.warnings,
            *(engine_warnings(bench.engines, description) if subject.suspect.directory is not None else ()),
            *search.warnings,
            *(warning for case in cases for warning in life_warnings(case.record, registry=bench.registry)),
            *why,
            *untold,
        ),
        seconds=bench.timer() - started,
        weights=weights,
        first_seen=history.first_seen,
    )


def _wanted(registry: "Registry", key_sets: Sequence[str]) -> tuple[KeySetRecord, ...]:
    with registry.unit_of_work() as uow:
        if key_sets:
            found = [uow.key_sets.get(reference) for reference in key_sets]
            return tuple({record.id: record for record in found}.values())
        records = tuple(record for record in uow.key_sets.list() if record.grade != PENDING)
    if not records:
        raise UsageError("there is no issued key set to trace", advice="issue one: `fpvec key issue NAME`")
    return records


def _opened(subject: Subject, records: Sequence[KeySetRecord], bench: Bench) -> list[Case]:
    purpose = f"trace of {subject.suspect.digest}"
    key_sets = open_key_sets(records, bench, purpose=purpose, progress=bench.progress)
    length = answer_length(key_sets, subject.tokenizer)
    cases = []
    with bench.progress.step("record plans", len(records), "plans") as step:
        for record, key_set in zip(records, key_sets, strict=True):
            plan, base = planned(record, key_set, subject, bench, new_tokens=length, comparisons=len(records))
            identifier = commit(plan, subject.suspect, bench.registry)
            begin = begun(identifier, plan, bench)
            keeper = TranscriptKeeper(identifier, plan, begin, registry=bench.registry)
            cases.append(Case(record, key_set, plan, begin, keeper, base))
            step.advance()
    return cases


def _corrected(cases: Sequence[Case], scores: Sequence[Score]) -> list[Fraction]:
    """Return per key set its smallest p-value after Holm's correction over all tests of all of them."""
    allowed = [
        min(Fraction(1), test.p_value * (GRINDING_ALLOWANCE if case.plan.set_grade == SELF_ATTESTED else 1))
        for case, scored in zip(cases, scores, strict=True)
        for test in scored.tests
    ]
    adjusted = iter(holm(allowed))
    return [min(next(adjusted) for _ in scored.tests) for scored in scores]


def _controls(cases: Sequence[Case], scores: Sequence[Score], subject: Subject, bench: Bench) -> ControlSearch:
    """Find one own model that answers under the same profile and engine; for an endpoint, that it says anything."""
    if subject.suspect.directory is None:
        asked = sum(scored.issued + scored.decoys for scored in scores) * cases[0].plan.repeats
        silent = sum(scored.silent for scored in scores)
        if silent <= LARGEST_SILENT_SHARE * asked:
            return ControlSearch(())
        return ControlSearch((), (f"{silent} of {asked} questions drew nothing from the endpoint",))
    search = ControlSearch(())
    for case in cases:
        search = find_positive_control(
            case.plan,
            key_set=case.record,
            registry=bench.registry,
            run=partial(examine_control, record=case.record, bench=bench, plan=case.plan),
        )
        if search.documents:
            return search
        if any("answered" in warning or "says" in warning for warning in search.warnings):
            return search  # an own model was run, and stayed silent: others would tell the same
    return search


def _finish(
    case: Case, scored: Score, description: BackendDescription, history: History, bench: Bench, *, controlled: bool
) -> AuditResult:
    result = AuditResult(
        audit_id=case.keeper.identifier,
        verdict=case.verdict(scored, controlled=controlled),
        plan=case.plan,
        begin=case.begin,
        score=scored,
        records=case.keeper.records,
        backend=description,
        key_set_name=case.record.name,
        campaign_suspects=history.suspects,
        first_seen=history.first_seen,
        burnt=0,
        warnings=(*life_warnings(case.record, registry=bench.registry), *result_warnings(case.plan, scored)),
        earlier_audits=(),
        controls=(),
        seconds=0.0,
    )
    with bench.registry.unit_of_work() as uow:
        uow.audits.finish(
            case.keeper.identifier,
            verdict=result.verdict.value,
            result=result.to_json(),
            transcript=case.keeper.head,
            records=len(case.keeper.records),
        )
    return result


def _verdict(traced: Sequence[TracedKeySet]) -> tuple[Verdict, tuple[str, ...]]:
    if any(item.named for item in traced):
        return Verdict.MATCH, ()
    if any(len(item.audit.plan.tests) == 1 for item in traced):
        return Verdict.INCONCLUSIVE, (ANSWERS_ONLY,)
    quiet = all(item.audit.verdict is Verdict.NO_MATCH for item in traced)
    return (Verdict.NO_MATCH if quiet else Verdict.INCONCLUSIVE), ()
