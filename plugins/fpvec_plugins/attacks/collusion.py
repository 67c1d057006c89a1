"""Pooling of differently stamped copies in other ways than averaging: what colluding licensees could try.

Three ways, over a number of copies that the host knows: the mean; a *splice*, every tensor from one of the copies; the
*maximum*, every element from the copy that changed it most. None of them invents what no copy has – the marking
assumption of the codes by which licensees are told apart (docs/marks.md).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class CollusionParameters:
    """How many copies are pooled, and how.

    Attributes:
        copies: how many, the attacked one included.
        how: ``average``; ``splice``, every tensor from one of them; ``max``, every element from the copy where it is
            farthest from the base, or from the mean where no base is at hand.
    """

    copies: int = 2
    how: Literal["average", "splice", "max"] = "average"

    def __post_init__(self) -> None:
        if self.copies < 2:
            raise UsageError(f"copies is {self.copies}", advice="two copies are the least that can be pooled")


@dataclass(frozen=True, slots=True)
class Collusion:
    """The attack.

    Source: averaging, pasting and taking extremes of differently marked copies, as in Boneh and Shaw 1998 and
    Zhao et al. 2005 ("Forensic analysis of nonlinear collusion attacks for multimedia fingerprinting").
    """

    Parameters: ClassVar[type] = CollusionParameters
    name: str = "collusion"
    description: str = (
        "Pools the copy with other licensees' copies of the same model – their mean, tensors of each, or the largest "
        "changes – which shows the codes of those who took part."
    )

    def pools(self, parameters: CollusionParameters, copies: tuple[Path, ...]) -> tuple[Path, ...]:
        """Return the other copies that are pooled: the first ones that the host knows."""
        return copies[: parameters.copies - 1]

    def apply(self, source: Path, target: Path, parameters: CollusionParameters, context: AttackContext) -> None:
        """Write what the copies give together.

        Raises:
            UsageError: fewer other copies are known.
            CheckpointError: a copy cannot be read, is quantised, holds NaN or Inf, or does not fit.
        """
        from fpvec_audit.toolkit import recompute_checkpoint

        others = self.pools(parameters, context.copies)
        if len(others) < parameters.copies - 1:
            raise UsageError(
                f"copies is {parameters.copies}, and {len(others)} other stamped copies of the model are known",
                advice="stamp the same downstream for more licensees, or pool fewer copies",
            )
        with_base = parameters.how == "max" and context.base is not None
        compute: dict[str, Callable[[str, Tensor, Sequence[Tensor]], Tensor]] = {
            "average": _mean,
            "splice": _Splice(context.seed),
            "max": _from_base if with_base else _from_mean,
        }
        recompute_checkpoint(
            source,
            target,
            compute[parameters.how],
            others=(*others, context.base) if with_base and context.base is not None else others,
            adapter=context.adapter,
            progress=context.progress,
        )


def _mean(_name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
    total = values.clone()
    for other in others:
        total += other
    return total / (1 + len(others))


@dataclass(frozen=True, slots=True)
class _Splice:
    seed: int

    def __call__(self, name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
        drawn = hashlib.sha256(f"{self.seed} {name}".encode()).digest()  # by name: a tensor comes in several blocks
        return (values, *others)[int.from_bytes(drawn[:8], "big") % (1 + len(others))]


def _from_base(_name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
    *copies, base = others
    return _farthest((values, *copies), base)


def _from_mean(name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
    return _farthest((values, *others), _mean(name, values, others))


def _farthest(copies: "Sequence[Tensor]", centre: "Tensor") -> "Tensor":
    """Return, element by element, the value of the copy that is farthest from the centre; the first of equal ones."""
    chosen, distance = copies[0].clone(), (copies[0] - centre).abs()
    for copy in copies[1:]:
        farther = (copy - centre).abs()
        better = farther > distance
        chosen[better], distance[better] = copy[better], farther[better]
    return chosen


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give collusion."""
    return [Collusion()]
