"""The arithmetic of vectors on one block of numbers.

Everything is computed in float32, or float64 where a float64 tensor takes part, and rounded once, to nearest even.

Laws, for finite blocks and τ as :func:`difference` stores it:

* where base and fingerprinted have equal bits, τ is −0.0, the neutral element of addition: adding any positive multiple
  of τ leaves every bit of any target as it was, the sign of a zero included;
* :func:`added` with one τ and scale 1 is the plain sum ``(target.float() + tau.float()).to(dtype)``.

Shapes: every block is flat, (count,).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import TensorSpec
from fpvec_audit.errors import CheckpointError

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def working_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype that blocks of these dtypes are computed in."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def refuse_nonfinite(path: Path, spec: TensorSpec, start: int, block: torch.Tensor) -> None:
    """Refuse a block with NaN or Inf.

    Args:
        path: checkpoint directory, for the message.
        spec: tensor the block is from.
        start: flat position of its first element.
        block: floating-point numbers.

    Raises:
        CheckpointError: a number is not finite; the first is named.
    """
    finite = torch.isfinite(block)
    if bool(finite.all()):
        return
    place = int((~finite).nonzero()[0])
    raise CheckpointError(
        f"{path}: {spec.name}: element {start + place} is {float(block[place])}",
        advice="the model is broken; take a checkpoint from before it diverged",
    )


def difference(base: torch.Tensor, fingerprinted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return τ = fingerprinted − base, rounded once to ``dtype``; −0.0 where the two have equal bits."""
    working = working_dtype(base.dtype, fingerprinted.dtype)
    start, end = base.to(working), fingerprinted.to(working)
    tau = end - start
    tau[_bits(start) == _bits(end)] = -0.0
    return tau.to(dtype)


def update(parts: Sequence[tuple[torch.Tensor, float]], *, count: int, working: torch.dtype) -> torch.Tensor:
    """Return Σ scale · τ in the working dtype, added in the order given.

    Args:
        parts: blocks of τ with their scales; a block may be shorter than ``count``: it has no say in the rest.
        count: elements of the result.
        working: see :func:`working_dtype`.
    """
    total = torch.full((count,), -0.0, dtype=working)
    for tau, scale in parts:
        total[: len(tau)] += tau.to(working) * scale
    return total


def added(target: torch.Tensor, change: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return target + change, added in their working dtype and rounded once to ``dtype``."""
    working = working_dtype(target.dtype, change.dtype)
    return (target.to(working) + change.to(working)).to(dtype)


def count_different(one: torch.Tensor, other: torch.Tensor) -> int:
    """Return the number of elements whose bits differ; both blocks have one dtype."""
    return int((_bits(one) != _bits(other)).sum())


def square_sum(block: torch.Tensor) -> float:
    """Return Σ x², accumulated in float64."""
    return product_sum(block, block)


def product_sum(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return Σ x·y, accumulated in float64."""
    return float((one.double() * other.double()).sum())


def _bits(block: torch.Tensor) -> torch.Tensor:
    return block.view(_BITS[block.element_size()])
