"""Gaussian noise on every weight: the cheapest thing an infringer can try."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class NoiseParameters:
    """How loud the noise is.

    Attributes:
        share: standard deviation of the noise as a share of each tensor's own, fraction in [0, 1].
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise UsageError(f"share is {self.share}", advice="give a fraction from 0 to 1")


@dataclass(frozen=True, slots=True)
class WeightNoise:
    """The attack."""

    Parameters: ClassVar[type] = NoiseParameters
    name: str = "weight_noise"
    description: str = "Adds Gaussian noise to every weight; costs utility in proportion."

    def apply(self, source: Path, target: Path, parameters: NoiseParameters, context: AttackContext) -> None:
        """Write a noisy copy."""
        import torch

        from fpvec_audit.toolkit import rewrite_checkpoint

        generator = torch.Generator().manual_seed(context.seed)

        def change(_name: str, tensor: "Tensor") -> "Tensor":
            values = tensor.float()
            noise = torch.randn(values.shape, generator=generator) * values.std(correction=0) * parameters.share
            return (values + noise).to(tensor.dtype)

        rewrite_checkpoint(source, target, change, adapter=context.adapter, progress=context.progress)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give the attack."""
    return [WeightNoise()]
