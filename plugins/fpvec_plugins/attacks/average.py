"""Averaging of differently stamped copies: what colluding licensees do.

What the copies have in common stays – the downstream model, and marks that all of them carry; what differs is divided
by their number, and falls silent in greedy answers long before it is gone.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class AverageParameters:
    """Whose copies are averaged.

    Attributes:
        copies: directories of the other licensees' copies, joined by ``:``; empty takes all other stamped copies of
            the same downstream model that the host knows.
        most: how many of them at most, in the order given.
    """

    copies: str = ""
    most: int = 16

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UsageError(f"most is {self.most}", advice="give a whole number of at least 1")
        if self.copies and not all(self.copies.split(os.pathsep)):
            raise UsageError(f"copies is {self.copies!r}", advice=f"join directories by {os.pathsep!r}")


@dataclass(frozen=True, slots=True)
class Average:
    """The attack.

    Source: collusion by averaging, as in Cox et al. 1997 ("Secure Spread Spectrum Watermarking for Multimedia") and
    Boneh and Shaw 1998; averaging weights is Model Soups (arXiv:2203.05482).
    """

    Parameters: ClassVar[type] = AverageParameters
    name: str = "average"
    description: str = (
        "Averages the copy with other licensees' copies of the same model; costs no utility, and silences the marks "
        "that they do not share."
    )

    def pools(self, parameters: AverageParameters, copies: tuple[Path, ...]) -> tuple[Path, ...]:
        """Return the other copies that are averaged: those named, else those that the host knows."""
        given = tuple(Path(copy) for copy in parameters.copies.split(os.pathsep)) if parameters.copies else ()
        return (given or copies)[: parameters.most]

    def apply(self, source: Path, target: Path, parameters: AverageParameters, context: AttackContext) -> None:
        """Write the mean of all copies.

        Raises:
            UsageError: no other copy is given or known.
            CheckpointError: a copy cannot be read, is quantised, holds NaN or Inf, or does not fit.
        """
        from fpvec_audit.toolkit import recompute_checkpoint

        copies = self.pools(parameters, context.copies)
        if not copies:
            raise UsageError(
                "copies is not given, and no other stamped copy of the model is known",
                advice=f"add copies=DIRECTORY{os.pathsep}DIRECTORY",
            )

        def compute(_name: str, values: "Tensor", others: "Sequence[Tensor]") -> "Tensor":
            total = values.clone()
            for other in others:
                total += other
            return total / (1 + len(others))

        recompute_checkpoint(source, target, compute, others=copies, adapter=context.adapter, progress=context.progress)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give averaging."""
    return [Average()]
