"""The arithmetic of vectors on one block of numbers.

Everything is computed in float32, or float64 where a float64 tensor takes part, and rounded once, to nearest even.

Laws, for finite blocks and τ as :meth:`BlockArithmetic.difference` gives it:

* where base and fingerprinted have equal bits, τ is −0.0, the neutral element of addition: adding any positive multiple
  of τ leaves every bit of any target as it was, the sign of a zero included;
* :meth:`BlockArithmetic.added` with one τ and scale 1 is the plain sum ``(target.float() + tau.float()).to(dtype)``;
* nothing of a block's size is allocated after the first block: fresh blocks of many sizes would fragment the heap, and
  memory would grow with the model.

Shapes: every block is flat, (count,).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.blocks import BLOCK_ELEMENTS

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def working_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype that blocks of these dtypes are computed in."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def is_finite(block: torch.Tensor) -> bool:
    """Say whether a floating-point block holds neither NaN nor Inf."""
    if not len(block):
        return True
    least, most = torch.aminmax(block)  # NaN comes through
    return bool(torch.isfinite(least) & torch.isfinite(most))


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
    if is_finite(block):
        return
    place = int((~torch.isfinite(block)).nonzero()[0])
    raise CheckpointError(
        f"{path}: {spec.name}: element {start + place} is {float(block[place])}",
        advice="the model is broken; take a checkpoint from before it diverged",
    )


class BlockArithmetic:
    """Sums and differences of blocks in memory that is used again.

    A returned block stays valid until the same method is called again.
    """

    def __init__(self) -> None:
        self._memory: dict[str, torch.Tensor] = {}

    def difference(self, base: torch.Tensor, fingerprinted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return τ = fingerprinted − base, rounded once to ``dtype``; −0.0 where the two have equal bits."""
        count, working = len(base), working_dtype(base.dtype, fingerprinted.dtype)
        start = self._take("one", count, working).copy_(base)
        end = self._take("other", count, working).copy_(fingerprinted)
        equal = torch.eq(_bits(start), _bits(end), out=self._take("mask", count, torch.bool))
        return self._take("difference", count, dtype).copy_(end.sub_(start).masked_fill_(equal, -0.0))

    def update(self, parts: Sequence[tuple[torch.Tensor, float]], *, count: int, working: torch.dtype) -> torch.Tensor:
        """Return Σ scale · τ in the working dtype, added in the order given.

        Args:
            parts: blocks of τ with their scales; a block may be shorter than ``count``: it has no say in the rest.
            count: elements of the result.
            working: see :func:`working_dtype`.
        """
        total = self._take("update", count, working).fill_(-0.0)
        for tau, scale in parts:
            total[: len(tau)] += self._take("one", len(tau), working).copy_(tau).mul_(scale)
        return total

    def added(self, target: torch.Tensor, change: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return target + change, added in their working dtype and rounded once to ``dtype``."""
        count, working = len(target), working_dtype(target.dtype, change.dtype)
        total = self._take("one", count, working).copy_(target)
        total += change if change.dtype == working else self._take("other", count, working).copy_(change)
        return self._take("added", count, dtype).copy_(total)

    def count_different(self, one: torch.Tensor, other: torch.Tensor) -> int:
        """Return the number of elements whose bits differ; both blocks have one dtype."""
        return int(torch.ne(_bits(one), _bits(other), out=self._take("mask", len(one), torch.bool)).sum())

    def count_nonfinite(self, block: torch.Tensor) -> int:
        """Return the number of elements that are NaN or infinite."""
        return 0 if is_finite(block) else int((~torch.isfinite(block)).sum())

    def moved(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return after − before in float64."""
        count = len(before)
        end = self._take("moved", count, torch.float64).copy_(after)
        return end.sub_(self._take("other", count, torch.float64).copy_(before))

    def product_sum(self, one: torch.Tensor, other: torch.Tensor) -> float:
        """Return Σ x·y, accumulated in float64."""
        product = self._take("product", len(one), torch.float64).copy_(one)
        return float(product.mul_(other if one is not other else product).sum())

    def _take(self, purpose: str, count: int, dtype: torch.dtype) -> torch.Tensor:
        size = count * dtype.itemsize
        memory = self._memory.get(purpose)
        if memory is None or len(memory) < size:
            memory = self._memory[purpose] = torch.empty(max(size, BLOCK_ELEMENTS * 8), dtype=torch.uint8)
        return memory[:size].view(dtype)


def _bits(block: torch.Tensor) -> torch.Tensor:
    return block.view(_BITS[block.element_size()])
