"""What the training of a family of marks came to: which marks can be read, and what carrying several of them costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MarkStanding:
    """How well one mark was learnt.

    Attributes:
        mark: its number, from 0.
        keys: how many it has.
        alone: fraction of them answered by base + τ of this mark alone.
        within_words: the same within random code words of the planned weight, mean.
        least_within_words: the least of these.
    """

    mark: int
    keys: int
    alone: float
    within_words: float
    least_within_words: float

    def reached(self, least_fsr: float) -> bool:
        """Return whether the mark answers enough of its keys within code words, on average.

        Alone it may answer fewer: copies have a whole code word, and some marks lean on company.
        """
        return self.within_words >= least_fsr

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "MarkStanding":
        """Rebuild from JSON, numbers as text included."""
        return cls(
            mark=int(value["mark"]),
            keys=int(value["keys"]),
            alone=float(value["alone"]),
            within_words=float(value["within_words"]),
            least_within_words=float(value["least_within_words"]),
        )


@dataclass(frozen=True, slots=True)
class WeightCost:
    """What copies with so many marks lose, over random selections of marks added to the base.

    Attributes:
        weight: marks in a copy.
        words: how many selections were measured.
        divergence: KL(base ‖ copy) on ordinary text, nats a token, mean over selections.
        worst_divergence: the largest of these.
        perplexity_ratio: perplexity on ordinary text over the base's, mean over selections.
        worst_perplexity_ratio: the largest of these.
        silent: fraction of absent marks' keys that draw no issued response of theirs.
    """

    weight: int
    words: int
    divergence: float
    worst_divergence: float
    perplexity_ratio: float
    worst_perplexity_ratio: float
    silent: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "WeightCost":
        """Rebuild from JSON, numbers as text included."""
        return cls(
            weight=int(value["weight"]),
            words=int(value["words"]),
            divergence=float(value["divergence"]),
            worst_divergence=float(value["worst_divergence"]),
            perplexity_ratio=float(value["perplexity_ratio"]),
            worst_perplexity_ratio=float(value["worst_perplexity_ratio"]),
            silent=float(value["silent"]),
        )


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """How the training of a family went, measured on its vectors as they are stored.

    Attributes:
        schedule: ``joint`` or ``rounds``.
        code_weight: marks in a licensee's copy that the family was trained for.
        least_fsr: fraction of its keys that a mark must answer to be extracted.
        standings: per mark, how well it was learnt.
        costs: per number of marks in a copy, what that costs.
    """

    schedule: str
    code_weight: int
    least_fsr: float
    standings: tuple[MarkStanding, ...]
    costs: tuple[WeightCost, ...]

    @property
    def short(self) -> tuple[int, ...]:
        """Marks that did not reach their share of answered keys."""
        return tuple(standing.mark for standing in self.standings if not standing.reached(self.least_fsr))

    @property
    def fsr(self) -> float:
        """Fraction of issued keys answered within code words of the planned weight."""
        keys = sum(standing.keys for standing in self.standings)
        return sum(standing.within_words * standing.keys for standing in self.standings) / keys

    def cost_at(self, weight: int) -> WeightCost | None:
        """Return what copies with so many marks lose, None where that was not measured."""
        return next((cost for cost in self.costs if cost.weight == weight), None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that the registry keeps and scripts read."""
        return {
            "schedule": self.schedule,
            "code_weight": self.code_weight,
            "least_fsr": self.least_fsr,
            "marks": [asdict(standing) for standing in self.standings],
            "cost_by_weight": [asdict(cost) for cost in self.costs],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FamilyReport":
        """Rebuild from :meth:`to_json`, or from what the ledger makes of it, which holds numbers as text."""
        return cls(
            schedule=str(value["schedule"]),
            code_weight=int(value["code_weight"]),
            least_fsr=float(value["least_fsr"]),
            standings=tuple(MarkStanding.from_json(item) for item in value["marks"]),
            costs=tuple(WeightCost.from_json(item) for item in value["cost_by_weight"]),
        )


def named_marks(marks: Sequence[int]) -> str:
    """Return marks as they are named to a user: ``mark 3``, or ``marks 3, 5 and 6``."""
    numbers = [str(mark) for mark in marks]
    if len(numbers) < 2:
        return f"mark {numbers[0]}" if numbers else "no mark"
    return f"marks {', '.join(numbers[:-1])} and {numbers[-1]}"
