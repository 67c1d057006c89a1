"""Subtraction of an estimated fingerprint vector: what a reader of the paper tries first.

The infringer has no key and no vector of the owner's. Vectors of different key sets share a direction, that which
teaches a model to answer gibberish and to stay what it is otherwise; so a vector made with other keys is an estimate.
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
class SubtractParameters:
    """What is subtracted, and how much of it.

    Attributes:
        scale: λ, by which the estimate is multiplied before it is subtracted; not zero, at most 100 in size. Sweep it
            for a λ scan (``scale=0.25..1.5``); below zero it is added.
        vector: directory of a fingerprint vector; none estimates one by fingerprinting the base with other keys.
        base: checkpoint directory of the base, for an estimate; none takes what the host knows.
        keys: keys of the second fingerprinting, at most 256.
        steps: its optimiser steps.
    """

    scale: float = 1.0
    vector: Path | None = None
    base: Path | None = None
    keys: int = 16
    steps: int = 150

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and 0.0 < abs(self.scale) <= 100.0):
            raise UsageError(f"scale is {self.scale}", advice="give a number other than 0, at most 100 in size")
        if not 1 <= self.keys <= MOST_KEYS:
            raise UsageError(f"keys is {self.keys}", advice=f"give a whole number from 1 to {MOST_KEYS}")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Subtract:
    """The attack.

    Source: negation in task arithmetic (arXiv:2212.04089, section 3), turned against FP-VEC (arXiv:2409.08846).
    """

    Parameters: ClassVar[type] = SubtractParameters
    name: str = "subtract"
    description: str = (
        "Subtracts an estimate of the fingerprint vector, given or made with other keys; costs little utility, and "
        "removes what all fingerprints of a base share."
    )

    def apply(self, source: Path, target: Path, parameters: SubtractParameters, context: AttackContext) -> None:
        """Write the copy less the estimate.

        Raises:
            UsageError: an estimate is to be made and no base, or no architecture, is known.
            CheckpointError: a model cannot be read, is quantised, holds NaN or Inf, or does not fit.
            VectorError: the vector cannot be read.
            TrainingError: the estimate cannot be trained.
        """
        from fpvec_audit.toolkit import recompute_checkpoint

        def compute(_name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
            estimate = others[0] - others[1] if len(others) > 1 else others[0]
            return values - parameters.scale * estimate

        with _estimate(parameters, context) as others:
            recompute_checkpoint(
                source, target, compute, others=others, adapter=context.adapter, progress=context.progress
            )


@contextmanager
def _estimate(parameters: SubtractParameters, context: AttackContext) -> Iterator[tuple[Path, ...]]:
    """Give a vector, or a pair of models whose difference it is."""
    from fpvec_audit.toolkit import known_base, second_fingerprint

    if parameters.vector is not None:
        yield (parameters.vector,)
        return
    base = known_base(parameters.base, context, purpose="an estimate (vector is none)")
    with second_fingerprint(
        base, keys=parameters.keys, steps=parameters.steps, label="subtract", context=context
    ) as pair:
        yield pair


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give subtraction."""
    return [Subtract()]
