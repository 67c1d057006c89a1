"""What silence costs: the least usefulness that an attacker must give up, and the attacks that no other beats.

Loss counts for whoever attacks: 0 is a copy as useful as before, more is worse. It is accuracy lost (a fraction), or
perplexity added as a share of what it was; one measure is read for all attacks of a run, so that they can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

ACCURACY, PERPLEXITY = "accuracy", "perplexity"
PREFERRED = (ACCURACY, PERPLEXITY)
"""Measures in the order in which they are preferred where both were measured equally often."""
SILENCED = "NO_MATCH"
LOW_RATE = 0.25
"""A fingerprint success rate below which greedy answers count as all but silent."""


@dataclass(frozen=True, slots=True)
class Priced:
    """An attack with what it left and what it cost.

    Attributes:
        number: of its cell, from 1.
        name: of the attack.
        rate: fingerprint success rate afterwards, fraction in [0, 1].
        verdict: of the audit afterwards.
        before: measure → value of the stamped model.
        after: measure → value of the attacked one.
    """

    number: int
    name: str
    rate: float
    verdict: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    def loss(self, measure: str) -> float | None:
        """Return what it cost by a measure; None where that is not known."""
        return utility_loss(measure, self.before, self.after)

    def to_json(self, measure: str) -> dict[str, Any]:
        """Return the JSON object of a point on the frontier."""
        return {
            "cell": self.number,
            "name": self.name,
            "fsr": self.rate,
            "verdict": self.verdict,
            "loss": self.loss(measure),
            "before": self.before.get(measure),
            "after": self.after.get(measure),
        }


@dataclass(frozen=True, slots=True)
class Frontier:
    """The headline of a run.

    Attributes:
        measure: what loss is read from; empty where nothing was measured.
        judged: attacks that were measured to a verdict.
        silenced: those of them that ended in NO_MATCH.
        no_match: the cheapest of these; None where there is none with a known loss.
        low_rate: the cheapest whose rate is below 0.25.
        best: attacks that no other beats in rate and loss together, the cheapest first.
    """

    measure: str
    judged: int
    silenced: int
    no_match: Priced | None
    low_rate: Priced | None
    best: tuple[Priced, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""

        def point(found: Priced | None) -> dict[str, Any] | None:
            return None if found is None else found.to_json(self.measure)

        return {
            "measure": self.measure or None,
            "judged": self.judged,
            "silenced": self.silenced,
            "no_match": point(self.no_match),
            "fsr_below_quarter": point(self.low_rate),
            "pareto": [item.to_json(self.measure) for item in self.best],
        }


def utility_loss(measure: str, before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Return what a copy lost: accuracy, or the share that was added to perplexity; None where it is not known."""
    old, new = before.get(measure), after.get(measure)
    if old is None or new is None or not (isfinite(old) and isfinite(new)):
        return None
    if measure != PERPLEXITY:
        return old - new
    return new / old - 1 if old else None


def common_measure(attacks: Sequence[Priced]) -> str:
    """Return the measure of utility that tells of most attacks; empty where none was measured."""
    known = dict.fromkeys([*PREFERRED, *(name for attack in attacks for name in attack.after)])
    counted = {name: sum(attack.loss(name) is not None for attack in attacks) for name in known}
    best = max(counted, key=counted.__getitem__)
    return best if counted[best] else ""


def unbeaten(attacks: Sequence[Priced], measure: str) -> tuple[Priced, ...]:
    """Return the attacks that no other beats: whatever leaves less costs more; the cheapest first."""
    best: list[Priced] = []
    for attack in _by_loss(attacks, measure):
        if not best or attack.rate < best[-1].rate:
            best.append(attack)
    return tuple(best)


def find_frontier(attacks: Sequence[Priced]) -> Frontier:
    """Return what silence costs in a run.

    Args:
        attacks: every attack that was measured, guesses left out.
    """
    measure = common_measure(attacks)
    judged = [attack for attack in attacks if attack.verdict]
    silenced = [attack for attack in judged if attack.verdict == SILENCED]
    low = [attack for attack in attacks if attack.rate < LOW_RATE]
    return Frontier(
        measure=measure,
        judged=len(judged),
        silenced=len(silenced),
        no_match=next(iter(_by_loss(silenced, measure)), None),
        low_rate=next(iter(_by_loss(low, measure)), None),
        best=unbeaten(attacks, measure),
    )


def _by_loss(attacks: Sequence[Priced], measure: str) -> list[Priced]:
    """Return the attacks whose loss is known, the cheapest first; of equal ones what leaves least."""
    priced = [(loss, attack) for attack in attacks if (loss := attack.loss(measure)) is not None]
    return [attack for _, attack in sorted(priced, key=lambda item: (item[0], item[1].rate, item[1].number))]
