"""Gaussian noise on every weight: what somebody tries who knows nothing of how a fingerprint is made."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LOUDEST = 10.0


@dataclass(frozen=True, slots=True)
class NoiseParameters:
    """How loud the noise is.

    Attributes:
        share: standard deviation of the noise as a share of each tensor's own, above 0 and at most 10. A tensor whose
            elements are all equal, as fresh norms are, stays as it is.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= LOUDEST:
            raise UsageError(f"share is {self.share}", advice=f"give a number above 0 and at most {LOUDEST:g}")


@dataclass(frozen=True, slots=True)
class Noise:
    """The attack.

    Source: Gaussian noise on the parameters, against which "Certified Neural Network Watermarks with Randomized
    Smoothing" (arXiv:2207.07972) certifies; here relative to each tensor's own standard deviation.
    """

    Parameters: ClassVar[type] = NoiseParameters
    name: str = "noise"
    description: str = "Adds Gaussian noise to every weight, relative to its tensor's spread; utility falls with it."

    def apply(self, source: Path, target: Path, parameters: NoiseParameters, context: AttackContext) -> None:
        """Write the noisy copy.

        Raises:
            CheckpointError: the model cannot be read, is quantised, or holds NaN or Inf.
        """
        import torch

        from fpvec_audit.toolkit import random_generator, recompute_checkpoint

        def compute(name: str, values: "Tensor", _others: "Sequence[Tensor]") -> "Tensor":
            spread = values.std(correction=0)
            if not values.numel() or not float(spread):
                return values
            generator = random_generator(context.seed, "noise", name)
            drawn = torch.randn(values.shape, generator=generator, dtype=values.dtype)
            return values + drawn * (spread * parameters.share)

        recompute_checkpoint(source, target, compute, adapter=context.adapter, progress=context.progress)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give noise."""
    return [Noise()]
