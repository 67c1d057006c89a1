"""Plans of audits: made before the first question, recorded in the ledger, then left to chance.

Everything that could change a result is settled here, the tests included; what no plan may choose – the order of the
questions, the seeds – follows from a nonce that comes after the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit import __version__
from fpvec_audit.backends import Engines, EngineSource
from fpvec_audit.domain.audit_plan import (
    EXACT,
    FIRST_TOKEN,
    GRADIENT,
    LIKELIHOOD,
    RESPONSE,
    RESPONSE_MINUS_BASE,
    SEQUENTIAL,
    VOCABULARY_GRADIENT,
    AuditPlan,
    Begin,
)
from fpvec_audit.domain.family_terms import FamilyTerms
from fpvec_audit.domain.keys import SELF_ATTESTED, KeySet
from fpvec_audit.domain.ports import LikelihoodBackend
from fpvec_audit.domain.records import AuditRecord, KeySetRecord
from fpvec_audit.errors import FpvecError, KeySetError, UsageError
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.keys import matches_needed
from fpvec_audit.services.likelihoods import BaseModel
from fpvec_audit.services.rendering import EXPLORATORY
from fpvec_audit.services.subjects import Bench, Subject
from fpvec_audit.services.suspects import Suspect

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

GRADIENT_CLIP = "3"
"""Standard deviations at which the suspect's differences are cut, tensor by tensor."""
PASS_OVERHEAD = 1_200_000
"""What a backward pass takes beside its parameters, in parameters: 9 ms, where a million parameters take 8."""
MOST_GRADIENT_WORK = 256 * (20_000_000 + PASS_OVERHEAD)
"""Candidates times the cost of a pass up to which gradient tests are registered without being asked for, some 40 s of a
processor: of 256 candidates, a base of 20 million parameters."""
MOST_FAMILY_WORK = 1_280_000_000
"""The same for key sets of several marks, some 10 s. They have many candidates, likelihoods find the family as well,
and no mark is read by gradients."""


def planned(
    record: KeySetRecord,
    key_set: KeySet,
    subject: Subject,
    bench: Bench,
    *,
    new_tokens: int,
    comparisons: int = 1,
    controls: Sequence[Mapping[str, str]] = (),
    family: FamilyTerms | None = None,
) -> tuple[AuditPlan, BaseModel | None]:
    """Return the plan of asking a subject for a key set, and the base that its tests need.

    Args:
        record: the key set.
        key_set: its candidates and assignment.
        subject: who is asked.
        bench: settings, registry and catalog.
        new_tokens: how long answers may be.
        comparisons: key sets tested together.
        controls: models on which the same plan is carried out.
        family: by what terms licensees may be named.

    Raises:
        KeySetError: too few candidates are left to reach the significance level.
        UsageError: a test was asked for that cannot be had here.
    """
    settings, commitment = bench.settings, record.commitment
    base = None if settings.stop_early else bench.bases.of(record, progress=bench.progress)
    likelihood = likelihood_statistic(subject, base)
    population = _population(record, key_set, bench)
    tests = _registered(
        settings, subject, base, likelihood, comparisons=comparisons, candidates=len(population), marks=commitment.marks
    )
    description = subject.backend.description
    plan = AuditPlan(
        audit=bench.entropy(8).hex(),
        key_set=record.id,
        commitment_digest=commitment.digest,
        root=commitment.root,
        set_grade=_entitled_grade(record, bench),
        candidates=commitment.candidates,
        issued=commitment.issued,
        population=population,
        suspect=subject.suspect.to_json(),
        profile=subject.rendering.profile if settings.temperature == "0" else EXPLORATORY,
        match=settings.match,
        system_prompt=settings.system_prompt,
        system_prompt_digest=subject.rendering.system_prompt_digest,
        template=subject.rendering.template,
        max_new_tokens=new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repeats=settings.repeats,
        alpha=settings.alpha,
        tests=tests,
        likelihood=likelihood if LIKELIHOOD in tests else None,
        gradient=None if GRADIENT not in tests or base is None else {"base": base.digest, "clip": GRADIENT_CLIP},
        comparisons=comparisons,
        trace=bench.trace,
        controls=tuple(controls),
        backend={
            "kind": description.kind,
            "engine": description.engine,
            "version": description.version,
            **description.settings,
        },
        plugins=dict(bench.catalog.versions()),
        tool_version=__version__,
        profiles=commitment.profiles,
        family=family,
    )
    return plan, base


def likelihood_statistic(subject: Subject, base: BaseModel | None) -> Mapping[str, str] | None:
    """Return what a likelihood test of this subject compares, None where it tells no probabilities."""
    if isinstance(subject.backend, LikelihoodBackend):
        if base is None:
            return {"statistic": RESPONSE, "base": ""}
        return {"statistic": RESPONSE_MINUS_BASE, "base": base.digest}
    told = subject.backend.description.settings.get("first_tokens", "no") != "no"
    return {"statistic": FIRST_TOKEN, "base": ""} if told else None


def commit(plan: AuditPlan, suspect: Suspect, registry: "Registry") -> str:
    """Record a plan in the ledger, before the first question; return the audit's id."""
    identifier = f"au-{plan.digest[:16]}"
    record = AuditRecord(
        id=identifier,
        key_set=plan.key_set,
        suspect=suspect.location,
        suspect_digest=suspect.digest,
        plan_digest=plan.digest,
        plan=plan.to_json(),
        verdict="",
        result={},
        created_at=registry.clock(),
        ended_at=None,
    )
    with registry.unit_of_work() as uow:
        uow.audits.plan(record)
    return identifier


def begun(identifier: str, plan: AuditPlan, bench: Bench) -> Begin:
    """Let chance decide what the plan left open, and record it; an audit that began before goes on with what it had.

    Raises:
        EvidenceError: the witness's statement is not one over this plan.
        UsageError: the audit began without this witness.
    """
    with bench.registry.unit_of_work() as uow:
        known = uow.audits.get(identifier).begin
    if known is not None:
        if bench.witness is not None and known["witness"] != dict(bench.witness):
            raise UsageError(
                f"audit {identifier} began without this witness", advice="leave --witness out, or start another audit"
            )
        return Begin.from_json(known)
    if bench.witness is None:
        begin = Begin(bench.entropy(32).hex())
    else:
        from fpvec_audit.evidence.witness import verify_statement

        signed = verify_statement(bench.witness, subject="plan", digest=plan.digest)
        begin = Begin(signed.chance.hex(), bench.witness)
    with bench.registry.unit_of_work() as uow:
        uow.audits.begin(identifier, begin.to_json())
    return begin


def for_control(bench: Bench, plan: AuditPlan) -> Bench:
    """Return a bench for controls: the profile, tests and engine that were settled for the suspect."""
    settings = replace(
        bench.settings,
        profile=plan.profile,
        architecture=None,
        controls=(),
        fresh_only=False,
        stop_early=plan.sequential,
        tests=None if LIKELIHOOD in plan.tests or plan.sequential else (EXACT,),
        leave_out=(GRADIENT,),
    )
    engines = same_engine(bench.engines, plan.backend["kind"])
    return replace(bench, settings=settings, engines=engines, trace="", witness=None, resume=False, witnessed=False)


def _entitled_grade(record: KeySetRecord, bench: Bench) -> str:
    """Return the grade of a key set for an audit: where order decides what counts, witnesses must have given it.

    An owner knows the assignment when the nonce is drawn. With a test that may stop early, or candidates that are left
    out because earlier audits asked them first, nonces could be tried until one suits; unless they are a witness's.
    Several earlier audits leave a choice all the same, as only the owner says how many candidates each of them showed.
    """
    settings = bench.settings
    witnessed = bench.witnessed or not settings.stop_early
    if settings.fresh_only:
        with bench.registry.unit_of_work() as uow:
            wheres = {where for _, where in uow.candidates.burns(record.id).values()}
            begins = [audit.begin for audit in uow.audits.some(wheres).values() if audit.key_set == record.id]
        witnessed = (
            witnessed
            and len(wheres) <= 1
            and all(begin is not None and begin["witness"] is not None for begin in begins)
        )
    return record.grade if witnessed else SELF_ATTESTED


def _population(record: KeySetRecord, key_set: KeySet, bench: Bench) -> tuple[int, ...]:
    everyone = range(record.commitment.candidates)
    if not bench.settings.fresh_only or bench.resume:
        return tuple(everyone)  # an interrupted audit goes on with the population it had
    with bench.registry.unit_of_work() as uow:
        burnt = uow.candidates.burnt(record.id)
    fresh = tuple(index for index in everyone if index not in burnt)
    issued = len(set(key_set.issued_indices).intersection(fresh))
    needed = None
    if 0 < issued < len(fresh):
        grade = _entitled_grade(record, bench)
        needed = matches_needed(issued, len(fresh) - issued, grade=grade, alpha=bench.settings.alpha)
    if needed is None:
        raise KeySetError(
            f"{len(burnt)} of the {record.commitment.candidates} candidates of {record.name!r} were shown before; the "
            f"{len(fresh)} that are left cannot reach a MATCH at {bench.settings.alpha}",
            advice="issue another key set, or leave --fresh-only out and weigh who saw the keys before",
        )
    return fresh


def _registered(
    settings: AuditSettings,
    subject: Subject,
    base: BaseModel | None,
    likelihood: Mapping[str, str] | None,
    *,
    comparisons: int,
    candidates: int,
    marks: int,
) -> tuple[str, ...]:
    if settings.stop_early:
        return (SEQUENTIAL,)
    drawn = settings.temperature != "0"
    gradients = not drawn and base is not None and subject.suspect.directory is not None
    if settings.tests is None:
        tests = [EXACT]
        tests += [LIKELIHOOD] if likelihood is not None and not drawn else []
        gradients = gradients and GRADIENT not in settings.leave_out
        suspect = subject.suspect.directory
        alone = gradients and comparisons == 1
        if not (alone and base and suspect):
            return tuple(tests)
        if gradients_are_short(base.directory, suspect, candidates=candidates, marks=marks):
            tests += [GRADIENT, VOCABULARY_GRADIENT]
        return tuple(tests)
    if LIKELIHOOD in settings.tests and likelihood is None:
        raise UsageError(
            f"{subject.suspect.location}: this engine tells no probabilities",
            advice="leave the likelihood test out of --tests",
        )
    if GRADIENT in settings.tests and not gradients:
        raise UsageError(
            f"{subject.suspect.location}: the gradient test needs the weights of the suspect and of the key set's base",
            advice="leave it out of --tests, or register the base again where it lies now",
        )
    return (*settings.tests, *((VOCABULARY_GRADIENT,) if GRADIENT in settings.tests else ()))


def gradients_are_short(base: Path, suspect: Path, *, candidates: int, marks: int = 1) -> bool:
    """Return whether the gradient test takes so little time that it is registered without being asked for.

    Args:
        base: checkpoint directory of the key set's base.
        suspect: checkpoint directory of the suspect; one of another shape has no gradients.
        candidates: how many are scored.
        marks: of the key set.
    """
    from fpvec_audit.training.candidate_gradients import gradient_cost

    try:
        cost = gradient_cost(base)
        most = MOST_GRADIENT_WORK if marks == 1 else MOST_FAMILY_WORK
        return candidates * (cost + PASS_OVERHEAD) <= most and gradient_cost(suspect) == cost
    except FpvecError:
        return False  # of another shape: the test does not apply


def same_engine(engines: EngineSource, kind: str) -> EngineSource:
    """Return engines of the kind that answered, so that a control is asked in the same way."""
    if isinstance(engines, Engines) and kind == "transformers":
        return engines.of_kind("transformers")
    return engines
