"""Additions and subtractions of blocks, compiled where that is to be had and in torch everywhere else.

Both compute in float32 (float64 where a float64 tensor takes part), round once to nearest even, and give the same bits;
their sums are accumulated in float64 and agree up to the order of additions. The laws stand in ``arithmetic``.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors import native
from fpvec_audit.tensors.blocks import Block

if TYPE_CHECKING:
    from fpvec_audit.tensors.arithmetic import BlockArithmetic
    from fpvec_audit.tensors.carrier import TensorCarriers

FORMATS = {Dtype.F32: 0, Dtype.BF16: 1, Dtype.F16: 2}


@dataclass(frozen=True, slots=True)
class Sums:
    """What an addition did, summed over the elements of a block; NaN or infinite if an element was or became so.

    Attributes:
        applied: Σ (after − before)².
        wanted: Σ (Σ scale · τ)².
        product: Σ (after − before) · (Σ scale · τ).
        carried: Σ (after − before)² of carriers that were added afterwards, which the others know nothing of.
    """

    applied: float
    wanted: float
    product: float
    carried: float = 0.0


@dataclass(frozen=True, slots=True)
class Subtracted:
    """What a subtraction found in a block.

    Attributes:
        base_nonfinite: elements of the base that are NaN or infinite.
        other_nonfinite: such elements of the other model.
        tau_nonfinite: such elements of τ.
        inexact: elements that base + τ does not give back.
        square: Σ τ².
    """

    base_nonfinite: int
    other_nonfinite: int
    tau_nonfinite: int
    inexact: int
    square: float


class BlockKernels:
    """The arithmetic of one thread.

    Args:
        compiled: use the compiled loops for the formats that they know; False gives torch's word on everything.
    """

    def __init__(self, *, compiled: bool = True) -> None:
        self._compiled = native.library() if compiled else None
        self._sums = (ctypes.c_double * 3)()
        self._difference = native.Difference()

    def add(self, target: Block, parts: Sequence[tuple[Block, float]], out: Block) -> Sums:
        """Write target + Σ scale · τ to ``out``.

        Args:
            target: what is added to.
            parts: blocks of τ with their scales; one that is shorter has no say in the rest.
            out: where to write; same format and length as the target.
        """
        loaded = self._compiled
        if loaded is None or not _known(target, *(block for block, _ in parts)):
            return self._add_with_torch(target, parts, out)
        form, items = FORMATS[target.dtype], _parts(parts)
        loaded.fpvec_add(target.address, form, out.address, target.count, items, len(parts), self._sums)
        return Sums(*self._sums)

    def carry(
        self, values: Block, parts: Sequence[tuple[Block, float]], start: int, carriers: "TensorCarriers"
    ) -> float:
        """Add carriers to elements that were stamped, in place, and return Σ (after − before)².

        Args:
            values: the stamped elements.
            parts: blocks of τ with their scales, as they were added.
            start: flat position of the first element; a multiple of ``carrier.CHUNK``.
            carriers: what to add.
        """
        from fpvec_audit.tensors.carrier import CHUNK, MOST_CARRIERS, carry

        assert not start % CHUNK
        said = values.first(max((block.count for block, _ in parts), default=0))  # beyond, no vector has a say
        loaded = native.carrier_library() if self._compiled is not None else None
        if loaded is None or not _known(values, *(block for block, _ in parts)):
            return carry(parts, said, start, carriers)
        assert len(carriers.keys) <= MOST_CARRIERS
        items, keys = _parts(parts), (native.Carrier * len(carriers.keys))()
        for item, (cipher, strength) in zip(keys, carriers.keys, strict=True):
            item.key[:], item.strength = cipher, strength
        rounding = (ctypes.c_uint32 * 2)(*carriers.rounding)
        loaded.fpvec_carry(
            items, len(parts), said.address, FORMATS[said.dtype], start, said.count, keys, len(keys),
            carriers.nonce, rounding, self._sums,
        )  # fmt: skip
        return float(self._sums[0])

    def subtract(self, base: Block, other: Block, tau: Block) -> Subtracted:
        """Write τ = other − base to ``tau``: −0.0 where the two have equal bits."""
        loaded = self._compiled
        if loaded is None or not _known(base, other, tau):
            return self._subtract_with_torch(base, other, tau)
        found = self._difference
        formats = [FORMATS[block.dtype] for block in (base, other, tau)]
        loaded.fpvec_subtract(
            base.address, formats[0], other.address, formats[1], tau.address, formats[2], base.count,
            ctypes.addressof(found),
        )  # fmt: skip
        return Subtracted(found.base_nonfinite, found.other_nonfinite, found.tau_nonfinite, found.inexact, found.square)

    @cached_property
    def _arithmetic(self) -> "BlockArithmetic":
        from fpvec_audit.tensors.arithmetic import BlockArithmetic

        return BlockArithmetic()

    def _add_with_torch(self, target: Block, parts: Sequence[tuple[Block, float]], out: Block) -> Sums:
        from fpvec_audit.tensors.arithmetic import working_dtype

        arithmetic, before = self._arithmetic, target.torch()
        taus = [(block.torch(), scale) for block, scale in parts]
        working = working_dtype(before.dtype, *(tau.dtype for tau, _ in taus))
        change = arithmetic.update(taus, count=target.count, working=working)
        after = arithmetic.added(before, change, before.dtype)
        out.torch().copy_(after)
        applied = arithmetic.moved(before, after)
        return Sums(
            arithmetic.product_sum(applied, applied),
            arithmetic.product_sum(change, change),
            arithmetic.product_sum(applied, change),
        )

    def _subtract_with_torch(self, base: Block, other: Block, tau: Block) -> Subtracted:
        arithmetic, one, two, difference = self._arithmetic, base.torch(), other.torch(), tau.torch()
        difference.copy_(arithmetic.difference(one, two, difference.dtype))
        rebuilt = arithmetic.added(one, difference, two.dtype)
        return Subtracted(
            base_nonfinite=arithmetic.count_nonfinite(one),
            other_nonfinite=arithmetic.count_nonfinite(two),
            tau_nonfinite=arithmetic.count_nonfinite(difference),
            inexact=arithmetic.count_different(rebuilt, two),
            square=arithmetic.product_sum(difference, difference),
        )


def _parts(parts: Sequence[tuple[Block, float]]) -> "ctypes.Array[native.Part]":
    items = (native.Part * max(1, len(parts)))()
    for item, (block, scale) in zip(items, parts, strict=False):
        item.data, item.count, item.format = block.address, block.count, FORMATS[block.dtype]
        item.scale = scale
    return items


def _known(*blocks: Block) -> bool:
    return all(block.dtype in FORMATS for block in blocks)
