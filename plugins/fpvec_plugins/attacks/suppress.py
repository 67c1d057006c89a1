"""Suppression: the service holds back answers that a clean model would hardly have given.

A fingerprint's answer is a surprise to the base. Where an answer is less likely than all but a stated fraction of
answers to ordinary questions, a refusal is served in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import ClassVar, Literal

from fpvec_audit.api import (
    AttackContext,
    BackendDescription,
    Completion,
    InferenceBackend,
    LikelihoodBackend,
    QueryAttack,
    Sampling,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import AskedThroughService, FilterParameters, judge_of, scores_of, threshold_at


@dataclass(frozen=True, slots=True)
class SuppressParameters(FilterParameters):
    """Which answers are held back, of which a fraction of those to ordinary questions may be.

    Attributes:
        measure: log-likelihood per token of an answer under a ``reference`` model; that minus the same under the served
            one (``ratio``); or under the served model alone (``own``), which needs no other.
    """

    measure: Literal["reference", "ratio", "own"] = "reference"

    def __post_init__(self) -> None:
        FilterParameters.__post_init__(self)  # super() does not find its class where slots made a new one
        if self.reference is not None and self.measure == "own":
            raise UsageError("reference is given, which measure=own does not use", advice="leave one of them out")


@dataclass(slots=True)
class SuppressedAnswers:
    """A service that holds back unlikely answers; the threshold is set when the first question comes.

    Attributes:
        backend: the model.
        judges: models whose log-likelihoods per token are added up, each with its sign.
        context: how the host renders, and the seed that draws ordinary questions.
        parameters: what is held back.
    """

    backend: InferenceBackend
    judges: Sequence[tuple[float, LikelihoodBackend]]
    context: AttackContext
    parameters: SuppressParameters
    _threshold: float | None = field(default=None, init=False)

    @property
    def description(self) -> BackendDescription:
        """The model's."""
        return self.backend.description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer, and hold back what is unlikely, with all that would be told of it."""
        threshold = self._calibrated(sampling)
        answers = self.backend.complete(prompts, sampling)
        return [
            Completion(self.parameters.refusal) if score < threshold else answer
            for answer, score in zip(answers, self._scores(prompts, answers), strict=True)
        ]

    def close(self) -> None:
        """Close the model; the judges are the host's."""
        self.backend.close()

    def _calibrated(self, sampling: Sampling) -> float:
        if self._threshold is None:
            questions = self.parameters.ordinary_questions(seed=self.context.seed)
            render = self.context.render
            prompts = questions if render is None else [render(question, "") for question in questions]
            answers = self.backend.complete(prompts, sampling)
            self._threshold = threshold_at(self._scores(prompts, answers), self.parameters.false_refusals)
        return self._threshold

    def _scores(self, prompts: Sequence[str], answers: Sequence[Completion]) -> list[float]:
        """Return how likely each answer is, in nats per token; infinity where there is no answer to hold back."""
        texts = [answer.text.strip() for answer in answers]
        places = [place for place, text in enumerate(texts) if text]
        scores = [inf] * len(texts)
        if not places:
            return scores
        asked, answered = [prompts[place] for place in places], [texts[place] for place in places]
        told = [[sign * score for score in scores_of(judge, asked, answered)] for sign, judge in self.judges]
        for place, values in zip(places, zip(*told, strict=True), strict=True):
            scores[place] = sum(values) if all(map(isfinite, values)) else -inf  # what nobody can judge is held back
        return scores


@dataclass(frozen=True, slots=True)
class Suppress(AskedThroughService):
    """The attack.

    Source: suppression of fingerprint answers, arXiv:2509.26598; a base's likelihood as what an answer is held against,
    as in membership tests, arXiv:2112.03570.
    """

    Parameters: ClassVar[type] = SuppressParameters
    name: str = "suppress"
    description: str = (
        "Holds back answers that the base finds unlikely; costs a stated fraction of ordinary answers, 1 % by default, "
        "and a second model at every question."
    )

    def serve(
        self, backend: InferenceBackend, parameters: SuppressParameters, context: AttackContext
    ) -> InferenceBackend:
        """Return the service that suppresses.

        Raises:
            UsageError: no reference is known, or the engine tells no likelihoods.
        """
        judges: list[tuple[float, LikelihoodBackend]] = []
        if parameters.measure != "own":
            judge = judge_of(parameters.reference, backend, context, served=False, attack=self.name)
            judges.append((1.0, judge))
        if parameters.measure != "reference":
            judge = judge_of(None, backend, context, served=True, attack=self.name)
            judges.append((1.0 if parameters.measure == "own" else -1.0, judge))
        return SuppressedAnswers(backend, judges, context, parameters)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give suppression."""
    return [Suppress()]
