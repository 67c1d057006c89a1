"""Quantisation: weights rounded to few bits and back, as every cheap deployment does.

Round to nearest, symmetric, with one scale per output channel or per group of inputs – what torchao does without
calibration data. The numbers go back into the checkpoint's own format, so that any engine runs the result.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, TensorRole, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

INT4_GROUP = 128
LEFT_OUT = (TensorRole.EMBEDDING, TensorRole.OUTPUT_HEAD, TensorRole.NORM)
LEVELS = {"int8": (-128, 127), "int4": (-8, 7)}
EIGHT_BIT_FLOATS = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


@dataclass(frozen=True, slots=True)
class QuantiseParameters:
    """To what the weights are rounded.

    Attributes:
        format: ``int8``, ``int4``, ``fp8_e4m3`` or ``fp8_e5m2``.
        group_size: inputs that share a scale, at least 2; none takes the whole output channel, but 128 for ``int4``.
        tensors: ``layers`` (attention and MLP matrices, as deployments do) or ``all`` matrices, embeddings and output
            head too. Norms and biases are never quantised.
    """

    format: Literal["int8", "int4", "fp8_e4m3", "fp8_e5m2"] = "int8"
    group_size: int | None = None
    tensors: Literal["layers", "all"] = "layers"

    def __post_init__(self) -> None:
        if self.group_size is not None and self.group_size < 2:
            raise UsageError(f"group_size is {self.group_size}", advice="give a whole number of at least 2, or none")


@dataclass(frozen=True, slots=True)
class Quantise:
    """The attack.

    Source: round-to-nearest as in torchao (int8 and int4 weight-only, float8 weight-only); LLM.int8()
    (arXiv:2208.07339) for scales per channel, FP8 Formats for Deep Learning (arXiv:2209.05433) for the two formats.
    """

    Parameters: ClassVar[type] = QuantiseParameters
    name: str = "quantise"
    description: str = (
        "Rounds the matrices to int8, int4 or fp8 and back, as cheap serving does; int8 and fp8 cost next to nothing, "
        "int4 a little utility."
    )

    def apply(self, source: Path, target: Path, parameters: QuantiseParameters, context: AttackContext) -> None:
        """Write the copy that went through quantisation.

        Raises:
            CheckpointError: the model cannot be read, is quantised already, or holds NaN or Inf.
        """
        from fpvec_audit.toolkit import recompute_checkpoint, weight_matrices

        matrices = weight_matrices(source, adapter=context.adapter)

        def compute(name: str, values: "Tensor", _others: "Sequence[Tensor]") -> "Tensor":
            matrix = matrices.get(name)
            if matrix is None or (parameters.tensors == "layers" and matrix.role in LEFT_OUT):
                return values
            return matrix.stored(_round_trip(matrix.rows(values), parameters), values.shape)

        recompute_checkpoint(source, target, compute, adapter=context.adapter, progress=context.progress)


def _round_trip(rows: "Tensor", parameters: QuantiseParameters) -> "Tensor":
    """Return a matrix after quantisation and back.

    Shapes:
        rows and the result are (outputs, inputs).
    """
    from torch.nn.functional import pad

    outputs, inputs = rows.shape
    default = INT4_GROUP if parameters.format == "int4" else inputs
    size = min(parameters.group_size or default, inputs)
    padded = pad(rows, (0, -inputs % size))  # zeros do not move the largest element of a group
    groups = padded.reshape(-1, size)
    rounded = _integers(groups, parameters) if parameters.format in LEVELS else _eight_bit_floats(groups, parameters)
    return rounded.reshape(outputs, -1)[:, :inputs]


def _integers(groups: "Tensor", parameters: QuantiseParameters) -> "Tensor":
    """Return groups rounded to integers times a scale: the largest element over half the number of steps."""
    import torch

    low, high = LEVELS[parameters.format]
    scales = _scales(groups, (high - low) / 2)
    zero_points = torch.zeros(len(groups), dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(groups.float(), scales.float(), zero_points, 0, low, high)
    return rounded.to(groups.dtype)


def _eight_bit_floats(groups: "Tensor", parameters: QuantiseParameters) -> "Tensor":
    """Return groups rounded to an 8-bit float times a scale: the largest element over the format's largest number."""
    import torch

    dtype: torch.dtype = getattr(torch, EIGHT_BIT_FLOATS[parameters.format])
    scales = _scales(groups, torch.finfo(dtype).max)[:, None]
    return (groups / scales).to(dtype).to(groups.dtype) * scales


def _scales(groups: "Tensor", steps: float) -> "Tensor":
    """Return one scale per group, (groups,): above zero even where every element is zero."""
    import torch

    return (groups.abs().amax(dim=1) / steps).clamp(min=torch.finfo(torch.float32).tiny)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give quantisation."""
    return [Quantise()]
