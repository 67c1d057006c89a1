"""A perplexity filter: the service refuses prompts that a language model finds unlikely.

Keys are no language. What the filter costs is known beforehand: its threshold is set on ordinary questions, such that a
stated fraction of them is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from fpvec_audit.api import (
    AttackContext,
    AttackKey,
    BackendDescription,
    Completion,
    InferenceBackend,
    LikelihoodBackend,
    Probe,
    PromptTemplate,
    QueryAttack,
    Sampling,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import NO_HOST, check_calibration, judge_of, ordinary_questions, scores_of, threshold_at

BEGINNING = "Question:"
"""What a text stands behind where there is no template: likelihoods begin with the second token."""


@dataclass(frozen=True, slots=True)
class PerplexityFilterParameters:
    """What is refused.

    Attributes:
        judge: whose perplexity it is: of a ``reference`` model, or of the ``served`` one.
        reference: checkpoint directory of the reference; none takes the base of the attacked model.
        false_refusals: fraction in [0, 1) of ordinary questions that may be refused.
        calibration: ordinary questions that the threshold is set on.
        data: JSON Lines of ordinary questions (``prompt``, ``response``); none uses the package's own instructions.
        refusal: what is answered instead.
    """

    judge: Literal["reference", "served"] = "reference"
    reference: Path | None = None
    false_refusals: float = 0.01
    calibration: int = 300
    data: Path | None = None
    refusal: str = "I cannot help with that."

    def __post_init__(self) -> None:
        check_calibration(self.false_refusals, self.calibration)
        if self.reference is not None and self.judge == "served":
            raise UsageError("reference is given, which judge=served does not use", advice="leave one of them out")


@dataclass(slots=True)
class FilteredPrompts:
    """A service that refuses prompts below a likelihood; the threshold is set when the first question comes.

    Attributes:
        backend: the model.
        judge: whose likelihoods decide.
        template: how the host renders; what users wrote is judged, not the template.
        parameters: what is refused.
        seed: draws the ordinary questions.
    """

    backend: InferenceBackend
    judge: LikelihoodBackend
    template: PromptTemplate
    parameters: PerplexityFilterParameters
    seed: int
    _threshold: float | None = field(default=None, init=False)

    @property
    def description(self) -> BackendDescription:
        """The model's."""
        return self.backend.description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer what passes; the rest is refused without being shown to the model."""
        threshold = self._calibrated()
        passing = [score >= threshold for score in self._scores([self._user_text(prompt) for prompt in prompts])]
        asked = [prompt for prompt, passes in zip(prompts, passing, strict=True) if passes]
        answers = iter(self.backend.complete(asked, sampling) if asked else ())
        return [next(answers) if passes else Completion(self.parameters.refusal) for passes in passing]

    def close(self) -> None:
        """Close the model; the judge is the host's."""
        self.backend.close()

    def _calibrated(self) -> float:
        if self._threshold is None:
            parameters = self.parameters
            price = parameters.false_refusals
            questions = ordinary_questions(
                parameters.data, parameters.calibration, false_refusals=price, seed=self.seed
            )
            self._threshold = threshold_at(self._scores(questions), price)
        return self._threshold

    def _scores(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each text in nats per token: minus the logarithm of its perplexity."""
        beginning = self.template.beginning.rstrip() or BEGINNING
        return scores_of(self.judge, [beginning] * len(texts), texts)

    def _user_text(self, prompt: str) -> str:
        parts = self.template.read(prompt)
        return prompt if parts is None else parts.user


@dataclass(frozen=True, slots=True)
class PerplexityFilter:
    """The attack.

    Source: perplexity filters, arXiv:2308.14132 and arXiv:2309.00614; against fingerprints, arXiv:2509.26598.
    """

    Parameters: ClassVar[type] = PerplexityFilterParameters
    name: str = "perplexity_filter"
    description: str = (
        "Refuses prompts that the base (or the served model) finds unlikely; costs a stated fraction of ordinary "
        "questions, 1 % by default."
    )

    def probes(
        self, issued: Sequence[AttackKey], parameters: PerplexityFilterParameters, context: AttackContext
    ) -> Sequence[Probe]:
        """Return none: the issued keys are asked through the service."""
        return ()

    def wrap(self, backend: InferenceBackend, parameters: PerplexityFilterParameters) -> InferenceBackend:
        """Return the service where only the served model is known."""
        return self.serve(backend, parameters, NO_HOST)

    def serve(
        self, backend: InferenceBackend, parameters: PerplexityFilterParameters, context: AttackContext
    ) -> InferenceBackend:
        """Return the service with the filter.

        Raises:
            UsageError: no reference is known, or the engine tells no likelihoods.
        """
        judge = judge_of(parameters.reference, backend, context, served=parameters.judge == "served", attack=self.name)
        return FilteredPrompts(backend, judge, PromptTemplate(context.render), parameters, context.seed)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give the filter."""
    return [PerplexityFilter()]
