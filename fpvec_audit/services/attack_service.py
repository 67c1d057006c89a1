"""A model as a stranger meets it: served through the query attacks of a chain, and asked.

What a plugin raises while it answers is told as that plugin's fault. Guessing attacks see the issued keys, so that
none of them is asked as a guess; attacks on serving see questions alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import (
    AttackContext,
    AttackKey,
    BackendDescription,
    Completion,
    InferenceBackend,
    Likelihood,
    LikelihoodBackend,
    Probe,
    QueryAttack,
    Sampling,
)
from fpvec_audit.domain.robustness import AttackOutcome, grouped, triggers
from fpvec_audit.domain.serving import served
from fpvec_audit.domain.statistics import clopper_pearson
from fpvec_audit.errors import BackendError, PluginError
from fpvec_audit.plugin_code import plugin_code
from fpvec_audit.progress import Progress
from fpvec_audit.services.collecting import PROMPTS_AT_ONCE
from fpvec_audit.services.serving import beginning_of_text, portions, probe_questions
from fpvec_audit.services.subjects import Subject

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog


def attacked_service(
    engine: InferenceBackend, links: Sequence[AttackLink], catalog: "Catalog", contexts: Sequence[AttackContext]
) -> tuple[InferenceBackend, bool]:
    """Return what answers after attacks on serving, and whether it is anything else than the engine.

    Args:
        engine: what answers without them.
        links: the attacks, in the order in which they are put around it.
        catalog: plugins.
        contexts: what each of them gets from its host.

    Raises:
        PluginError: an attack failed.
    """
    service = engine
    for link, context in zip(links, contexts, strict=True):
        with plugin_code(catalog.info(ATTACK, link.name)):
            service = served(_query_attack(link, catalog), service, link.parameters, context)
    if service is engine:
        return engine, False
    guard = _TellingService if isinstance(service, LikelihoodBackend) else _Service
    return guard(service, links[-1], catalog), True


def guesses(
    links: Sequence[AttackLink], keys: KeySet, catalog: "Catalog", contexts: Sequence[AttackContext]
) -> list[Probe]:
    """Return what the attacks of a chain would guess; nothing where they only change serving.

    Args:
        links: the attacks.
        keys: the key set; the attacks see its issued keys.
        catalog: plugins.
        contexts: what each of them gets from its host.

    Raises:
        PluginError: an attack failed, or gave something else than probes.
    """
    issued = tuple(AttackKey(key.prompt, key.response) for key in keys.issued)
    found: list[Probe] = []
    for link, context in zip(links, contexts, strict=True):
        with plugin_code(catalog.info(ATTACK, link.name)):
            given: list[Any] = list(_query_attack(link, catalog).probes(issued, link.parameters, context))
        if not all(isinstance(probe, Probe) for probe in given):
            raise PluginError(f"attack {link.name} gave probes that are no Probe", advice="see docs/plugins.md")
        found += given
    return found


def ask_guesses(
    probes: Sequence[Probe],
    service: InferenceBackend,
    *,
    engine: InferenceBackend,
    subject: Subject,
    new_tokens: int,
    seed: int,
    keys: KeySet,
    progress: Progress,
) -> AttackOutcome:
    """Ask guesses and count those that draw any issued response; the rate is that of a stranger's guesses.

    Args:
        probes: what to ask, at least one.
        service: what answers.
        engine: what answers the guesses that go past attacks on serving.
        subject: the model, for its template and tokenizer.
        new_tokens: most tokens of an answer.
        seed: of answers that are drawn at a temperature.
        keys: the key set whose responses count.
        progress: where to report.

    Raises:
        BackendError: the engine failed.
    """
    issued = [key.response for key in keys.issued]
    questions = probe_questions(
        probes,
        render=subject.rendering.render,
        beginning=beginning_of_text(subject.tokenizer),
        sampling=Sampling(max_new_tokens=new_tokens),
        seed=seed,
    )
    answers: list[str] = []
    with progress.step("guess", len(questions), "prompts") as step:
        for asked, sampling, raw in portions(questions, PROMPTS_AT_ONCE):
            completions = (engine if raw else service).complete(asked, sampling)
            answers += ["" if completion.error else completion.text for completion in completions]
            step.advance(len(asked))
    hits = [
        (probe.kind, triggers(probe.forced + answer, issued)) for probe, answer in zip(probes, answers, strict=True)
    ]
    guessed = [hit for probe, (_, hit) in zip(probes, hits, strict=True) if not probe.needs_key]
    counted = guessed or [hit for _, hit in hits]
    return AttackOutcome(
        fsr_after=sum(counted) / len(counted),
        interval=clopper_pearson(sum(counted), len(counted)),
        groups=grouped(hits),
        queries=len(hits),
    )


class _Service:
    """An attacked service, whose faults name the attack."""

    def __init__(self, service: InferenceBackend, link: AttackLink, catalog: "Catalog") -> None:
        self._service = service
        self._link = link
        self._info = catalog.info(ATTACK, link.name)

    @property
    def description(self) -> BackendDescription:
        with plugin_code(self._info):
            return self._service.description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        with plugin_code(self._info):
            completions = self._service.complete(prompts, sampling)
        if len(completions) != len(prompts):
            raise BackendError(f"attack {self._link.name}: {len(completions)} answers came to {len(prompts)} prompts")
        return completions

    def close(self) -> None:
        """Leave the engine to whoever opened it."""


class _TellingService(_Service):
    """The same of a service that tells probabilities."""

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        if not isinstance(self._service, LikelihoodBackend):
            raise BackendError(f"attack {self._link.name}: the service tells no probabilities")
        with plugin_code(self._info):
            return self._service.log_likelihoods(prompts, responses)


def _query_attack(link: AttackLink, catalog: "Catalog") -> QueryAttack:
    attack = catalog.attack(link.name)
    assert isinstance(attack, QueryAttack), f"{link.name} attacks weights"
    return attack
