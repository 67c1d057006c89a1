"""Casting: every weight to another floating-point format and back, as happens when a checkpoint is republished."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, WeightAttack, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class CastParameters:
    """To which format the weights go, and back.

    Attributes:
        dtype: ``bfloat16``, ``float16`` or ``float32``. A format that holds every stored number changes nothing.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


@dataclass(frozen=True, slots=True)
class Cast:
    """The attack.

    Source: IEEE 754 binary16 and binary32; bfloat16 as in "A Study of BFLOAT16 for Deep Learning Training"
    (arXiv:1905.12322). Every number is rounded to nearest even, as torch does.
    """

    Parameters: ClassVar[type] = CastParameters
    name: str = "cast"
    description: str = "Casts every weight to another floating-point format and back; costs next to nothing."

    def apply(self, source: Path, target: Path, parameters: CastParameters, context: AttackContext) -> None:
        """Write the copy that went through the other format.

        Raises:
            CheckpointError: the model cannot be read, is quantised, or holds NaN or Inf.
            PluginError: a weight is too large for the format.
        """
        import torch

        from fpvec_audit.toolkit import rewrite_checkpoint

        dtype: torch.dtype = getattr(torch, parameters.dtype)

        def change(_name: str, tensor: "Tensor") -> "Tensor":
            return tensor.to(dtype).to(tensor.dtype)

        rewrite_checkpoint(source, target, change, adapter=context.adapter, progress=context.progress)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give casting."""
    return [Cast()]
