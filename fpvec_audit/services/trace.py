"""Use case: which of the issued key sets are in a suspect? One engine start and one interview for all of them.

Every key set is an audit of its own in the ledger, with a plan that says how many are tested together. Whom a trace
names is settled by Holm's correction over all tests of all key sets, so that the chance of naming an innocent stays
below α however many are asked for.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource, opened_engines
from fpvec_audit.domain.audit import Score
from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, PENDING, SELF_ATTESTED
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.statistics import holm
from fpvec_audit.errors import UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit import LARGEST_SILENT_SHARE, examine_control
from fpvec_audit.services.audit_history import History, earlier_audits
from fpvec_audit.services.audit_result import TRACE_DOCUMENT, AuditResult
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.audit_warnings import engine_warnings, result_warnings
from fpvec_audit.services.code_summary import marked_key_set
from fpvec_audit.services.described_weights import described_weights
from fpvec_audit.services.examination import Case, end_transcript, interview, tell_gradients, tell_likelihoods
from fpvec_audit.services.family_reading import FamilyReading, family_terms, read_family
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.key_life import life_warnings
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.measured_weights import keep_measured
from fpvec_audit.services.planning import begun, commit, planned
from fpvec_audit.services.positive_controls import ControlSearch, find_positive_control
from fpvec_audit.services.spending import announce_spending
from fpvec_audit.services.subjects import Bench, Subject, answer_length, open_key_sets, open_subject
from fpvec_audit.services.suspects import is_endpoint, printable
from fpvec_audit.services.trace_result import TracedKeySet, TraceResult, trace_verdict
from fpvec_audit.services.traced_carriers import traced_carriers, verdict_with_carriers
from fpvec_audit.services.transcripts import TranscriptKeeper

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry


def trace(
    suspect: str | Path,
    *,
    settings: AuditSettings,
    registry: "Registry",
    catalog: "Catalog",
    key_sets: Sequence[str] = (),
    families: Sequence[str] = (),
    backend: str | EngineSource = "auto",
    bases: BaseModels | None = None,
    device: str = "auto",
    tensor_parallel: int | None = None,
    directory: Path | None = None,
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
        key_sets: names or ids; all that are issued where neither these nor families are given.
        families: key sets with several marks, by name, id, or a vector family trained on them.
        backend: ``auto``, ``vllm`` or ``transformers``, or a source of engines.
        bases: base models, shared by audits so that each is asked once.
        device: torch device of the engine.
        tensor_parallel: over how many GPUs vLLM divides a model; None for as few as hold it.
        directory: where a copy of a suspect that lies elsewhere is; None for one that is found by what it is called.
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
    records = _wanted(registry, key_sets, families)
    with ExitStack() as stack:
        engines = opened_engines(backend, stack, device=device, tensor_parallel=tensor_parallel)
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
            fetched={} if directory is None else {str(suspect): directory},
        )
        detail = {"suspect": printable(suspect), "key_sets": len(records), "trace": bench.trace}
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
        weights, untold = _described(cases, subject, bench)
        carriers, unread = traced_carriers(subject.suspect, records, bench)
        untold += keep_measured(cases, weights, carriers, registry=bench.registry)
        for case in cases:
            end_transcript(case)
            scores.append(case.scored)
            step.advance()
    corrected = _corrected(cases, scores)
    alpha = Fraction(bench.settings.alpha)
    found = [case.plan.committed_profile and p <= alpha for case, p in zip(cases, corrected, strict=True)]
    search = _controls(cases, scores, subject, bench) if not any(found) else ControlSearch(())
    controlled = bool(search.documents) or (subject.suspect.directory is None and not search.warnings)
    history = earlier_audits(bench.registry, subject.suspect, cases[0].plan.key_set, leave_out="")
    families = _families(cases, scores, corrected, found, bench)
    traced = [
        TracedKeySet(
            case.record,
            _result(case, scored, families.get(case.record.id), description, history, bench, controlled=controlled),
            p,
            is_found,
            families.get(case.record.id),
        )
        for case, scored, p, is_found in zip(cases, scores, corrected, found, strict=True)
    ]
    traced.sort(key=lambda item: (item.p_value_corrected, item.record.name))
    verdict, why = trace_verdict(traced)
    verdict, told = verdict_with_carriers(verdict, carriers)
    result = TraceResult(
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
            *(warning for reading in families.values() for warning in reading.warnings),
            *why,
            *untold,
            *unread,
            *told,
        ),
        seconds=bench.timer() - started,
        weights=next(iter(weights.values()), None),
        carriers=carriers,
        first_seen=history.first_seen,
    )
    _record(cases, result, bench.registry)
    return result


def _wanted(registry: "Registry", key_sets: Sequence[str], families: Sequence[str]) -> tuple[KeySetRecord, ...]:
    with registry.unit_of_work() as uow:
        if key_sets or families:
            found = [uow.key_sets.get(reference) for reference in key_sets]
            found += [marked_key_set(uow, reference) for reference in families]
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
    terms = family_terms(records, bench.registry)
    with bench.progress.step("record plans", len(records), "plans") as step:
        for record, key_set in zip(records, key_sets, strict=True):
            plan, base = planned(
                record,
                key_set,
                subject,
                bench,
                new_tokens=length,
                comparisons=len(records),
                family=terms.get(record.id),
            )
            identifier = commit(plan, subject.suspect, bench.registry)
            begin = begun(identifier, plan, bench)
            keeper = TranscriptKeeper(identifier, plan, begin, registry=bench.registry)
            cases.append(Case(record, key_set, plan, begin, keeper, base))
            step.advance()
    return cases


def _described(
    cases: Sequence[Case], subject: Subject, bench: Bench
) -> tuple[dict[str, Mapping[str, Any]], tuple[str, ...]]:
    """Return what the suspect's weights look like, by digest of the base that they were compared with, and why not.

    All bases of families are compared with, as their marks are read from it; without any, one base, to describe.
    """
    marked = [case for case in cases if len(case.key_set.marks) > 1]
    bases = {case.base.digest: case.base for case in marked or cases if case.base is not None}
    found: dict[str, Mapping[str, Any]] = {}
    untold: tuple[str, ...] = ()
    for base in bases.values() if marked else list(bases.values())[:1]:
        document, why = described_weights(subject.suspect, base, bench, decisive=bool(marked))
        untold += why
        if document is not None:
            found[base.digest] = document
    if subject.suspect.directory is not None and GRADIENT not in bench.settings.leave_out:
        untold += tuple(
            f"marks of {case.record.name!r} were read from answers alone: the base of its vectors is not at hand"
            for case in marked
            if case.record.base is not None and case.base is None
        )
    return found, untold


def _families(
    cases: Sequence[Case],
    scores: Sequence[Score],
    corrected: Sequence[Fraction],
    found: Sequence[bool],
    bench: Bench,
) -> dict[str, FamilyReading]:
    """Read the marks of all key sets that have several, by key set."""
    places = [place for place, case in enumerate(cases) if len(case.key_set.marks) > 1]
    readings = {}
    with bench.progress.step("read marks", len(places), "families") as step:
        for place in places:
            case = cases[place]
            readings[case.record.id] = read_family(
                case,
                scores[place],
                found=found[place],
                p_value_corrected=corrected[place],
                registry=bench.registry,
                families=len(places),
            )
            step.advance()
    return readings


def _corrected(cases: Sequence[Case], scores: Sequence[Score]) -> list[Fraction]:
    """Return per key set its smallest p-value after Holm's correction over all tests of all of them.

    A family whose words mean licensees takes that of its own audit, which counts every other key set against it: that
    is what evidence of the family alone can be recomputed to.
    """
    allowed = [
        min(Fraction(1), test.p_value * (GRINDING_ALLOWANCE if case.plan.set_grade == SELF_ATTESTED else 1))
        for case, scored in zip(cases, scores, strict=True)
        for test in scored.tests
    ]
    adjusted = iter(holm(allowed))
    smallest = [min(next(adjusted) for _ in scored.tests) for scored in scores]
    return [
        p_value if case.plan.family is None else scored.p_value_corrected
        for case, scored, p_value in zip(cases, scores, smallest, strict=True)
    ]


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


def _result(
    case: Case,
    scored: Score,
    family: FamilyReading | None,
    description: BackendDescription,
    history: History,
    bench: Bench,
    *,
    controlled: bool,
) -> AuditResult:
    decided = case.verdict(scored, controlled=controlled)
    return AuditResult(
        audit_id=case.keeper.identifier,
        verdict=decided if family is None else family.verdict(decided),
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


def _record(cases: Sequence[Case], result: TraceResult, registry: "Registry") -> None:
    """Record how every key set's audit ended; the likeliest one's document holds that of the whole trace."""
    keepers = {case.keeper.identifier: case.keeper for case in cases}
    whole: dict[str, Any] = {TRACE_DOCUMENT: result.to_json()}
    for item in result.traced:
        keeper = keepers[item.audit.audit_id]
        with registry.unit_of_work() as uow:
            uow.audits.finish(
                keeper.identifier,
                verdict=item.audit.verdict.value,
                result=item.audit.to_json() | whole,
                transcript=keeper.head,
                records=len(keeper.records),
            )
        whole = {}
