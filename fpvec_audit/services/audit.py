"""Use case: ask a suspect all candidates of a key set, and say whether its answers know which ones are issued.

What is done in which order, and why that order is the proof, stands in ``services/examination.py``; here one key set is
asked for, with the controls that the plan names.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource, opened_engines
from fpvec_audit.domain.audit import Score, Verdict
from fpvec_audit.domain.audit_plan import AuditPlan
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.errors import FpvecError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit_history import earlier_audits, unfinished
from fpvec_audit.services.audit_result import AuditResult
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.audit_warnings import audit_warnings
from fpvec_audit.services.described_weights import described_weights
from fpvec_audit.services.examination import Case, end_transcript, interview, tell_gradients, tell_likelihoods
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.likelihoods import BaseModel, BaseModels
from fpvec_audit.services.planning import begun, commit, for_control, planned
from fpvec_audit.services.positive_controls import ControlSearch, find_positive_control
from fpvec_audit.services.spending import announce_spending
from fpvec_audit.services.subjects import Bench, Subject, answer_length, open_key_sets, open_subject
from fpvec_audit.services.suspects import describe_suspect, is_endpoint, printable
from fpvec_audit.services.transcripts import TranscriptKeeper

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

LARGEST_SILENT_SHARE = 0.05
"""Share of questions to an endpoint that may draw nothing; with more, its silence proves nothing."""


@dataclass(frozen=True, slots=True)
class PlannedAudit:
    """An audit that was planned and waits, for a witness.

    Attributes:
        audit_id: ``au-`` and 16 characters.
        plan: what was recorded.
    """

    audit_id: str
    plan: AuditPlan

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "audit_id": self.audit_id,
            "plan_digest": self.plan.digest,
            "tests": list(self.plan.tests),
            "questions": len(self.plan.population) * self.plan.repeats,
        }


def audit(
    suspect: str | Path,
    *,
    key_set: str,
    registry: "Registry",
    catalog: "Catalog",
    settings: AuditSettings | None = None,
    backend: str | EngineSource = "auto",
    witness: Mapping[str, Any] | None = None,
    resume: bool = False,
    bases: BaseModels | None = None,
    device: str = "auto",
    tensor_parallel: int | None = None,
    directory: Path | None = None,
    progress: Progress = NO_PROGRESS,
    announce: Callable[[str], None] = lambda _sentence: None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    timer: Callable[[], float] = time.monotonic,
) -> AuditResult:
    """Audit one suspect.

    Args:
        suspect: checkpoint directory, the id of a repository on the hub, or the base URL of an endpoint.
        key_set: name or id of the key set to ask for.
        registry: where key set, plan and result are recorded.
        catalog: plugins.
        settings: how the suspect is asked; the defaults when None.
        backend: ``auto``, ``vllm`` or ``transformers``; or a source of engines, to be shared between
            audits, or to change what they are asked and answer. An endpoint needs none.
        witness: signed statement of a witness over the plan of an audit that was planned with :func:`plan_audit`.
        resume: whether to go on with an audit of the same plan that was interrupted.
        bases: base models, shared by audits so that each is asked once.
        device: torch device of the engine.
        tensor_parallel: over how many GPUs vLLM divides a model; None for as few as hold it.
        directory: where a copy of a suspect that lies elsewhere is; None for one that is found by what it is called.
        progress: where to report.
        announce: takes a sentence that the user should read before anything is sent.
        entropy: gives the random bytes of the audit's number and nonce.
        timer: gives seconds from any beginning.

    Raises:
        UnknownNameError: no such key set, backend or adapter.
        UsageError: a setting that this suspect cannot have, or nothing to resume.
        CheckpointError: the suspect cannot be read.
        BackendError: the engine cannot load the suspect, or failed; what came so far is kept.
        KeySetError: the key set cannot be used, or too little of it is left.
        EvidenceError: the witness's statement is not one over this plan.
        RegistryError: the registry cannot be read or written.
    """
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(key_set)
    with ExitStack() as stack:
        engines = opened_engines(backend, stack, device=device, tensor_parallel=tensor_parallel)
        bench = Bench(
            settings or AuditSettings(),
            registry,
            catalog,
            engines,
            bases or BaseModels(registry=registry, catalog=catalog),
            progress,
            entropy,
            timer,
            device="cpu" if device == "auto" else device,
            witness=witness,
            resume=resume or witness is not None,
            witnessed=witness is not None,
            fetched={} if directory is None else {str(suspect): directory},
        )
        if not is_endpoint(suspect):
            engines.warm_up()
        with recorded_job(registry, "audit", {"suspect": printable(suspect), "key_set": record.id}):
            return _examine(str(suspect), record, bench, announce=announce)


def plan_audit(
    suspect: str | Path,
    *,
    key_set: str,
    settings: AuditSettings,
    registry: "Registry",
    catalog: "Catalog",
    backend: str | EngineSource = "auto",
    device: str = "auto",
    tensor_parallel: int | None = None,
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> PlannedAudit:
    """Plan an audit and record the plan, so that a witness can sign it before the first question is asked.

    Raises:
        FpvecError: as :func:`audit`.
    """
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(key_set)
    with ExitStack() as stack:
        engines = opened_engines(backend, stack, device=device, tensor_parallel=tensor_parallel)
        bases = BaseModels(registry=registry, catalog=catalog)
        bench = Bench(settings, registry, catalog, engines, bases, progress, entropy, time.monotonic, witnessed=True)
        subject = open_subject(str(suspect), bench)
        try:
            plan, _, _ = _planned(subject, record, bench)
            return PlannedAudit(commit(plan, subject.suspect, registry), plan)
        finally:
            subject.backend.close()


def examine_control(path: Path, record: KeySetRecord, bench: Bench, plan: AuditPlan) -> AuditResult:
    """Carry out a plan's questions on a model that is known.

    Raises:
        FpvecError: as :func:`audit`.
    """
    return _examine(str(path), record, for_control(bench, plan), control=True)


def _examine(
    suspect: str,
    record: KeySetRecord,
    bench: Bench,
    *,
    announce: Callable[[str], None] = lambda _sentence: None,
    control: bool = False,
) -> AuditResult:
    started = bench.timer()
    subject = open_subject(suspect, bench)
    try:
        case = _opened(subject, record, bench)
        announce_spending([case], subject, bench, announce=announce)
        interview([case], subject, bench)
        tell_likelihoods([case], subject, bench)
        description = subject.backend.description
    finally:
        subject.backend.close()
    remarks = tell_gradients(case, subject, bench)
    end_transcript(case)
    scored = case.scored
    shown = _shown_controls(case, record, bench)
    weights, untold = (
        (None, ())
        if control
        else described_weights(subject.suspect, case.base, bench, controls=_clean(bench.settings.controls, shown))
    )
    verdict, search = _judge(case, scored, subject, bench, shown, control=control)
    history = earlier_audits(bench.registry, subject.suspect, record.id, leave_out=case.keeper.identifier)
    result = AuditResult(
        audit_id=case.keeper.identifier,
        verdict=verdict,
        plan=case.plan,
        begin=case.begin,
        score=scored,
        records=case.keeper.records,
        backend=description,
        key_set_name=record.name,
        campaign_suspects=history.suspects,
        first_seen=history.first_seen,
        burnt=history.burnt,
        warnings=(
            *audit_warnings(case, subject, scored, description, bench, history),
            *remarks,
            *untold,
            *shown.warnings,
            *search.warnings,
        ),
        earlier_audits=history.audits,
        controls=(*shown.documents, *search.documents),
        weights=weights,
        seconds=bench.timer() - started,
    )
    with bench.registry.unit_of_work() as uow:
        uow.audits.finish(
            case.keeper.identifier,
            verdict=verdict.value,
            result=result.to_json(),
            transcript=case.keeper.head,
            records=len(case.keeper.records),
        )
    return result


def _planned(subject: Subject, record: KeySetRecord, bench: Bench) -> tuple[AuditPlan, BaseModel | None, KeySet]:
    purpose = f"audit of {subject.suspect.digest}"
    key_set = open_key_sets([record], bench, purpose=purpose)[0]
    controls = [_described(path, bench) for path in bench.settings.controls]
    length = answer_length([key_set], subject.tokenizer)
    plan, base = planned(record, key_set, subject, bench, new_tokens=length, controls=controls)
    return plan, base, key_set


def _opened(subject: Subject, record: KeySetRecord, bench: Bench) -> Case:
    """Plan an audit, or take up the interrupted one with the same plan."""
    plan, base, key_set = _planned(subject, record, bench)
    if bench.resume:
        identifier, plan = unfinished(bench.registry, plan, fresh_only=bench.settings.fresh_only)
    else:
        identifier = commit(plan, subject.suspect, bench.registry)
    begin = begun(identifier, plan, bench)
    keeper = TranscriptKeeper(identifier, plan, begin, registry=bench.registry)
    return Case(record, key_set, plan, begin, keeper, base)


def _described(path: Path, bench: Bench) -> dict[str, str]:
    suspect = describe_suspect(path, catalog=bench.catalog, progress=bench.progress)
    return {"location": suspect.location, "digest": suspect.digest}


def _shown_controls(case: Case, record: KeySetRecord, bench: Bench) -> ControlSearch:
    """Carry out the same plan on the controls that the user named; one that fails is named and the others go on."""
    documents, warnings = [], []
    for path in bench.settings.controls:
        try:
            result = examine_control(path, record, bench, case.plan)
        except FpvecError as error:
            warnings.append(f"control {path} failed: {error.problem}")
        else:
            documents.append(result.to_json())
    return ControlSearch(tuple(documents), tuple(warnings))


def _clean(controls: Sequence[Path], shown: ControlSearch) -> list[Path]:
    """Return the controls that did not match."""
    matched = {item["suspect"]["location"] for item in shown.documents if item["verdict"] == Verdict.MATCH.value}
    return [path for path in controls if str(path) not in matched]


def _judge(
    case: Case, scored: Score, subject: Subject, bench: Bench, shown: ControlSearch, *, control: bool
) -> tuple[Verdict, ControlSearch]:
    """Return the verdict; a positive control is looked for only where it decides."""
    without = case.verdict(scored, controlled=False)
    if control or without is not Verdict.INCONCLUSIVE or case.verdict(scored, controlled=True) is not Verdict.NO_MATCH:
        return without, ControlSearch(())
    if subject.suspect.directory is None:
        asked = (scored.issued + scored.decoys) * case.plan.repeats
        answered = scored.silent <= LARGEST_SILENT_SHARE * asked
        sentence = f"{scored.silent} of {asked} questions drew nothing from the endpoint: its silence proves nothing"
        return case.verdict(scored, controlled=answered), ControlSearch((), () if answered else (sentence,))
    if any(document["verdict"] == Verdict.MATCH.value for document in shown.documents):
        return Verdict.NO_MATCH, ControlSearch(())
    search = find_positive_control(
        case.plan,
        key_set=case.record,
        registry=bench.registry,
        run=lambda path: examine_control(path, case.record, bench, case.plan),
    )
    return case.verdict(scored, controlled=bool(search.documents)), search
