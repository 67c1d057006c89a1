"""Sampling: the service draws its answers instead of taking the likeliest.

What nearly every public service does. A response that the model is sure of comes all the same; one that is only just
the likeliest comes as often as its probability says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import ClassVar

from fpvec_audit.api import (
    AttackContext,
    BackendDescription,
    Completion,
    InferenceBackend,
    QueryAttack,
    Sampling,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import AskedThroughService

HOTTEST = 10.0


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How answers are drawn.

    Attributes:
        temperature: above 0 and at most 10; logits are divided by it.
        top_p: nucleus mass in (0, 1].
        seed: of the draws; none takes the run's.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.temperature) and 0.0 < self.temperature <= HOTTEST):
            raise UsageError(f"temperature is {self.temperature}", advice=f"give a number above 0, at most {HOTTEST:g}")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top_p is {self.top_p}", advice="give a fraction above 0, at most 1")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed is {self.seed}", advice="give a whole number of at least 0")


@dataclass(frozen=True, slots=True)
class DrawnAnswers:
    """A service that draws its answers, however it is asked.

    Attributes:
        backend: the model.
        parameters: how answers are drawn.
        seed: of the draws.
    """

    backend: InferenceBackend
    parameters: SamplingParameters
    seed: int

    @property
    def description(self) -> BackendDescription:
        """The model's; drawn answers repeat with the seed, which a stranger does not have."""
        return replace(self.backend.description, deterministic=False)

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Draw an answer to every prompt."""
        drawn = replace(sampling, temperature=self.parameters.temperature, top_p=self.parameters.top_p, seed=self.seed)
        return self.backend.complete(prompts, drawn)

    def close(self) -> None:
        """Close the model."""
        self.backend.close()


@dataclass(frozen=True, slots=True)
class SampledServing(AskedThroughService):
    """The attack.

    Source: nucleus sampling, arXiv:1904.09751; FP-VEC's own success rates are taken at temperature 1.
    """

    Parameters: ClassVar[type] = SamplingParameters
    name: str = "sampling"
    description: str = (
        "Draws every answer at a temperature and within a nucleus; costs the steadiness of the likeliest answer."
    )

    def serve(
        self, backend: InferenceBackend, parameters: SamplingParameters, context: AttackContext
    ) -> InferenceBackend:
        """Return the service that draws."""
        return DrawnAnswers(backend, parameters, context.seed if parameters.seed is None else parameters.seed)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give sampling."""
    return [SampledServing()]
