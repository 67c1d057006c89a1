"""The sum of a weight, what an adapter makes of it, and vectors: added in float32, rounded once.

Law: with w the weight or its replacement, ΔW the adapter's product and out's dtype for rounding, ``out`` becomes
round((w + ΔW) + Σ scale · τ); what the sums compare is the vectors' part alone, against the merged weight as it would
be rounded without them.
"""

import threading
from collections.abc import Sequence

from fpvec_audit.tensors.arithmetic import BlockArithmetic, working_dtype
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.kernels import Sums

_OF_THREAD = threading.local()


def add_to_merged(addends: Sequence[Block], parts: Sequence[tuple[Block, float]], out: Block) -> Sums:
    """Write Σ addends + Σ scale · τ to ``out``.

    Args:
        addends: the weight or its replacement, then what is added to it; all of one length.
        parts: blocks of τ with their scales; one that is shorter has no say in the rest.
        out: where to write; as long as the addends, of any floating-point format.

    Returns:
        what the vectors did; NaN or infinite if an element was or became so.
    """
    merging, adding = _arithmetic()
    weights = [(block.torch(), 1.0) for block in addends]
    taus = [(block.torch(), scale) for block, scale in parts]
    working = working_dtype(*(block.dtype for block, _ in (*weights, *taus)))
    merged = merging.update(weights, count=out.count, working=working)
    change = adding.update(taus, count=out.count, working=working)
    written = out.torch()
    after = adding.added(merged, change, written.dtype)
    applied = merging.moved(written.copy_(merged), after)  # the merged weight, rounded, is of no further use
    written.copy_(after)
    return Sums(
        merging.product_sum(applied, applied),
        merging.product_sum(change, change),
        merging.product_sum(applied, change),
    )


def _arithmetic() -> tuple[BlockArithmetic, BlockArithmetic]:
    """Return the two of this thread: their memory is used again for every block."""
    if not hasattr(_OF_THREAD, "pair"):
        _OF_THREAD.pair = (BlockArithmetic(), BlockArithmetic())
    pair: tuple[BlockArithmetic, BlockArithmetic] = _OF_THREAD.pair
    return pair
