"""Pruning: a share of the weights set to zero, at random, by size, or by size times what flows in.

Unstructured, once, without training afterwards. Embeddings, output head, norms and biases are left out as a rule.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, TensorRole, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEFT_OUT = (TensorRole.EMBEDDING, TensorRole.OUTPUT_HEAD, TensorRole.NORM)
CALIBRATION_TOKENS = 128
ROWS_PER_WINDOW = 16
"""Ordinary rows that are drawn for each calibration window; a row has about as many tokens as a window has eighths."""


@dataclass(frozen=True, slots=True)
class PruneParameters:
    """What is set to zero.

    Attributes:
        method: ``random``, ``magnitude`` (smallest first) or ``wanda`` (smallest size times norm of the input first).
        ratio: share of each tensor's elements, above 0 and below 1; rounded down to whole elements.
        scope: ``tensor`` compares all elements of a matrix, ``row`` those of one output; none takes what the source of
            the method does: rows for ``wanda``, whole matrices otherwise.
        tensors: ``layers`` (attention and MLP matrices) or ``all`` matrices, embeddings and output head too; the latter
            not for ``wanda``.
        calibration: windows of 128 tokens that ``wanda`` looks at.
        data: JSON Lines of rows (``prompt``, ``response``) that these windows are cut from; none uses the package's own
            instructions.
    """

    method: Literal["random", "magnitude", "wanda"] = "magnitude"
    ratio: float = 0.2
    scope: Literal["tensor", "row"] | None = None
    tensors: Literal["layers", "all"] = "layers"
    calibration: int = 64
    data: Path | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"ratio is {self.ratio}", advice="give a fraction above 0 and below 1")
        if self.calibration < 1:
            raise UsageError(f"calibration is {self.calibration}", advice="give a whole number of at least 1")
        if self.data is not None and self.method != "wanda":
            raise UsageError(f"data is given, which method {self.method} does not use", advice="add method=wanda")
        if self.method == "wanda" and self.tensors == "all":
            raise UsageError(
                "tensors is all, which wanda cannot prune", advice="nothing is measured there: take layers"
            )

    @property
    def by_row(self) -> bool:
        """Whether elements of one output are compared, and not all of a matrix."""
        return self.scope == "row" or (self.scope is None and self.method == "wanda")


@dataclass(frozen=True, slots=True)
class Prune:
    """The attack.

    Source: magnitude pruning of Han et al. (arXiv:1506.02626); Wanda (arXiv:2306.11695), whose score of an element is
    |W_ij| · ‖X_j‖₂ and whose layers are pruned block by block.
    """

    Parameters: ClassVar[type] = PruneParameters
    name: str = "prune"
    description: str = (
        "Sets a share of the weights of attention and MLP to zero, at random, by size, or by Wanda's score; utility "
        "falls soon when it is random, late with Wanda."
    )

    def apply(self, source: Path, target: Path, parameters: PruneParameters, context: AttackContext) -> None:
        """Write the pruned copy.

        Raises:
            CheckpointError: the model cannot be read, is quantised, or holds NaN or Inf.
            SettingsError: the calibration rows cannot be read.
        """
        from fpvec_audit.toolkit import recompute_checkpoint, weight_matrices

        matrices = weight_matrices(source, adapter=context.adapter)
        walked = _walked(source, parameters, context) if parameters.method == "wanda" else {}

        def compute(name: str, values: "Tensor", _others: "Sequence[Tensor]") -> "Tensor":
            matrix = matrices.get(name)
            if matrix is None or (parameters.tensors == "layers" and matrix.role in LEFT_OUT):
                return values
            if parameters.method == "wanda":
                return values.masked_fill(walked[name] == 0, 0.0) if name in walked else values
            rows = matrix.rows(values)
            pruned = _pruned(rows, _scores(name, rows, parameters, context), parameters)
            return matrix.stored(pruned, values.shape)

        recompute_checkpoint(source, target, compute, adapter=context.adapter, progress=context.progress)


def _scores(name: str, rows: "Tensor", parameters: PruneParameters, context: AttackContext) -> "Tensor":
    """Return what every element is worth, (outputs, inputs)."""
    import torch

    from fpvec_audit.toolkit import random_generator

    if parameters.method == "magnitude":
        return rows.abs()
    return torch.rand(rows.shape, generator=random_generator(context.seed, "prune", name))


def _pruned(rows: "Tensor", scores: "Tensor", parameters: PruneParameters) -> "Tensor":
    """Return a matrix without the elements that are worth least, of every row or of all.

    Shapes:
        rows, scores and the result are (outputs, inputs).
    """
    compared = scores if parameters.by_row else scores.reshape(1, -1)  # (groups, elements)
    count = int(parameters.ratio * compared.shape[1])
    least = compared.topk(count, dim=1, largest=False, sorted=False).indices
    dropped = compared.new_zeros(compared.shape, dtype=bool).scatter_(1, least, value=True)
    return rows.masked_fill(dropped.view(rows.shape), 0.0)


def _walked(source: Path, parameters: PruneParameters, context: AttackContext) -> "dict[str, Tensor]":
    """Return the linear layers of the blocks, pruned one block after the other by what flows into them."""
    from fpvec_audit.toolkit import change_by_activations, instruction_rows, read_rows

    def change(weight: "Tensor", norms: "Tensor") -> "Tensor":
        return _pruned(weight, weight.abs() * norms, parameters)

    if parameters.data is None:
        rows = instruction_rows(parameters.calibration * ROWS_PER_WINDOW, adapter=context.adapter, seed=context.seed)
    else:
        render = context.adapter.prompt if context.adapter is not None else str
        rows = [(render(prompt), response) for prompt, response in read_rows(parameters.data)]
    return dict(
        change_by_activations(
            source,
            change,
            [f"{prompt} {answer}" for prompt, answer in rows],
            windows=parameters.calibration,
            tokens=CALIBRATION_TOKENS,
            adapter=context.adapter,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
    )


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give pruning."""
    return [Prune()]
