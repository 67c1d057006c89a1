"""How much worse the second of two paired proportions can be: tests and bounds that hold their level exactly.

Every item is lost (only the first model got it right), gained (only the second did) or the same for both. With
P(lost) + P(gained) = ψ and P(lost) − P(gained) = δ, the *loss*, D = lost − gained is a sum of n independent
X ∈ {−1, 0, +1}, and H0: δ ≥ margin is rejected where D is small. ψ is a nuisance. Three facts bound it away:

1. With probability 1 − β, ψ is at most its upper Clopper–Pearson bound ψ⁺ (lost + gained is binomial). Adding β to the
   largest tail probability over all ψ ≤ ψ⁺ gives a valid p-value (Berger and Boos).
2. At a fixed ψ, P(D ≤ d) falls as δ grows, so δ = margin is the worst case of H0.
3. At a fixed δ, dP(D ≤ d)/dψ = n/2 · (f(d + 1) − f(d)) with f the probabilities of n − 1 items. For ψ ≤ 1/2 the
   generating function has real roots, so f is unimodal with its mode at ⌊(n − 1)δ⌋ or the next integer (Darroch), and
   P(D ≤ d) grows with ψ wherever d + 1 ≤ ⌊(n − 1)δ⌋. The largest tail probability is then the one at ψ⁺.

Outside the reach of 3 the bound is cruder and still a bound: 1 where d is near or above its expectation, Hoeffding's
inequality where ψ⁺ > 1/2. So the level holds for every n, ψ and δ; docs/harmlessness.md shows what that costs.

Source: Berger and Boos, JASA 89 (1994) 1012–1016; Darroch, Annals of Mathematical Statistics 35 (1964) 1317–1321.
"""

from collections.abc import Callable
from math import exp, floor, lgamma, log, log1p

NUISANCE = 1e-3
"""β: probability with which the bound of ψ may fail. A smaller one would widen the bounds of few items much."""

HARM_NUISANCE = 1e-5
"""β of tests whose p-values are corrected for many tasks: no p-value is below it."""

_STEPS = 30
_LARGE = 1e250


def loss_at_least_p_value(lost: int, gained: int, items: int, *, margin: float, nuisance: float = NUISANCE) -> float:
    """Return the p-value of H0: the loss is ``margin`` or more. A small one says that it is less.

    Args:
        lost: items that only the first model got right.
        gained: items that only the second got right.
        items: all items.
        margin: loss under H0, in [−1, 1].
        nuisance: β, in (0, 1).

    Raises:
        ValueError: impossible counts.
    """
    _check(lost, gained, items)
    most = binomial_upper_bound(lost + gained, items, tail=nuisance)
    return min(1.0, nuisance + _largest_tail(lost - gained, items, margin, most))


def loss_at_most_p_value(lost: int, gained: int, items: int, *, margin: float) -> float:
    """Return the p-value of H0: the loss is ``margin`` or less. A small one says that it is more.

    Args and Raises: as :func:`loss_at_least_p_value`.
    """
    return loss_at_least_p_value(gained, lost, items, margin=-margin, nuisance=HARM_NUISANCE)


def loss_upper_bound(lost: int, gained: int, items: int, *, tail: float = 0.05) -> float:
    """Return the one-sided upper confidence bound of the loss, in [−1, 1].

    It is the smallest margin that is rejected at ``tail``, to within 3e-9 and rounded up.

    Args:
        lost: items that only the first model got right.
        gained: items that only the second got right.
        items: all items.
        tail: probability of a bound below the true loss, at most; more than :data:`NUISANCE`.

    Raises:
        ValueError: impossible counts, or a tail that is too small.
    """
    _check(lost, gained, items)
    if not NUISANCE < tail < 1:
        raise ValueError(f"a tail of {tail} is not to be had")
    most = binomial_upper_bound(lost + gained, items, tail=NUISANCE)
    allowed = tail - NUISANCE
    return _last(lambda margin: _largest_tail(lost - gained, items, margin, most) > allowed, -1.0, 1.0)


def difference_interval(lost: int, gained: int, items: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided interval of the difference (second − first), each tail (1 − confidence)/2.

    Args:
        lost: items that only the first model got right.
        gained: items that only the second got right.
        items: all items.
        confidence: probability that the interval holds the true difference, at least.
    """
    tail = (1 - confidence) / 2
    return -loss_upper_bound(lost, gained, items, tail=tail), loss_upper_bound(gained, lost, items, tail=tail)


def paired_sum_at_most(total: int, items: int, *, loss: float, discordant: float) -> float:
    """Return P(D ≤ total) for D the sum of ``items`` independent X ∈ {−1, 0, +1}.

    The coefficients of a power of a trinomial follow one another by a recurrence of three terms, all of them positive
    below the middle one, so nothing is lost to cancellation.

    Args:
        total: the value of D.
        items: number of summands.
        loss: δ = P(+1) − P(−1), |δ| ≤ ψ.
        discordant: ψ = P(+1) + P(−1), in [0, 1].
    """
    if total < -items:
        return 0.0
    if total >= items:
        return 1.0
    if total >= 0:  # beyond the middle the terms change sign: count from the other end
        return max(0.0, 1.0 - paired_sum_at_most(-total - 1, items, loss=-loss, discordant=discordant))
    down, up = max(0.0, (discordant - loss) / 2), max(0.0, (discordant + loss) / 2)
    if down <= 0.0:
        return 0.0  # D cannot be negative
    same, shift = 1.0 - discordant, items * log(down)
    before, coefficient, summed = 0.0, 1.0, 1.0  # of z^(j−1), of z^j, of all up to j; times exp(shift)
    for place in range(items + total):
        following = ((items - place) * same * coefficient + (2 * items - place + 1) * up * before) / (
            down * (place + 1)
        )
        before, coefficient = coefficient, following
        summed += coefficient
        if summed > _LARGE:
            before, coefficient, summed, shift = before / summed, coefficient / summed, 1.0, shift + log(summed)
    return min(1.0, exp(shift + log(summed)))


def binomial_upper_bound(successes: int, trials: int, *, tail: float) -> float:
    """Return the one-sided upper Clopper–Pearson bound, for as many trials as there are, in floating point."""
    if successes >= trials:
        return 1.0
    return _last(lambda share: _binomial_at_most(successes, trials, share) > tail, successes / trials, 1.0)


def _largest_tail(total: int, items: int, margin: float, most: float) -> float:
    """Return the largest P(D ≤ total) over all ψ ≤ ``most`` and δ ≥ ``margin``, or a bound of it."""
    if margin > most:  # so much loss takes more disagreement than there is
        return 0.0
    loss = max(margin, -most)
    if total + 1 > floor((items - 1) * loss):
        return 1.0
    if most > 0.5:
        return exp(-((items * loss - total) ** 2) / (2 * items))
    return paired_sum_at_most(total, items, loss=loss, discordant=most)


def _binomial_at_most(successes: int, trials: int, share: float) -> float:
    """Return P(X ≤ successes), summed downwards until nothing is added; for a share above successes/trials."""
    if share <= 0.0 or share >= 1.0:
        return 1.0 if share <= 0.0 else 0.0
    choices = lgamma(trials + 1) - lgamma(successes + 1) - lgamma(trials - successes + 1)
    term = exp(choices + successes * log(share) + (trials - successes) * log1p(-share))
    summed, odds = term, (1 - share) / share
    for hits in range(successes, 0, -1):
        term *= hits / (trials - hits + 1) * odds
        summed += term
        if term < summed * 1e-16:
            break
    return min(1.0, summed)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that holds for small values ends, rounded up."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def _check(lost: int, gained: int, items: int) -> None:
    if items < 1 or lost < 0 or gained < 0 or lost + gained > items:
        raise ValueError(f"{lost} lost and {gained} gained of {items} are impossible counts")
