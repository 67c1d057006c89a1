"""How far a model is from another of the same shape, to tell a fine-tune from a stranger.

The distance is ‖target − base‖ / ‖base‖ over all tensors of two or more dimensions: norms and biases are alike in every
model and say nothing. A fine-tune is far below 1; two models trained apart are near √2, as their weights are unrelated.
"""

import math

from fpvec_audit.domain.checkpoint import Checkpoint
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.arithmetic import BlockArithmetic
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import TensorReader, block_ranges

CLOSE = 0.5
"""A model at most this far from a base counts as made from it."""


def relative_distance(
    base: Checkpoint, target: Checkpoint, adapter: ArchitectureAdapter, *, progress: Progress = NO_PROGRESS
) -> float:
    """Return the distance of a model from a base, accumulated in float64; rows that only one of them has do not count.

    Raises:
        VectorError: a tensor of the base is missing, or has another shape.
        CheckpointError: a file cannot be read.
    """
    ours, theirs = named_parameters(base, adapter).parameters, named_parameters(target, adapter).parameters
    arithmetic = BlockArithmetic()
    moved: list[float] = []
    size: list[float] = []
    matrices = {name: spec for name, spec in ours.items() if len(spec.shape) > 1 and spec.dtype.floating}
    total = sum(spec.bytes for spec in matrices.values())
    with (
        TensorReader(base.path) as one,
        TensorReader(target.path) as other,
        progress.step("compare with the base", total, "bytes") as step,
    ):
        for name, spec in matrices.items():
            if name not in theirs:
                raise VectorError(f"{name}: {base.path} has it, {target.path} does not", advice="give its own base")
            shared = shared_elements(
                name, theirs[name].shape, spec.shape, role=adapter.role(name), vocabulary=Vocabulary.SHARED
            )
            for start, count in block_ranges(shared):
                before = one.read(spec, start, count)
                away = arithmetic.moved(before, other.read(theirs[name], start, count))
                moved.append(arithmetic.product_sum(away, away))
                size.append(arithmetic.product_sum(before, before))
            step.advance(spec.bytes)
    if not math.fsum(size):
        raise VectorError(f"{base.path} has no weights to compare with", advice="give the base of the downstream model")
    return math.sqrt(math.fsum(moved) / math.fsum(size))
