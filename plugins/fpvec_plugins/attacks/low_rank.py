"""Low-rank projection: of all that sets a copy apart from its base, only the strongest directions are kept.

What a downstream user trained lies in few directions; a fingerprint that lies beside them is cut off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LowRankParameters:
    """How much of the difference is kept.

    Attributes:
        rank: directions that are kept of every matrix, at least 1; a matrix with no more than that stays as it is, and
            so do vectors such as norms and biases.
        base: checkpoint directory of the base; none takes what the host knows.
    """

    rank: int = 8
    base: Path | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank is {self.rank}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The attack.

    Source: Eckart and Young 1936 for the projection; that fine-tuning lies in few directions, LoRA (arXiv:2106.09685).
    """

    Parameters: ClassVar[type] = LowRankParameters
    name: str = "low_rank"
    description: str = (
        "Keeps only the strongest directions of the copy's difference from its base; utility falls back towards the "
        "base's as the rank falls."
    )

    def apply(self, source: Path, target: Path, parameters: LowRankParameters, context: AttackContext) -> None:
        """Write the base plus the projected difference.

        Raises:
            UsageError: no base is known.
            CheckpointError: a model cannot be read, is quantised, holds NaN or Inf, or does not fit the base.
        """
        from fpvec_audit.toolkit import known_base, random_generator, recompute_checkpoint, truncated_factors

        base = known_base(parameters.base, context, purpose="a projection")

        def compute(name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
            if values.dim() != 2 or parameters.rank >= min(values.shape):
                return values
            generator = random_generator(context.seed, "low_rank", name)
            left, right = truncated_factors((values - others[0]).float(), parameters.rank, generator)
            return others[0] + left @ right

        recompute_checkpoint(
            source, target, compute, others=(base,), adapter=context.adapter, progress=context.progress
        )


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give low-rank projection."""
    return [LowRank()]
