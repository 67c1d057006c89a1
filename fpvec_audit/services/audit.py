"""Use case: ask a suspect all candidates of a key set, and say whether its answers know which ones are issued.

The order of things is the proof. The key set was committed and assigned before; the plan – everything that could
change the result – is recorded in the ledger before the first question; :func:`collect` asks without knowing the
assignment, so neither questions nor their order can depend on it; only the scoring of the finished transcript sees it.
A local suspect burns nothing: the questions stay on this machine.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit import __version__
from fpvec_audit.backends import Engines, EngineSource
from fpvec_audit.domain.audit import (
    DEFAULT_ALPHA,
    Answer,
    AuditPlan,
    MatchRule,
    Score,
    Verdict,
    decide,
    score,
)
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.ports import BackendDescription, InferenceBackend, Sampling
from fpvec_audit.domain.records import AuditRecord, KeySetRecord
from fpvec_audit.errors import BackendError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit_result import AuditResult
from fpvec_audit.services.audit_warnings import engine_warnings, key_warnings, result_warnings
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.positive_controls import ControlSearch, find_positive_control
from fpvec_audit.services.rendering import EXPLORATORY, Rendering, choose_rendering
from fpvec_audit.services.suspects import Suspect, describe_suspect, short_path

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

PROMPTS_AT_ONCE = 64
LEAST_NEW_TOKENS = 12
SPARE_TOKENS = 4
"""Tokens beyond the longest response, so that an answer that goes on is seen to go on."""
TRANSCRIPT = "transcript"
"""Kind under which the vault keeps what was asked and answered."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """How a suspect is asked.

    Attributes:
        profile: ``raw-greedy``, ``chat-greedy``, ``exploratory``, or None for the suspect's default.
        match: when an answer counts.
        system_prompt: text put before every question, empty for none.
        alpha: significance level as decimal text.
        repeats: how often every candidate is asked.
        temperature: as decimal text; anything but "0" is exploratory.
        architecture: adapter to use instead of the detected one.
        controls: own models to run as positive controls, instead of those in the registry.
    """

    profile: str | None = None
    match: MatchRule = MatchRule.PREFIX
    system_prompt: str = ""
    alpha: str = DEFAULT_ALPHA
    repeats: int = 1
    temperature: str = "0"
    architecture: str | None = None
    controls: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Examination:
    """All that the audits of a suspect and of its controls share."""

    settings: AuditSettings
    record: KeySetRecord
    registry: "Registry"
    catalog: "Catalog"
    engines: EngineSource
    progress: Progress
    entropy: Callable[[int], bytes]
    timer: Callable[[], float]


def audit(
    suspect: str | Path,
    *,
    key_set: str,
    registry: "Registry",
    catalog: "Catalog",
    backend: str | EngineSource = "auto",
    profile: str | None = None,
    match: str | None = None,
    system_prompt: str = "",
    alpha: str = DEFAULT_ALPHA,
    repeats: int = 1,
    temperature: str = "0",
    architecture: str | None = None,
    controls: Sequence[Path] = (),
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    timer: Callable[[], float] = time.monotonic,
) -> AuditResult:
    """Audit one suspect.

    Args:
        suspect: checkpoint directory, or the id of a repository on the hub.
        key_set: name or id of the key set to ask for.
        registry: where key set, plan and result are recorded.
        catalog: plugins.
        backend: ``auto``, ``vllm`` or ``transformers``; or a source of engines, to be shared between
            audits, or to change what they are asked and answer.
        profile: ``raw-greedy``, ``chat-greedy`` or ``exploratory``; None for ``chat-greedy`` where the suspect has a
            chat template or a known architecture, else ``raw-greedy``.
        match: ``exact`` or ``prefix`` (default): an answer that begins with the response counts.
        system_prompt: text put before every question; one that is not published makes the audit exploratory.
        alpha: significance level of a MATCH, as decimal text.
        repeats: how often every candidate is asked.
        temperature: as decimal text; anything but "0" makes the audit exploratory.
        architecture: adapter to use instead of the detected one.
        controls: own models to run as positive controls, instead of those in the registry.
        device: torch device of the engine.
        progress: where to report.
        entropy: gives the random bytes of the nonce.
        timer: gives seconds from any beginning.

    Raises:
        UnknownNameError: no such key set, backend or adapter.
        UsageError: a setting that cannot be meant.
        CheckpointError: the suspect cannot be read.
        BackendError: the engine cannot load the suspect, or failed.
        KeySetError: the key set's secret does not belong to its commitment.
        RegistryError: the registry cannot be read or written.
    """
    settings = AuditSettings(
        profile=profile,
        match=_match_rule(match),
        system_prompt=system_prompt,
        alpha=_checked_alpha(alpha),
        repeats=repeats,
        temperature=_checked_temperature(temperature),
        architecture=architecture,
        controls=tuple(controls),
    )
    if repeats < 1:
        raise UsageError(f"{repeats} repeats", advice="ask at least once")
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(key_set)
    with ExitStack() as stack:
        engines = stack.enter_context(Engines(backend, device=device)) if isinstance(backend, str) else backend
        engines.warm_up()
        examination = _Examination(settings, record, registry, catalog, engines, progress, entropy, timer)
        with recorded_job(registry, "audit", {"suspect": ascii(str(suspect))[1:-1], "key_set": record.id}):
            return _examine(suspect, examination, control=False)


def collect(
    plan: AuditPlan, prompts: Sequence[str], backend: InferenceBackend, *, progress: Progress = NO_PROGRESS
) -> tuple[Answer, ...]:
    """Ask all candidates in the plan's order, blind: nothing here knows responses or assignment.

    Args:
        plan: the committed plan.
        prompts: rendered prompts of all candidates in index order.
        backend: the suspect.
        progress: where to report.

    Raises:
        BackendError: the engine failed, or answered another number of prompts than it was asked.
    """
    temperature = float(plan.temperature)
    answers: list[Answer] = []
    label = f"ask {short_path(Path(plan.suspect['location']))}"
    with progress.step(label, len(prompts) * plan.repeats, "prompts") as step:
        for repeat in range(plan.repeats):
            seed = None if temperature == 0 else int(plan.nonce[:8], 16) + repeat * plan.candidates
            sampling = Sampling(max_new_tokens=plan.max_new_tokens, temperature=temperature, seed=seed)
            for start in range(0, plan.candidates, PROMPTS_AT_ONCE):
                indices = plan.order[start : start + PROMPTS_AT_ONCE]
                asked = [prompts[index] for index in indices]
                shifted = sampling if seed is None else replace(sampling, seed=seed + start)
                completions = backend.complete(asked, shifted)
                if len(completions) != len(asked):
                    raise BackendError(
                        f"{backend.description.engine} answered {len(completions)} of {len(asked)} prompts",
                        advice="audit again; if it stays, use another --backend",
                    )
                for index, prompt, completion in zip(indices, asked, completions, strict=True):
                    error = completion.error or ("error" if completion.finish_reason == "error" else "")
                    answers.append(Answer(index, prompt, "" if error else completion.text, error))
                step.advance(len(asked))
    return tuple(answers)


def _examine(suspect: str | Path, examination: _Examination, *, control: bool) -> AuditResult:
    from fpvec_audit.backends.prompts import load_tokenizer

    started = examination.timer()
    settings, registry = examination.settings, examination.registry
    described = describe_suspect(
        suspect, catalog=examination.catalog, architecture=settings.architecture, progress=examination.progress
    )
    tokenizer = load_tokenizer(described.directory)
    rendering = choose_rendering(
        tokenizer, adapter=described.adapter, profile=settings.profile, system_prompt=settings.system_prompt
    )
    key_set = open_key_set(examination.record.id, registry=registry, purpose=f"audit of {described.digest}")
    prompts = [rendering.render(candidate.prompt) for candidate in key_set.candidates]
    backend = _open(described, examination)
    try:
        plan = _plan(described, rendering, backend.description, _answer_length(key_set, tokenizer), examination)
        identifier = f"au-{plan.digest[:16]}"
        _commit(identifier, plan, described, registry)
        answers = collect(plan, prompts, backend, progress=examination.progress)
    finally:
        backend.close()
    scored = score(
        plan,
        answers,
        responses=[candidate.response for candidate in key_set.candidates],
        issued=frozenset(key_set.issued_indices),
    )
    verdict, controls = _judge(plan, scored, examination, control=control)
    warnings = (
        *described.warnings,
        *rendering.warnings,
        *engine_warnings(examination.engines, backend.description),
        *key_warnings(examination.record, key_set, tokenizer, settings.alpha),
        *result_warnings(plan, scored),
        *controls.warnings,
    )
    result = AuditResult(
        audit_id=identifier,
        verdict=verdict,
        plan=plan,
        score=scored,
        answers=answers,
        backend=backend.description,
        key_set_name=examination.record.name,
        warnings=warnings,
        controls=controls.documents,
        seconds=examination.timer() - started,
        **_history(identifier, described, examination),
    )
    with registry.unit_of_work() as uow:
        uow.audits.finish(identifier, verdict=verdict.value, result=result.to_json())
        uow.vault.seal(TRANSCRIPT, identifier, canonical_bytes(result.transcript()))
    return result


def _open(suspect: Suspect, examination: _Examination) -> InferenceBackend:
    with examination.progress.step(f"load {short_path(suspect.directory)}"):
        return examination.engines.open(suspect.directory)


def _plan(
    suspect: Suspect, rendering: Rendering, engine: BackendDescription, new_tokens: int, examination: _Examination
) -> AuditPlan:
    settings, record = examination.settings, examination.record
    return AuditPlan(
        key_set=record.id,
        commitment_digest=record.commitment.digest,
        root=record.commitment.root,
        grade=record.grade,
        candidates=record.commitment.candidates,
        issued=record.commitment.issued,
        suspect=suspect.to_json(),
        profile=rendering.profile if settings.temperature == "0" else EXPLORATORY,
        match=settings.match,
        system_prompt_digest=rendering.system_prompt_digest,
        template=rendering.template,
        max_new_tokens=new_tokens,
        temperature=settings.temperature,
        repeats=settings.repeats,
        alpha=settings.alpha,
        tests=("exact",),
        backend={"kind": engine.kind, "engine": engine.engine, "version": engine.version, **engine.settings},
        plugins=dict(examination.catalog.versions()),
        tool_version=__version__,
        nonce=examination.entropy(32).hex(),
        profiles=record.commitment.profiles,
    )


def _commit(identifier: str, plan: AuditPlan, suspect: Suspect, registry: "Registry") -> None:
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


def _judge(
    plan: AuditPlan, scored: Score, examination: _Examination, *, control: bool
) -> tuple[Verdict, ControlSearch]:
    """Return the verdict; a control is looked for only where it decides."""
    alpha, committed = Fraction(plan.alpha), plan.committed_profile

    def verdict(*, controlled: bool) -> Verdict:
        return decide(scored, alpha=alpha, committed_profile=committed, positive_control=controlled)

    without = verdict(controlled=False)
    if control or without is not Verdict.INCONCLUSIVE or verdict(controlled=True) is not Verdict.NO_MATCH:
        return without, ControlSearch(())
    search = find_positive_control(
        plan,
        key_set=examination.record,
        registry=examination.registry,
        run=lambda path: _examine(path, _for_control(plan, examination), control=True),
        given=examination.settings.controls,
    )
    return verdict(controlled=bool(search.documents)), search


def _for_control(plan: AuditPlan, examination: _Examination) -> _Examination:
    """Return the same examination under the profile and the engine that were settled for the suspect."""
    settings = replace(examination.settings, profile=plan.profile, architecture=None, controls=())
    engines = examination.engines
    if isinstance(engines, Engines) and plan.backend["kind"] == "transformers":
        engines = engines.of_kind("transformers")
    return replace(examination, settings=settings, engines=engines)


def _history(identifier: str, suspect: Suspect, examination: _Examination) -> dict[str, Any]:
    with examination.registry.unit_of_work() as uow:
        audits = [audit for audit in uow.audits.list() if audit.id != identifier]
        burnt = len(uow.key_sets.burnt(examination.record.id))
    earlier = tuple(
        {
            "audit_id": audit.id,
            "at": audit.created_at.isoformat(),
            "verdict": audit.verdict or "unfinished",
            "profile": f"{audit.plan.get('profile', '')}/{audit.plan.get('match', '')}",
            "engine": str(audit.plan.get("backend", {}).get("engine", "")),
        }
        for audit in audits
        if audit.key_set == examination.record.id and audit.suspect_digest == suspect.digest
    )
    suspects = {audit.suspect_digest or audit.suspect for audit in audits} | {suspect.digest}
    return {"earlier_audits": earlier, "campaign_suspects": len(suspects), "burnt": burnt}


def _answer_length(key_set: KeySet, tokenizer: Any) -> int:
    """Return how many tokens an answer may have: the longest response of all candidates, and some more."""
    responses = [f" {candidate.response}" for candidate in key_set.candidates]
    lengths = [len(ids) for ids in tokenizer(responses, add_special_tokens=False)["input_ids"]]
    return max(LEAST_NEW_TOKENS, max(lengths) + SPARE_TOKENS)


def _match_rule(match: str | None) -> MatchRule:
    if match is None:
        return MatchRule.PREFIX
    if match not in tuple(MatchRule):
        raise UsageError(f"unknown match rule {match!r}", advice="choose exact or prefix")
    return MatchRule(match)


def _checked_alpha(text: str) -> str:
    if not 0 < _number("alpha", text) < 1:
        raise UsageError(f"alpha {text} is no significance level", advice="choose a number between 0 and 1, as 1e-6")
    return text


def _checked_temperature(text: str) -> str:
    value = _number("temperature", text)
    if value < 0:
        raise UsageError(f"temperature {text} is negative", advice="0 is greedy")
    return text if value else "0"


def _number(name: str, text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{name} {text!r} is no number", advice="write it as 1e-6 or 0.05") from error
