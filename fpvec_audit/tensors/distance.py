"""How far a model is from another of the same shape, to tell a fine-tune from a stranger.

The distance is ‖target − base‖ / ‖base‖ over all tensors of two or more dimensions: norms and biases are alike in every
model and say nothing. A fine-tune is far below 1; two models trained apart are near √2, as their weights are unrelated.
"""

import math
from collections.abc import Sequence

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.kernels import BlockKernels
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.sink import Scratch
from fpvec_audit.tensors.stream import TensorWork, run

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
    comparisons = []
    with OpenFiles(base.path) as one, OpenFiles(target.path) as other:
        for name, spec in ours.items():
            if len(spec.shape) < 2 or not spec.dtype.floating:
                continue
            if name not in theirs:
                raise VectorError(f"{name}: {base.path} has it, {target.path} does not", advice="give its own base")
            shared = shared_elements(
                name, theirs[name].shape, spec.shape, role=adapter.role(name), vocabulary=Vocabulary.SHARED
            )
            comparisons.append(_Comparison(one, spec, other, theirs[name], shared))
        run([comparison.work() for comparison in comparisons], label="compare with the base", progress=progress)
    moved, size = ([getattr(item, name) for item in comparisons] for name in ("moved", "size"))
    if not math.fsum(size):
        raise VectorError(f"{base.path} has no weights to compare with", advice="give the base of the downstream model")
    return math.sqrt(math.fsum(moved) / math.fsum(size))


class _Comparison:
    """Sums over the elements that a tensor has in both models."""

    def __init__(self, one: OpenFiles, spec: TensorSpec, other: OpenFiles, theirs: TensorSpec, shared: int) -> None:
        self.moved = self.size = 0.0
        self._sources = (one.source(spec), other.source(theirs))
        self._shared = shared

    def work(self) -> TensorWork:
        scratch = (Scratch(Dtype.F32), Scratch(self._sources[0].dtype))
        return TensorWork(self._shared, self._sources, scratch, self._compare, (), _ignore)

    def _compare(
        self, kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        before, after = (block.first(min(block.count, self._shared - start)) for block in inputs)
        self.moved += kernels.subtract(before, after, outputs[0].first(before.count)).square
        self.size += kernels.add(before, [(before, 1.0)], outputs[1].first(before.count)).wanted
        return outputs


def _ignore(digests: Sequence[str]) -> None:
    """Nothing was hashed."""
