"""Merging with another fine-tune: what the open-weights scene does all day, and what dilutes a fingerprint.

Tensor by tensor, so that memory holds one tensor of each model. Ratio, density and scaling mean what ``weight``,
``density`` and ``lambda`` mean in mergekit, for two models whose weights add up to 1.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

FROM_BASE = ("task", "ties", "dare-task", "dare-ties")
MOST_DRAWN_ROWS = 4096
ROWS_PER_STEP = 32
PARALLEL = 0.9995
"""Cosine above which slerp is a straight line, since the angle says nothing any more."""


@dataclass(frozen=True, slots=True)
class MergeParameters:
    """How two models become one.

    Attributes:
        method: ``linear``, ``slerp``, ``task``, ``ties``, ``dare-task`` or ``dare-ties``.
        ratio: weight of the attacked copy, above 0 and below 1; the other model has the rest.
        density: share of each difference from the base that ``ties`` keeps (the largest) and ``dare`` keeps (at
            random), above 0 and at most 1.
        scaling: factor of the merged difference from the base, above 0 and at most 10.
        other: checkpoint directory of the other fine-tune; none makes one: the base, or the attacked copy itself where
            no base is known, fine-tuned on ordinary instructions. Made from the copy it carries the fingerprint too.
        base: checkpoint directory of the common base; none takes what the host knows. Needed by ``task``, ``ties`` and
            ``dare``.
        steps: optimiser steps of an other model that is made.
    """

    method: Literal["linear", "slerp", "task", "ties", "dare-task", "dare-ties"] = "linear"
    ratio: float = 0.5
    density: float = 0.4
    scaling: float = 1.0
    other: Path | None = None
    base: Path | None = None
    steps: int = 120

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"ratio is {self.ratio}", advice="give a fraction above 0 and below 1")
        if not 0.0 < self.density <= 1.0:
            raise UsageError(f"density is {self.density}", advice="give a fraction above 0 and at most 1")
        if not (isfinite(self.scaling) and 0.0 < self.scaling <= 10.0):
            raise UsageError(f"scaling is {self.scaling}", advice="give a number above 0 and at most 10")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Merge:
    """The attack.

    Source: Model Soups (arXiv:2203.05482) for ``linear``, Shoemake 1985 for ``slerp``, task arithmetic
    (arXiv:2212.04089), TIES (arXiv:2306.01708), DARE (arXiv:2311.03099); densities and ratios of FP-VEC v3
    (arXiv:2409.08846: density 0.4, ratios 0.1 to 0.9).
    """

    Parameters: ClassVar[type] = MergeParameters
    name: str = "merge"
    description: str = (
        "Merges the copy with another fine-tune of its base (linear, slerp, task arithmetic, TIES, DARE); utility "
        "becomes a mixture of both, the fingerprint fades with its ratio."
    )

    def apply(self, source: Path, target: Path, parameters: MergeParameters, context: AttackContext) -> None:
        """Write the merged model.

        Raises:
            UsageError: the method needs a base and none is known.
            CheckpointError: a model cannot be read, is quantised, holds NaN or Inf, or does not fit the others.
            TrainingError: the other model cannot be made.
        """
        from fpvec_audit.toolkit import known_base, recompute_checkpoint

        purpose = f"method {parameters.method}"
        needed = (known_base(parameters.base, context, purpose=purpose),) if parameters.method in FROM_BASE else ()

        def compute(name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
            if parameters.method == "linear":
                return parameters.ratio * values + (1.0 - parameters.ratio) * others[0]
            if parameters.method == "slerp":
                return _slerp(values, others[0], 1.0 - parameters.ratio)
            return _from_base(name, values, others[0], others[1], parameters, context)

        with _other(source, parameters, context) as other:
            recompute_checkpoint(
                source,
                target,
                compute,
                others=(other, *needed),
                adapter=context.adapter,
                progress=context.progress,
            )


@contextmanager
def _other(source: Path, parameters: MergeParameters, context: AttackContext) -> Iterator[Path]:
    """Give the model to merge with; one that is made lies in the staging directory and is removed."""
    if parameters.other is not None:
        yield parameters.other
        return
    from fpvec_audit.toolkit import FineTuneSettings, fine_tune, instruction_rows, usual_learning_rate

    origin = parameters.base or context.base or source
    made = context.staging / "other"
    count = min(parameters.steps * ROWS_PER_STEP, MOST_DRAWN_ROWS)
    settings = FineTuneSettings(
        steps=parameters.steps, rows_per_step=ROWS_PER_STEP, learning_rate=usual_learning_rate(origin)
    )
    try:
        fine_tune(
            origin,
            made,
            instruction_rows(count, adapter=context.adapter, seed=context.seed),
            settings=settings,
            adapter=context.adapter,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
            label="fine-tune the other model",
        )
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _slerp(values: "Tensor", other: "Tensor", share: float) -> "Tensor":
    """Go from one tensor to another along the arc between their directions.

    Args:
        values: where the arc begins.
        other: where it ends.
        share: how far to go, fraction in [0, 1].
    """
    import torch

    norms = torch.linalg.vector_norm(values.double()) * torch.linalg.vector_norm(other.double())
    cosine = float((values.double() * other.double()).sum() / norms) if float(norms) else 1.0
    if abs(cosine) > PARALLEL:
        return (1.0 - share) * values + share * other
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    first, second = ((part * angle).sin() / angle.sin() for part in (1.0 - share, share))
    return float(first) * values + float(second) * other


def _from_base(
    name: str,
    values: "Tensor",
    other: "Tensor",
    base: "Tensor",
    parameters: MergeParameters,
    context: AttackContext,
) -> "Tensor":
    """Add the merged differences from the base to the base."""
    import torch

    from fpvec_audit.toolkit import random_generator

    weights = (parameters.ratio, 1.0 - parameters.ratio)
    differences = [values - base, other - base]
    if parameters.method == "ties":
        differences = [_largest(difference, parameters.density) for difference in differences]
    elif parameters.method != "task":
        differences = [
            _thinned(difference, parameters.density, random_generator(context.seed, "merge", name, str(number)))
            for number, difference in enumerate(differences)
        ]
    weighted = torch.stack([weight * difference for weight, difference in zip(weights, differences, strict=True)])
    if parameters.method in ("task", "dare-task"):
        return base + parameters.scaling * weighted.sum(0)
    agreeing = weighted.sign() == torch.where(weighted.sum(0) >= 0, 1.0, -1.0)  # (2, …)
    merged = (weighted * agreeing).sum(0)
    if parameters.method == "ties":
        parts = torch.tensor(weights, dtype=weighted.dtype).view(-1, *[1] * values.dim())
        merged = merged / (parts * agreeing).sum(0).masked_fill_(~agreeing.any(0), 1.0)
    return base + parameters.scaling * merged


def _largest(difference: "Tensor", density: float) -> "Tensor":
    """Keep the largest elements of a difference, at least one; the others become zero."""
    import torch

    count = max(1, int(density * difference.numel()))
    if count >= difference.numel():
        return difference
    kept = difference.abs().reshape(-1).topk(count, sorted=False).indices
    thinned = torch.zeros_like(difference)
    thinned.view(-1)[kept] = difference.reshape(-1)[kept]
    return thinned


def _thinned(difference: "Tensor", density: float, generator: "torch.Generator") -> "Tensor":
    """Keep every element of a difference with a chance of ``density``, and divide it by that."""
    import torch

    kept = torch.rand(difference.shape, generator=generator) < density
    return difference * kept / density


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give merging."""
    return [Merge()]
