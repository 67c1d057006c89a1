"""The one-sided rank-sum test with its exact null distribution, ties included.

Every candidate has a score. Under H0 the scores do not depend on the assignment, so given the scores – with all their
ties – the issued candidates are a uniform subset, and the p-value is a share of subsets that can be counted. It is
counted here, in integers; nothing is approximated. Standard library only: whoever checks an audit runs this very file.

Source: F. Wilcoxon, Biometrics Bulletin 1 (1945) 80–83; the null given ties as in E. L. Lehmann, Nonparametrics (1975),
section 1.4.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from math import comb, gcd

Score = Fraction | None
"""A candidate's score; None where it has none, which counts as one common lowest value."""


def rank_sum_p_value(issued: Sequence[Score], decoys: Sequence[Score]) -> Fraction:
    """Return the probability that a random assignment ranks its issued candidates at least as high as this one.

    p = (subsets of all candidates, of the issued ones' number, whose mid-ranks sum to at least the observed sum) /
    (all such subsets). Only order and ties of the scores matter. 1 where either side is empty.

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
    if 2 * (highest - observed) <= highest - lowest:
        return Fraction(_subsets_near_top(ascending, len(issued), highest - observed), subsets)
    mirrored = [-rank for rank in reversed(ascending)]
    return 1 - Fraction(_subsets_near_top(mirrored, len(issued), observed - 1 - lowest), subsets)


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
