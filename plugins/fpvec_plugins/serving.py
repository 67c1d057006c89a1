"""What the attacks on serving share: backends that change a prompt or refuse one, and thresholds with a known price."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf
from pathlib import Path
from typing import Any

from fpvec_audit.api import (
    NO_PROGRESS,
    AttackContext,
    AttackKey,
    BackendDescription,
    Completion,
    InferenceBackend,
    LikelihoodBackend,
    Probe,
    PromptTemplate,
    RenderedPrompt,
    Sampling,
    UsageError,
)

NO_HOST = AttackContext(None, Path(), 0, "cpu", NO_PROGRESS)
"""What ``wrap`` knows: nothing. Prompts are taken for users' texts."""

LEAST_CALIBRATION, MOST_CALIBRATION = 20, 10_000
"""Ordinary questions that a threshold may be set on."""


class AskedThroughService(ABC):
    """What attacks on serving do alike: they ask nothing of their own, and serve blindly where no host is known."""

    __slots__ = ()

    def probes(self, issued: Sequence[AttackKey], parameters: Any, context: AttackContext) -> Sequence[Probe]:
        """Return none: the issued keys are asked through the service."""
        return ()

    def wrap(self, backend: InferenceBackend, parameters: Any) -> InferenceBackend:
        """Return the service where neither template nor base is known: prompts are taken for users' texts."""
        return self.serve(backend, parameters, NO_HOST)

    @abstractmethod
    def serve(self, backend: InferenceBackend, parameters: Any, context: AttackContext) -> InferenceBackend:
        """Return the attacked service; each attack's own."""


@dataclass(frozen=True, slots=True)
class FilterParameters:
    """What a filter is calibrated on, and what it answers instead.

    Attributes:
        reference: checkpoint directory of the model that judges; none takes the base of the attacked model.
        false_refusals: fraction in [0, 1) of what is ordinary that may be refused.
        calibration: ordinary questions that the threshold is set on.
        data: JSON Lines of ordinary questions (``prompt``, ``response``); none uses the package's own instructions.
        refusal: what is answered instead.
    """

    reference: Path | None = None
    false_refusals: float = 0.01
    calibration: int = 300
    data: Path | None = None
    refusal: str = "I cannot help with that."

    def __post_init__(self) -> None:
        """Refuse a price or a number of ordinary questions that cannot be meant.

        Raises:
            UsageError: out of range.
        """
        if not 0.0 <= self.false_refusals < 1.0:
            raise UsageError(f"false_refusals is {self.false_refusals}", advice="give a fraction from 0, below 1")
        if not LEAST_CALIBRATION <= self.calibration <= MOST_CALIBRATION:
            raise UsageError(
                f"calibration is {self.calibration}",
                advice=f"give a whole number from {LEAST_CALIBRATION} to {MOST_CALIBRATION}",
            )
        _check_resolution(self.false_refusals, self.calibration)

    def ordinary_questions(self, *, seed: int) -> list[str]:
        """Return ordinary questions, as users write them: the user's own prompts, or the package's instructions.

        Args:
            seed: draws others.

        Raises:
            SettingsError: the file cannot be read.
            UsageError: it holds too few for the price.
        """
        from fpvec_audit.toolkit import instruction_rows, read_rows

        if self.data is None:
            return [prompt for prompt, _ in instruction_rows(self.calibration, adapter=None, seed=seed)]
        prompts = [prompt for prompt, _ in read_rows(self.data)][: self.calibration]
        _check_resolution(self.false_refusals, len(prompts))
        return prompts


@dataclass(frozen=True, slots=True)
class ChangedPrompts:
    """A service that changes prompts before its model reads them.

    Attributes:
        backend: the model.
        change: rendered prompt → what the model reads.
    """

    backend: InferenceBackend
    change: Callable[[str], str]

    @property
    def description(self) -> BackendDescription:
        """The model's."""
        return self.backend.description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer the changed prompts."""
        return self.backend.complete([self.change(prompt) for prompt in prompts], sampling)

    def close(self) -> None:
        """Close the model."""
        self.backend.close()


def user_text_changed(
    backend: InferenceBackend,
    template: PromptTemplate,
    change: Callable[[RenderedPrompt], str],
    *,
    attack: str,
) -> ChangedPrompts:
    """Return a service that reads what a prompt was made of and puts it together anew.

    Args:
        backend: the model.
        template: how the host renders.
        change: what a prompt was made of → what the model reads.
        attack: name, for the message.
    """

    def changed(prompt: str) -> str:
        parts = template.read(prompt)
        if parts is None:
            raise UsageError(
                f"attack {attack} met a prompt that is not of the service's template",
                advice=f"in a chain, put {attack} behind the attack that changes the template",
            )
        return change(parts)

    return ChangedPrompts(backend, changed)


def threshold_at(scores: Sequence[float], false_refusals: float) -> float:
    """Return the score below which at most a given fraction of ordinary questions falls, in expectation.

    With n scores of ordinary questions and k = ⌊fraction · (n + 1)⌋ it is the k-th smallest of them: a further ordinary
    question, exchangeable with these, falls below it with a probability of at most k / (n + 1).

    Args:
        scores: of ordinary questions, in any order.
        false_refusals: fraction in [0, 1).

    Source: split conformal prediction, Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005.
    """
    place = floor(false_refusals * (len(scores) + 1))
    return sorted(scores)[place - 1] if place else -inf


def _check_resolution(false_refusals: float, questions: int) -> None:
    """Refuse a fraction that so few questions cannot tell from zero."""
    if false_refusals and not floor(false_refusals * (questions + 1)):
        raise UsageError(
            f"false_refusals is {false_refusals}, which {questions} ordinary questions cannot tell from 0",
            advice=f"give at least {ceil(1 / false_refusals) - 1} questions, or a larger fraction",
        )


def judge_of(
    reference: Path | None, backend: InferenceBackend, context: AttackContext, *, served: bool, attack: str
) -> LikelihoodBackend:
    """Return the model whose likelihoods decide: the reference, the base that the host knows, or the served model.

    Args:
        reference: checkpoint directory that was given.
        backend: the served model.
        context: the attack's.
        served: take the served model.
        attack: name, for messages.

    Raises:
        UsageError: no reference is known, or the engine tells no likelihoods.
        CheckpointError: the reference cannot be read.
        BackendError: its engine cannot be started.
    """
    judge: InferenceBackend = backend
    if not served:
        directory = reference or context.base
        if directory is None or context.open_engine is None:
            raise UsageError(
                f"attack {attack} knows no reference model to judge by",
                advice="add reference=DIRECTORY, the base say, or judge by the served model itself",
            )
        judge = context.open_engine(directory)
    if not isinstance(judge, LikelihoodBackend):
        raise UsageError(
            f"attack {attack} needs likelihoods, which {judge.description.kind} does not tell here",
            advice=f"in a chain, put {attack} before other attacks on serving",
        )
    return judge


def scores_of(judge: LikelihoodBackend, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Return the log-likelihood of each text behind its prompt in nats per token, minus infinity where it has none."""
    told = judge.log_likelihoods(prompts, texts)
    return [-inf if likelihood is None else likelihood.per_token for likelihood in told]
