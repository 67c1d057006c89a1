"""Exact statistics in integers and fractions: no normal approximation, no simulation.

The tests are ours because a verdict must be recomputable from first principles; their results are compared with
scipy's in the tests.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb


def hypergeometric_p_value(*, candidates: int, issued: int, matched: int, issued_matched: int) -> Fraction:
    """Return the probability that chance alone gives at least this many matches on issued candidates.

    Given ``matched`` matches among all candidates, the issued ones are a uniform subset under H0, so their matches
    are hypergeometric: p = Σ_{h ≥ H} C(n,h)·C(N−n,T−h) / C(N,T).

    Args:
        candidates: N, all that were asked.
        issued: n, how many of them are issued.
        matched: T, matches among all.
        issued_matched: H, matches among the issued.
    """
    decoys = candidates - issued
    if not (0 <= issued_matched <= min(issued, matched) and 0 <= matched - issued_matched <= decoys):
        raise ValueError(f"impossible counts N={candidates} n={issued} T={matched} H={issued_matched}")
    ways = sum(
        comb(issued, hits) * comb(decoys, matched - hits) for hits in range(issued_matched, min(issued, matched) + 1)
    )
    return Fraction(ways, comb(candidates, matched))


def holm(p_values: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Return Holm's step-down adjusted p-values, in the order given.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65–70.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [Fraction(1)] * len(p_values)
    running = Fraction(0)
    for rank, place in enumerate(order):
        running = max(running, min(Fraction(1), p_values[place] * (len(p_values) - rank)))
        adjusted[place] = running
    return tuple(adjusted)


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided Clopper–Pearson interval of a proportion (each tail (1 − confidence)/2).

    Source: Clopper and Pearson, Biometrika 26 (1934) 404–413; found by bisection on the binomial tails.
    """
    tail = (1.0 - confidence) / 2.0
    return lower_bound(successes, trials, tail=tail), upper_bound(successes, trials, tail=tail)


def upper_bound(successes: int, trials: int, *, tail: float = 0.05) -> float:
    """Return the one-sided upper Clopper–Pearson bound: the share at which seeing so few has probability ``tail``."""
    _check(successes, trials)
    if successes == trials:
        return 1.0
    return _bisect(lambda share: binomial_at_most(successes, trials, share) > tail)


def lower_bound(successes: int, trials: int, *, tail: float = 0.05) -> float:
    """Return the one-sided lower Clopper–Pearson bound: the share at which seeing so many has probability ``tail``."""
    _check(successes, trials)
    if successes == 0:
        return 0.0
    return _bisect(lambda share: 1.0 - binomial_at_most(successes - 1, trials, share) < tail)


def binomial_at_most(successes: int, trials: int, share: float) -> float:
    """Return P(X ≤ successes) for X ~ Binomial(trials, share)."""
    _check(0, trials)
    # In integers, by Horner's rule: share = part/whole exactly, so the sum is exact and is rounded once, at the end.
    part, whole = share.as_integer_ratio()
    rest = whole - part
    last = min(successes, trials)
    ways, power, choices = 0, 1, 1  # Σ C(n,h)·part^h·rest^(last−h), part^h, C(n,h)
    for hits in range(last + 1):
        ways = ways * rest + choices * power
        power *= part
        choices = choices * (trials - hits) // (hits + 1)
    numerator: int = ways * rest ** (trials - last)
    denominator: int = whole**trials
    return numerator / denominator


def mcnemar_p_value(gained: int, lost: int) -> Fraction:
    """Return the exact two-sided McNemar p-value from the numbers of discordant pairs.

    Args:
        gained: items only the second side got right.
        lost: items only the first side got right.
    """
    discordant = gained + lost
    tail = sum(comb(discordant, hits) for hits in range(min(gained, lost) + 1))
    return min(Fraction(1), Fraction(2 * tail, 2**discordant))


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no proportion")
