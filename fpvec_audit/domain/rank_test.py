"""The one-sided rank-sum test with its exact null distribution, ties included.

Every candidate has a score. Under H0 the scores do not depend on the assignment, so given the scores – with all their
ties – the issued candidates are a uniform subset, and the p-value is a share of subsets that can be counted. It is
counted here, in integers. Only where counting would take minutes and gigabytes, for some thousand candidates and no
extreme ranks, a bound stands in its place that is never below the share. Standard library only, and decimal arithmetic
rounds alike everywhere: whoever checks an audit runs this very file and gets these very numbers.

Source: F. Wilcoxon, Biometrics Bulletin 1 (1945) 80–83; the null given ties as in E. L. Lehmann, Nonparametrics (1975),
section 1.4; the bound is H. Chernoff's, Annals of Mathematical Statistics 23 (1952) 493–507.
"""

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from math import comb, gcd

Score = Fraction | None
"""A candidate's score; None where it has none, which counts as one common lowest value."""
MOST_WORK = 2 * 10**11
"""Bits that counting may pass through, some five seconds; beyond, subsets are bounded and not counted."""
_DIGITS, _SLACK = 30, Decimal("1e-12")
"""Decimal digits of the bound's arithmetic, and what its logarithm is raised by, far above all rounding in it."""
_NEWTON_STEPS = 12


def rank_sum_p_value(issued: Sequence[Score], decoys: Sequence[Score]) -> Fraction:
    """Return the probability that a random assignment ranks its issued candidates at least as high as this one.

    p = (subsets of all candidates, of the issued ones' number, whose mid-ranks sum to at least the observed sum) /
    (all such subsets). Only order and ties of the scores matter. 1 where either side is empty.
    What would take more than :data:`MOST_WORK` is bounded from above by :func:`rank_sum_bound` instead.

    Args:
        issued: scores of the issued candidates.
        decoys: scores of the others.
    """
    if not issued or not decoys:
        return Fraction(1)
    ranks = _doubled_ranks([*issued, *decoys])
    observed = sum(ranks[: len(issued)])
    ascending = sorted(ranks)
    lowest, highest = sum(ascending[: len(issued)]), sum(ascending[-len(issued) :])
    subsets = comb(len(ranks), len(issued))
    budget = min(highest - observed, observed - 1 - lowest)
    if _work(ascending, len(issued), budget, subsets) > MOST_WORK:
        return _bound(ascending, len(issued), observed, subsets)
    if 2 * (highest - observed) <= highest - lowest:
        return Fraction(_subsets_near_top(ascending, len(issued), highest - observed), subsets)
    mirrored = [-rank for rank in reversed(ascending)]
    return 1 - Fraction(_subsets_near_top(mirrored, len(issued), observed - 1 - lowest), subsets)


def rank_sum_bound(issued: Sequence[Score], decoys: Sequence[Score]) -> Fraction:
    """Return a number that the p-value of :func:`rank_sum_p_value` does not exceed, quickly for any numbers.

    For every t ≥ 0 and u, the subsets S of n ranks that have the size k and a sum of at least s number at most
    Σ_S e^(t·(Σ_S r − s) + u·(|S| − k)) over *all* S, which is e^(−t·s − u·k) · Π (1 + e^(t·r + u)). The t and u that
    make this least are looked for; any would do.

    Args:
        issued: scores of the issued candidates.
        decoys: scores of the others.
    """
    if not issued or not decoys:
        return Fraction(1)
    ranks = _doubled_ranks([*issued, *decoys])
    return _bound(sorted(ranks), len(issued), sum(ranks[: len(issued)]), comb(len(ranks), len(issued)))


def pairs_won(issued: Sequence[Score], decoys: Sequence[Score]) -> Fraction:
    """Return the share of (issued, decoy) pairs in which the issued candidate scores higher; a tie counts half.

    The statistic of :func:`rank_sum_p_value` in words: 1/2 is what chance gives on average, and what is returned where
    either side is empty.
    """
    if not issued or not decoys:
        return Fraction(1, 2)
    doubled = sum(_doubled_ranks([*issued, *decoys])[: len(issued)])
    return Fraction(doubled - len(issued) * (len(issued) + 1), 2 * len(issued) * len(decoys))


def _doubled_ranks(scores: Iterable[Score]) -> list[int]:
    """Return twice the mid-rank of each score, in the order given: whole numbers, whatever the ties."""
    keys = [(score is not None, score or Fraction(0)) for score in scores]
    ranks = [0] * len(keys)
    below = 0
    for _, tied in groupby(sorted(range(len(keys)), key=keys.__getitem__), key=keys.__getitem__):
        places = list(tied)
        for place in places:
            ranks[place] = 2 * below + len(places) + 1
        below += len(places)
    return ranks


def _work(ascending: Sequence[int], size: int, budget: int, subsets: int) -> int:
    """Return about how many bits :func:`_ways_by_what_is_left` passes through."""
    unit = gcd(*(rank - ascending[0] for rank in ascending)) or 1
    smaller = min(size, len(ascending) - size)
    return len(ascending) * smaller * max(0, budget) // unit * subsets.bit_length()


def _bound(ascending: Sequence[int], size: int, observed: int, subsets: int) -> Fraction:
    count = len(ascending)
    if observed * count <= size * sum(ascending):
        return Fraction(1)  # no higher than chance gives on average, where no t > 0 helps
    with localcontext(Context(prec=_DIGITS)) as context:
        mean, spread = Decimal(sum(ascending)) / count, Decimal(ascending[-1] - ascending[0])
        ranks = [(rank - mean) / spread for rank in ascending]
        wanted = (observed - size * mean) / spread
        t, u = Decimal(0), (Decimal(size) / (count - size)).ln()
        best = Decimal(0)
        for _ in range(_NEWTON_STEPS):
            grown = [(t * rank + u).exp() for rank in ranks]
            value = sum(((1 + one).ln() for one in grown), Decimal(0)) - t * wanted - u * size - Decimal(subsets).ln()
            best = min(best, value)
            t, u = _newton(ranks, grown, t, u, wanted, size)
        context.prec, context.rounding = 6, ROUND_CEILING
        return min(Fraction(1), Fraction((best + _SLACK).exp() * Decimal("1.00001")))


def _newton(
    ranks: Sequence[Decimal], grown: Sequence[Decimal], t: Decimal, u: Decimal, wanted: Decimal, size: int
) -> tuple[Decimal, Decimal]:
    """Return where the bound is less: the next t and u by Newton's method."""
    shares = [one / (1 + one) for one in grown]
    weights = [share * (1 - share) for share in shares]
    by_t = sum((share * rank for share, rank in zip(shares, ranks, strict=True)), Decimal(0)) - wanted
    by_u = sum(shares, Decimal(0)) - size
    uu = sum(weights, Decimal(0))
    tu = sum((weight * rank for weight, rank in zip(weights, ranks, strict=True)), Decimal(0))
    tt = sum((weight * rank * rank for weight, rank in zip(weights, ranks, strict=True)), Decimal(0))
    determinant = tt * uu - tu * tu
    if determinant <= 0:
        return t, u
    step = max(abs(uu * by_t - tu * by_u), abs(tt * by_u - tu * by_t)) / determinant
    shorter = min(Decimal(1), 10 / step) if step else Decimal(1)  # the farthest jump that still converges from afar
    moved = t - shorter * (uu * by_t - tu * by_u) / determinant
    return max(Decimal(0), moved), u - shorter * (tt * by_u - tu * by_t) / determinant


def _subsets_near_top(ascending: Sequence[int], size: int, budget: int) -> int:
    """Count the subsets of ``size`` ranks whose sum is at most ``budget`` below the greatest possible sum.

    The complement of such a subset is at most ``budget`` above the least possible sum, so whichever of the two is
    smaller is built up.
    """
    if budget < 0:
        return 0
    if 2 * size <= len(ascending):
        from_bottom = [ascending[-1] - rank for rank in reversed(ascending)]
    else:
        from_bottom, size = [rank - ascending[0] for rank in ascending], len(ascending) - size
    unit = gcd(*from_bottom) or 1
    ranks = tuple(rank // unit for rank in from_bottom)
    budget //= unit
    reach = sum(ranks[-size:]) - sum(ranks[:size])
    while reach // 2 >= budget and reach:
        reach //= 2
    width = comb(len(ranks), size).bit_length() + 1  # no count, nor the sum of all, reaches 2^width − 1
    enough = _ways_by_what_is_left(ranks, size, reach, width) >> width * (reach - budget)
    return enough % ((1 << width) - 1)  # 2^width ≡ 1, so this is the sum of the counts


@lru_cache(maxsize=8)  # scores without ties have the same null in every key set of a trace
def _ways_by_what_is_left(ranks: tuple[int, ...], size: int, budget: int, width: int) -> int:
    """Count the subsets of ``size`` ranks by what they leave of the budget.

    A subset costs what its sum exceeds the least possible sum by. Ranks are taken or passed over from the lowest on,
    and the next ones are reckoned as all taken: taking one is then free, and passing one over costs the difference to
    the rank that replaces it. For each number of ranks taken so far, the counts for every rest of the budget lie side
    by side in one big integer, so spending is a shift to the right, and what overspends falls off the end.

    Args:
        ranks: ascending, the lowest 0.
        size: of the subsets.
        budget: the most that a subset may cost.
        width: bits for each count.

    Returns:
        Σ (subsets that leave r) · 2^(width·r) over r = 0 … ``budget``.
    """
    ways = [1 << width * budget] + [0] * size
    for place in range(len(ranks)):
        for taken in range(min(place + 1, size), -1, -1):
            replacement = place + size - taken
            passed = 0
            if replacement < len(ranks):
                passed = ways[taken] >> width * (ranks[replacement] - ranks[place])
            ways[taken] = passed + (ways[taken - 1] if taken else 0)
    return ways[size]
