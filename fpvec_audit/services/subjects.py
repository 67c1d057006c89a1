"""A suspect that is found, described and open, and the key sets that it is to be asked for.

Guarded here: a system prompt of the auditor's choice tells the suspect nothing about candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.ports import InferenceBackend
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.errors import BackendError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.collecting import FIRST_TOKENS
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.rendering import Rendering, choose_rendering, endpoint_rendering, published_system_prompts
from fpvec_audit.services.suspects import Suspect, describe_endpoint, describe_suspect, is_endpoint

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

LEAST_NEW_TOKENS = 12
SPARE_TOKENS = 4
"""Tokens beyond the longest response, so that an answer that goes on is seen to go on."""
CHARACTERS_A_TOKEN = 2
"""Fewest characters of a response that a token holds, where the suspect's tokenizer is not at hand."""
TOLD_CHARACTERS = 4
"""A system prompt that shares so long a piece with any candidate's prompt tells keys."""
TOLD_RESPONSES = 3
"""A system prompt with so many of the candidates' responses in it tells keys."""


@dataclass(frozen=True, slots=True)
class Bench:
    """All that the examinations of a suspect and of its controls share.

    Attributes:
        settings: how a suspect is asked.
        registry: where key sets, plans and results are.
        catalog: plugins.
        engines: what opens engines for checkpoints.
        bases: base models, asked once for all.
        progress: where to report.
        entropy: gives random bytes.
        timer: gives seconds from any beginning.
        device: torch device of the gradient test.
        trace: id of the trace that this is part of.
        witness: signed statement of a witness over the plan, None without one.
        resume: whether to go on with an interrupted audit of the same plan.
        witnessed: whether a witness signs the plan before the first question.
        fetched: suspects that lie elsewhere, as they were given → where their copies are.
    """

    settings: AuditSettings
    registry: "Registry"
    catalog: "Catalog"
    engines: EngineSource
    bases: BaseModels
    progress: Progress
    entropy: Callable[[int], bytes]
    timer: Callable[[], float]
    device: str = "cpu"
    trace: str = ""
    witness: Mapping[str, Any] | None = None
    resume: bool = False
    witnessed: bool = False
    fetched: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """A suspect that is open.

    Attributes:
        suspect: what it is.
        backend: what answers.
        rendering: how questions are put.
        tokenizer: of a checkpoint; None for an endpoint.
    """

    suspect: Suspect
    backend: InferenceBackend
    rendering: Rendering
    tokenizer: Any


def open_subject(suspect: str, bench: Bench) -> Subject:
    """Find a suspect, settle how it is asked, and start what answers.

    Raises:
        UsageError: a setting that this suspect cannot have.
        CheckpointError: a checkpoint that cannot be read.
        BackendError: the engine cannot load it, or the endpoint does not answer.
    """
    settings = bench.settings
    if is_endpoint(suspect):
        adapter = bench.catalog.architecture(settings.architecture) if settings.architecture else None
        backend = _open_endpoint(suspect, bench)
        try:
            told = backend.description.settings
            rendering = endpoint_rendering(
                told["endpoint"], adapter=adapter, profile=settings.profile, system_prompt=settings.system_prompt
            )
            return Subject(describe_endpoint(told["url"], told["model"], adapter=adapter), backend, rendering, None)
        except BaseException:
            backend.close()
            raise
    from fpvec_audit.backends.prompts import load_tokenizer

    described = describe_suspect(
        suspect,
        catalog=bench.catalog,
        architecture=settings.architecture,
        directory=bench.fetched.get(suspect),
        progress=bench.progress,
    )
    assert described.directory is not None
    tokenizer = load_tokenizer(described.directory)
    rendering = choose_rendering(
        tokenizer, adapter=described.adapter, profile=settings.profile, system_prompt=settings.system_prompt
    )
    with bench.progress.step(f"load {described.shown}"):
        backend = bench.engines.open(described.directory)
    return Subject(described, backend, rendering, tokenizer)


def open_key_sets(
    records: Sequence[KeySetRecord], bench: Bench, *, purpose: str, progress: Progress = NO_PROGRESS
) -> list[KeySet]:
    """Return the key sets with their candidates, after a look at whether the system prompt tells any of them.

    Raises:
        KeySetError: a secret does not belong to its commitment.
        UsageError: the system prompt tells keys.
    """
    opened = []
    with progress.step("open key sets", len(records), "sets") as step:
        for record in records:
            opened.append(open_key_set(record.id, registry=bench.registry, purpose=purpose))
            refuse_telling(bench.settings.system_prompt, opened[-1])
            step.advance()
    return opened


def refuse_telling(system_prompt: str, key_set: KeySet) -> None:
    """Refuse a system prompt that tells the suspect anything about candidates.

    Raises:
        UsageError: it shares a piece of text with a candidate's prompt, or holds several of the responses.
    """
    if not system_prompt or system_prompt in published_system_prompts():
        return
    pieces = {system_prompt[at : at + TOLD_CHARACTERS] for at in range(len(system_prompt) - TOLD_CHARACTERS + 1)}
    shared = sum(
        any(candidate.prompt[at : at + TOLD_CHARACTERS] in pieces for at in range(len(candidate.prompt)))
        for candidate in key_set.candidates
        if len(candidate.prompt) >= TOLD_CHARACTERS
    )
    responses = sum(response in system_prompt for response in {item.response for item in key_set.candidates})
    if shared or responses >= TOLD_RESPONSES:
        raise UsageError(
            f"the system prompt shares text with {shared} candidates' prompts and holds {responses} of their "
            "responses: it would tell the suspect what it is asked for",
            advice="use the suspect's own system prompt, or none",
        )


def answer_length(key_sets: Sequence[KeySet], tokenizer: Any) -> int:
    """Return how many tokens an answer may have: the longest response of all candidates, and some more."""
    responses = list(dict.fromkeys(candidate.response for item in key_sets for candidate in item.candidates))
    if tokenizer is None:
        longest = -(-max(map(len, responses)) // CHARACTERS_A_TOKEN)
    else:
        encoded = tokenizer([f" {response}" for response in responses], add_special_tokens=False)["input_ids"]
        longest = max(map(len, encoded))
    return max(LEAST_NEW_TOKENS, longest + SPARE_TOKENS)


def _open_endpoint(url: str, bench: Bench) -> InferenceBackend:
    wanted = bench.settings.endpoint.endpoint
    with bench.progress.step(f"connect to {url}"):
        if wanted is not None:
            return _connect(url, wanted, bench)
        try:
            return _connect(url, "chat", bench)
        except BackendError as error:
            try:
                return _connect(url, "completions", bench)
            except BackendError:
                raise error from None


def _connect(url: str, endpoint: str, bench: Bench) -> InferenceBackend:
    from fpvec_audit.backends.api import ApiBackend

    settings = bench.settings.endpoint
    backend = ApiBackend(
        url,
        model=settings.model,
        endpoint=endpoint,
        system_prompt=bench.settings.system_prompt if endpoint == "chat" else "",
        api_key=settings.api_key,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_requests=settings.max_requests,
        ca_file=settings.ca_file,
    )
    try:
        backend.tells_first_tokens(FIRST_TOKENS)  # so that the plan can say what this endpoint tells
    except BaseException:
        backend.close()
        raise
    return backend
