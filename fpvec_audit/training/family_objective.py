"""What a step of a family's training minimises: a single fingerprint's losses, with the step's marks put in."""

from collections.abc import Callable

from torch import Tensor, nn

from fpvec_audit.training.family_batches import ACTIVE
from fpvec_audit.training.loop import Batch, Objective
from fpvec_audit.training.marks import MarkedWeights, MarkOptimiser


class FamilyObjective:
    """Puts base + Σ τ_i of the step's active marks into the model, and lets an objective find the gradient there.

    That gradient is each active mark's own (see :mod:`~fpvec_audit.training.marks`).

    Args:
        weights: puts marks into the model.
        optimiser: moves the active marks by the gradient afterwards.
        objective: losses of a fingerprint; it finds the base as it is when a step begins.
    """

    def __init__(self, weights: MarkedWeights, optimiser: MarkOptimiser, objective: Objective) -> None:
        self._weights, self._optimiser, self._objective = weights, optimiser, objective

    def backward(self, model: nn.Module, batch: Batch, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """Accumulate the gradients of one step."""
        active = [int(mark) for mark in batch[ACTIVE]["marks"]]
        self._weights.put(active)
        self._optimiser.activate(active)
        return self._objective.backward(model, batch, step=step, backward=backward)
