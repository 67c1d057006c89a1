"""Use case: have a suspect examined by somebody else, and join what the examiner signed to the audit that was planned.

The owner plans the audit and records the plan, and hands out prompts and responses without the assignment. What comes
back is held against the plan: the examiner's signature, the chain of records, that every question was put once, in the
order that chance gave and in the words of the package, and the match vector that the examiner computed without knowing
which matches count. Only then is it scored.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource, opened_engines
from fpvec_audit.domain.audit import Score, Verdict, decide, score
from fpvec_audit.domain.audit_plan import EXACT, AuditPlan, Begin, questions
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.records import AuditRecord, KeySetRecord
from fpvec_audit.domain.transcript import ANSWER, COMPLETE, END, Record, answers, first_misfit, genesis, head
from fpvec_audit.errors import EvidenceError, UsageError
from fpvec_audit.evidence.outcome import does_not_prove, match_vector_digest
from fpvec_audit.evidence.recomputation import OpenedKeySet, check_rendering
from fpvec_audit.evidence.signing import PublicKey
from fpvec_audit.evidence.standing import (
    ExaminerStatement,
    check_examiner,
    envelope_digest,
    grade_of,
    read_examiner_statement,
)
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit import LARGEST_SILENT_SHARE, examine_control
from fpvec_audit.services.audit_history import History, earlier_audits
from fpvec_audit.services.audit_result import AuditResult
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.audit_warnings import disclosure_warnings, key_warnings, result_warnings
from fpvec_audit.services.examination_files import ExaminationPackage, read_examined, write_package
from fpvec_audit.services.finished_audits import EXAMINED_EVENT, recorded_plan
from fpvec_audit.services.key_life import life_warnings
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.planning import begun, commit, planned
from fpvec_audit.services.positive_controls import ControlSearch, find_positive_control
from fpvec_audit.services.subjects import Bench, answer_length, open_key_sets, open_subject
from fpvec_audit.services.suspects import Suspect

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class BlindPackage:
    """An audit that was planned and began, to be carried out by an examiner.

    Attributes:
        audit_id: ``au-`` and 16 characters.
        plan: what was recorded.
        package: the JSON object for the examiner; secret, as it holds the candidates.
        out: file it was written to, None where it was not.
        warnings: what the owner should know, in sentences.
    """

    audit_id: str
    plan: AuditPlan
    package: Mapping[str, Any] = field(repr=False)
    out: Path | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no prompt."""
        file = "PACKAGE" if self.out is None else self.out.name
        return {
            "audit_id": self.audit_id,
            "plan_digest": self.plan.digest,
            "suspect": dict(self.plan.suspect),
            "questions": len(self.plan.population) * self.plan.repeats,
            "out": "" if self.out is None else str(self.out),
            "warnings": list(self.warnings),
            "next": (
                f"hand {file} to the examiner over a channel that nobody else reads, who runs `fpvec evidence examine "
                f"{file} SUSPECT --examiner-key FILE --name NAME --out EXAMINED`; then run `fpvec evidence attach "
                "EXAMINED`"
            ),
        }


@dataclass(frozen=True, slots=True)
class ExaminedAudit:
    """An audit that an examiner carried out.

    Attributes:
        result: what its transcript says.
        grade: how far a stranger can rely on it.
        statement: what the examiner signed.
    """

    result: AuditResult
    grade: str
    statement: ExaminerStatement

    def to_json(self) -> dict[str, Any]:
        """Return the audit document, with the examiner."""
        said = self.statement
        return self.result.to_json() | {
            "grade": self.grade,
            "does_not_prove": list(does_not_prove(self.result.verdict.value, self.grade)),
            "examiner": {"name": said.name, "time": said.time, "public_key": said.examiner},
        }


def blind_package(
    suspect: str | Path,
    *,
    key_set: str,
    settings: AuditSettings,
    registry: "Registry",
    catalog: "Catalog",
    out: Path | None = None,
    backend: str | EngineSource = "auto",
    device: str = "auto",
    tensor_parallel: int | None = None,
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> BlindPackage:
    """Plan an audit, let chance order it, and write what an examiner needs to carry it out blindly.

    Args:
        suspect: checkpoint directory, hub id or base URL, as the owner has it; it is digested and asked nothing.
        key_set: name or id of the key set to ask for.
        settings: how the suspect is asked; the exact test alone is registered.
        registry: where plan and beginning are recorded.
        catalog: plugins.
        out: new file for the package, readable by its owner alone; None for none.
        backend: ``auto``, ``vllm`` or ``transformers``, or a source of engines: what the examiner is to use.
        device: torch device of the engine.
        tensor_parallel: over how many GPUs vLLM divides a model; None for as few as hold it.
        progress: where to report.
        entropy: gives the random bytes of the audit's number and nonce.

    Raises:
        UsageError: settings that an examiner cannot carry out.
        EvidenceError: ``out`` exists, or cannot be written.
        FpvecError: as :func:`fpvec_audit.services.audit.audit`.
    """
    _refuse_unexaminable(settings)
    if out is not None and (out.exists() or out.is_symlink()):
        raise EvidenceError(f"{out} exists already", advice="name another file for the examination package")
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(key_set)
    with ExitStack() as stack:
        engines = opened_engines(backend, stack, device=device, tensor_parallel=tensor_parallel)
        bases = BaseModels(registry=registry, catalog=catalog)
        exact = replace(settings, tests=(EXACT,))
        bench = Bench(exact, registry, catalog, engines, bases, progress, entropy, time.monotonic)
        subject = open_subject(str(suspect), bench)
        stack.callback(subject.backend.close)
        opened = open_key_sets([record], bench, purpose=f"examination of {subject.suspect.digest}")[0]
        plan, _ = planned(record, opened, subject, bench, new_tokens=answer_length([opened], subject.tokenizer))
        identifier = commit(plan, subject.suspect, registry)
        begin = begun(identifier, plan, bench)
        package = ExaminationPackage(
            plan,
            begin,
            {index: subject.rendering.render(opened.candidates[index].prompt) for index in plan.population},
            {index: opened.candidates[index].response for index in plan.population},
        )
        warnings = (*subject.suspect.warnings, *subject.rendering.warnings)
    if plan.suspect["kind"] == "endpoint":
        with registry.unit_of_work() as uow:  # the examiner may ask at any time from now on
            uow.key_sets.burn(record.id, plan.population, where=identifier)
    if out is not None:
        write_package(out, package)
    known = f"the examiner learns all {len(plan.population)} candidates, though not which are issued"
    return BlindPackage(identifier, plan, package.to_json(), out, (*warnings, known))


def attach(
    file: Path,
    *,
    registry: "Registry",
    catalog: "Catalog",
    owner: PublicKey | None = None,
    backend: str | EngineSource = "auto",
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    timer: Callable[[], float] = time.monotonic,
) -> ExaminedAudit:
    """Join what an examiner asked and signed to the audit that was planned, and score it.

    Args:
        file: what the examiner handed back.
        registry: where the plan is, and the result will be.
        catalog: plugins.
        owner: public key with which the owner signs bundles, who cannot examine itself; None while there is none.
        backend: engine for a positive control, where the verdict rests on one.
        device: its torch device.
        progress: where to report.
        entropy: gives random bytes for a positive control.
        timer: gives seconds from any beginning.

    Raises:
        EvidenceError: the file is no examination, its signature does not fit, it is of no audit that waits for one,
            or something was asked otherwise than planned. Nothing is recorded then.
        KeySetError: the key set's secret does not belong to its commitment.
    """
    started = timer()
    handed_back = read_examined(file)
    statement = read_examiner_statement(handed_back.envelope)
    audit, record = _waiting(statement.plan, registry)
    assert audit.begin is not None
    plan, begin = recorded_plan(audit), Begin.from_json(audit.begin)
    records = handed_back.transcript(plan)
    key_set = open_key_set(record.id, registry=registry, purpose=f"examination {audit.id}")
    _check(statement, plan, begin, records, key_set, owner)
    scored = score(
        plan,
        begin,
        records,
        responses={candidate.index: candidate.response for candidate in key_set.candidates},
        issued=frozenset(key_set.issued_indices),
    )
    with ExitStack() as stack:
        engines = opened_engines(backend, stack, device=device)
        bases = BaseModels(registry=registry, catalog=catalog)
        bench = Bench(_settings(plan), registry, catalog, engines, bases, progress, entropy, timer)
        verdict, search = _judge(scored, plan, record, bench)
    suspect = Suspect(plan.suspect["location"], None, plan.suspect["digest"], None)
    history = earlier_audits(registry, suspect, record.id, leave_out=audit.id)
    result = AuditResult(
        audit_id=audit.id,
        verdict=verdict,
        plan=plan,
        begin=begin,
        score=scored,
        records=records,
        backend=handed_back.backend,
        key_set_name=record.name,
        campaign_suspects=history.suspects,
        first_seen=history.first_seen,
        burnt=history.burnt,
        warnings=(
            *life_warnings(record, registry=registry),
            *_warnings(record, key_set, plan, scored, history),
            *search.warnings,
        ),
        earlier_audits=history.audits,
        controls=search.documents,
        seconds=timer() - started,
    )
    grade = grade_of(plan, witnessed=begin.witness is not None, examined=True)
    examined = ExaminedAudit(result, grade, statement)
    _finish(examined, handed_back.envelope, registry)
    return examined


def _refuse_unexaminable(settings: AuditSettings) -> None:
    if settings.stop_early or settings.controls or settings.tests not in (None, (EXACT,)):
        raise UsageError(
            "an examiner asks the suspect all candidates, and carries out the exact test alone",
            advice="leave --stop-early, --control and --tests out",
        )


def _waiting(plan_digest: str, registry: "Registry") -> tuple[AuditRecord, KeySetRecord]:
    """Return the audit that waits for what an examiner asked under this plan."""
    with registry.unit_of_work() as uow:
        audit = uow.audits.with_plan(plan_digest)
        if audit is None or audit.begin is None:
            raise EvidenceError(
                f"no audit with the plan {plan_digest} was begun in this registry",
                advice="attach it where `fpvec audit … --blind` was run",
            )
        if audit.ended_at is not None:
            raise EvidenceError(f"audit {audit.id} ended already with {audit.verdict}", advice="plan another one")
        if uow.audits.has_records(audit.id):
            raise EvidenceError(
                f"audit {audit.id} was not left to the examiner: it was asked here as well",
                advice="plan another one with `fpvec audit … --blind`",
            )
        return audit, uow.key_sets.get(audit.key_set)


def _check(
    statement: ExaminerStatement,
    plan: AuditPlan,
    begin: Begin,
    records: Sequence[Record],
    key_set: KeySet,
    owner: PublicKey | None,
) -> None:
    """Check that an examiner asked what was planned, all of it, in order and in the same words.

    Raises:
        EvidenceError: it did not, or signed something else.
    """
    start = genesis(plan.digest, begin.nonce)
    if (misfit := first_misfit(records, start=start)) is not None:
        raise EvidenceError(f"record {misfit} does not continue the chain that begins with plan and nonce")
    kinds = [record.content["kind"] for record in records]
    if kinds != [ANSWER] * (len(kinds) - 1) + [END] or records[-1].content["reason"] != COMPLETE:
        raise EvidenceError("the transcript is not answers and one end that calls it complete")
    given = answers(records)
    asked = sorted((answer.position, (answer.index, answer.repeat)) for answer in given)
    if asked != list(enumerate(questions(plan, begin))):
        raise EvidenceError(
            f"{len(given)} questions were put, which are not the {len(plan.population) * plan.repeats} of the plan in "
            "the order that chance gave"
        )
    if any(answer.error and answer.text for answer in given):
        raise EvidenceError("a question has both an answer and an error")
    prompts = {candidate.index: candidate.prompt for candidate in key_set.candidates}
    responses = {candidate.index: candidate.response for candidate in key_set.candidates}
    check_rendering(plan, given, OpenedKeySet(prompts, responses, key_set.marks))
    check_examiner(
        statement,
        plan=plan,
        transcript=head(records, start=start),
        records=len(records),
        matches=match_vector_digest(plan, records, responses),
        owner="" if owner is None else owner.hex,
    )


def _settings(plan: AuditPlan) -> AuditSettings:
    """Return how a positive control is asked: as the suspect was."""
    return AuditSettings(
        profile=plan.profile,
        match=plan.match,
        system_prompt=plan.system_prompt,
        alpha=plan.alpha,
        repeats=plan.repeats,
        temperature=plan.temperature,
        top_p=plan.top_p,
        tests=(EXACT,),
    )


def _judge(scored: Score, plan: AuditPlan, record: KeySetRecord, bench: Bench) -> tuple[Verdict, ControlSearch]:
    """Return the verdict; a positive control is looked for only where it decides."""

    def verdict(*, controlled: bool) -> Verdict:
        return decide(
            scored,
            alpha=Fraction(plan.alpha),
            committed_profile=plan.committed_profile,
            positive_control=controlled,
            comparisons=plan.comparisons,
        )

    without = verdict(controlled=False)
    if without is not Verdict.INCONCLUSIVE or verdict(controlled=True) is not Verdict.NO_MATCH:
        return without, ControlSearch(())
    if plan.suspect["kind"] == "endpoint":
        asked = (scored.issued + scored.decoys) * plan.repeats
        answered = scored.silent <= LARGEST_SILENT_SHARE * asked
        sentence = f"{scored.silent} of {asked} questions drew nothing from the endpoint: its silence proves nothing"
        return verdict(controlled=answered), ControlSearch((), () if answered else (sentence,))
    search = find_positive_control(
        plan,
        key_set=record,
        registry=bench.registry,
        run=lambda path: examine_control(path, record, bench, plan),
    )
    return verdict(controlled=bool(search.documents)), search


def _warnings(
    record: KeySetRecord, key_set: KeySet, plan: AuditPlan, scored: Score, history: History
) -> tuple[str, ...]:
    return (
        *key_warnings(record, key_set, None, plan.alpha),
        *disclosure_warnings(history, plan),
        *result_warnings(plan, scored),
    )


def _finish(examined: ExaminedAudit, envelope: Mapping[str, Any], registry: "Registry") -> None:
    """Record transcript, result and the examiner's statement in one transaction."""
    result = examined.result
    with registry.unit_of_work() as uow:
        uow.audits.append(result.audit_id, result.records)
        uow.audits.finish(
            result.audit_id,
            verdict=result.verdict.value,
            result=examined.to_json(),
            transcript=result.records[-1].digest,
            records=len(result.records),
        )
        uow.ledger.append(
            EXAMINED_EVENT,
            result.audit_id,
            {
                "examiner": examined.statement.examiner,
                "statement": envelope_digest(envelope),
                "envelope": dict(envelope),
            },
        )
