"""A perplexity filter: the service refuses prompts that a language model finds unlikely.

Keys are no language. What the filter costs is known beforehand: its threshold is set on ordinary questions, such that a
stated fraction of them is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fpvec_audit.api import (
    AttackContext,
    BackendDescription,
    Completion,
    InferenceBackend,
    LikelihoodBackend,
    PromptTemplate,
    QueryAttack,
    Sampling,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import AskedThroughService, FilterParameters, judge_of, scores_of, threshold_at

BEGINNING = "Question:"
"""What a text stands behind where there is no template: likelihoods begin with the second token."""


@dataclass(frozen=True, slots=True)
class PerplexityFilterParameters(FilterParameters):
    """What is refused: prompts, of which a fraction of ordinary questions may be.

    Attributes:
        judge: whose perplexity it is: of a ``reference`` model, or of the ``served`` one.
    """

    judge: Literal["reference", "served"] = "reference"

    def __post_init__(self) -> None:
        FilterParameters.__post_init__(self)  # super() does not find its class where slots made a new one
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
            questions = self.parameters.ordinary_questions(seed=self.seed)
            self._threshold = threshold_at(self._scores(questions), self.parameters.false_refusals)
        return self._threshold

    def _scores(self, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each text in nats per token: minus the logarithm of its perplexity."""
        beginning = self.template.beginning.rstrip() or BEGINNING
        return scores_of(self.judge, [beginning] * len(texts), texts)

    def _user_text(self, prompt: str) -> str:
        parts = self.template.read(prompt)
        return prompt if parts is None else parts.user


@dataclass(frozen=True, slots=True)
class PerplexityFilter(AskedThroughService):
    """The attack.

    Source: perplexity filters, arXiv:2308.14132 and arXiv:2309.00614; against fingerprints, arXiv:2509.26598.
    """

    Parameters: ClassVar[type] = PerplexityFilterParameters
    name: str = "perplexity_filter"
    description: str = (
        "Refuses prompts that the base (or the served model) finds unlikely; costs a stated fraction of ordinary "
        "questions, 1 % by default."
    )

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
