"""How sure one may be that a difference between two models holds a carrier.

H0: the difference δ is independent of the carrier's signs s, fair coin tosses for who does not know the secret. Then
z = ⟨h(δ), s⟩ / ‖h(δ)‖₂ has P(z ≥ x) ≤ exp(−x²/2) for x > 0, for every δ and every h that does not look at s: no bell
curve, no large number of elements is needed.

Source: Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58 (1963), theorem 2.

p-values are held as decimal logarithms, since those of a real copy are far below what a float can hold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

LEAST_P = 1e-300
"""What a p-value that no float can hold is given as."""


def carrier_z(product: int, square: int) -> float:
    """Return z of one carrier.

    Args:
        product: Σ h(δ)·s.
        square: Σ h(δ)².
    """
    return product / math.sqrt(square) if square else 0.0


def log10_p(z: float) -> float:
    """Return the decimal logarithm of exp(−z²/2), 0 for z ≤ 0: a bound on the chance of a z as large under H0."""
    return -z * z / 2 / math.log(10) if z > 0 else 0.0


def p_of(logarithm: float) -> float:
    """Return a p-value from its decimal logarithm, no smaller than ``LEAST_P``."""
    return max(10.0**logarithm, LEAST_P) if logarithm > math.log10(LEAST_P) else LEAST_P


@dataclass(frozen=True, slots=True)
class CarrierFinding:
    """What a reading says of one carrier.

    Attributes:
        licensee: whose it is; empty for the owner's own.
        z: in standard deviations of what chance would give, at most.
        log10_p: decimal logarithm of p.
        log10_p_corrected: the same, corrected for how many were asked about and for the owner's choice of the secret.
        present: whether that is at most α.
    """

    licensee: str
    z: float
    log10_p: float
    log10_p_corrected: float
    present: bool

    def to_json(self) -> dict[str, float | str | bool | None]:
        """Return the JSON object that scripts read."""
        return {
            "licensee": self.licensee or None,
            "z": self.z,
            "p_value": p_of(self.log10_p),
            "p_value_corrected": p_of(self.log10_p_corrected),
            "log10_p": self.log10_p,
            "present": self.present,
        }


def judged(
    owner: float, licensees: Mapping[str, float], *, alpha: float, allowance: int = 1
) -> tuple[CarrierFinding, tuple[CarrierFinding, ...]]:
    """Judge the owner's own carrier first, and then those of all licensees together by Holm's correction.

    The chance of calling any carrier present that δ is independent of is at most α for the owner's own, and at most α
    for all licensees' together.

    Args:
        owner: z of the owner's own carrier.
        licensees: z by licensee.
        alpha: significance level.
        allowance: every p is multiplied by it: how many secrets an owner could have tried, 1 where it could not.

    Returns:
        the owner's own, and the licensees', the likeliest first.
    """
    grinding = math.log10(allowance)
    found = []
    highest = -math.inf
    for rank, (name, z) in enumerate(sorted(licensees.items(), key=lambda item: (-item[1], item[0]))):
        highest = max(highest, log10_p(z) + math.log10(len(licensees) - rank) + grinding)
        found.append(_finding(name, z, highest, alpha))
    return _finding("", owner, log10_p(owner) + grinding, alpha), tuple(found)


def _finding(licensee: str, z: float, corrected: float, alpha: float) -> CarrierFinding:
    corrected = min(0.0, corrected)
    return CarrierFinding(licensee, z, log10_p(z), corrected, corrected <= math.log10(alpha))
