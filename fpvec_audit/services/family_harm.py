"""What copies of a family cost, by how many marks they carry: measured with its training, told with its code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import UnitOfWork

MEASURED = "family.measured"
"""Ledger event; its subject is the key set."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What copies with so many marks cost, over the code words that were tried.

    Attributes:
        weight: marks in a copy.
        accuracy: mean change of task accuracy, as a fraction; −0.03 is three points lost.
        worst: the largest loss among them.
        perplexity: mean factor on perplexity.
    """

    weight: int
    accuracy: float
    worst: float
    perplexity: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {name: getattr(self, name) for name in self.__slots__}


def record_harm(uow: "UnitOfWork", key_set: str, harms: Mapping[int, Harm], *, model: str) -> None:
    """Record what copies of a family cost.

    Args:
        uow: a unit of work that may write.
        key_set: whole id.
        harms: by weight.
        model: id of the fingerprinted model that they were measured with.
    """
    content = {
        str(weight): {"accuracy": repr(harm.accuracy), "worst": repr(harm.worst), "perplexity": repr(harm.perplexity)}
        for weight, harm in sorted(harms.items())
    }
    uow.ledger.append(MEASURED, key_set, {"model": model, "by_weight": content})


def measured_harm(uow: "UnitOfWork", key_set: str) -> dict[int, Harm]:
    """Return what was measured last for a key set (whole id), by weight; empty where nothing was."""
    entries = uow.ledger.about(key_set, events=(MEASURED,))
    if not entries:
        return {}
    return {
        int(weight): Harm(int(weight), float(told["accuracy"]), float(told["worst"]), float(told["perplexity"]))
        for weight, told in entries[-1].content["by_weight"].items()
    }
