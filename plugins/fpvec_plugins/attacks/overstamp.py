"""Stamping over: a second fingerprint vector on top of the first, to drown it or to claim the model.

Two vectors that were not trained together disturb each other: greedy answers of both fall silent, although the
probabilities still show the first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MOST_KEYS = 256


@dataclass(frozen=True, slots=True)
class OverstampParameters:
    """What is stamped on top.

    Attributes:
        scale: λ of the second vector, above 0 and at most 100.
        vector: directory of a fingerprint vector; none makes one with keys of the attacker's own.
        base: checkpoint directory that it is made on; none takes what the host knows, and where that is nothing, the
            attacked copy itself.
        keys: keys of the second fingerprint, at most 256.
        steps: its optimiser steps.
    """

    scale: float = 1.0
    vector: Path | None = None
    base: Path | None = None
    keys: int = 16
    steps: int = 150

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and 0.0 < self.scale <= 100.0):
            raise UsageError(f"scale is {self.scale}", advice="give a number above 0 and at most 100")
        if not 1 <= self.keys <= MOST_KEYS:
            raise UsageError(f"keys is {self.keys}", advice=f"give a whole number from 1 to {MOST_KEYS}")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Overstamp:
    """The attack.

    Source: overwriting, as against watermarks in Adi et al. (arXiv:1802.04633, section 5), here by FP-VEC's own
    transfer (arXiv:2409.08846).
    """

    Parameters: ClassVar[type] = OverstampParameters
    name: str = "overstamp"
    description: str = (
        "Stamps a second fingerprint vector, given or made with the attacker's own keys, over the first; costs as much "
        "utility as a stamp."
    )

    def apply(self, source: Path, target: Path, parameters: OverstampParameters, context: AttackContext) -> None:
        """Write the copy with a second stamp.

        Raises:
            UsageError: a vector is to be made and no architecture is known.
            CheckpointError: a model cannot be read, is quantised, holds NaN or Inf, or does not fit.
            VectorError: the vector cannot be read.
            TrainingError: the second fingerprint cannot be trained.
        """
        from fpvec_audit.toolkit import recompute_checkpoint

        def compute(_name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
            second = others[0] - others[1] if len(others) > 1 else others[0]
            return values + parameters.scale * second

        with _second(source, parameters, context) as others:
            recompute_checkpoint(
                source, target, compute, others=others, adapter=context.adapter, progress=context.progress
            )


@contextmanager
def _second(source: Path, parameters: OverstampParameters, context: AttackContext) -> Iterator[tuple[Path, ...]]:
    """Give a vector, or a pair of models whose difference it is."""
    from fpvec_audit.toolkit import second_fingerprint

    if parameters.vector is not None:
        yield (parameters.vector,)
        return
    origin = parameters.base or context.base or source
    with second_fingerprint(
        origin, keys=parameters.keys, steps=parameters.steps, label="overstamp", context=context
    ) as pair:
        yield pair


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give stamping over."""
    return [Overstamp()]
