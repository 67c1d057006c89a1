import random
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fpvec_audit.domain import rank_test
from fpvec_audit.domain.rank_test import pairs_won, rank_sum_bound, rank_sum_p_value
from fpvec_audit.domain.statistics import hypergeometric_p_value

TIED_SCORES = st.one_of(st.none(), st.integers(-2, 2).map(Fraction), st.fractions(-1, 1, max_denominator=3))


def mid_ranks(scores):
    """Mid-ranks by their definition, apart from the tested code: 1 + lower ones + half of the other equal ones."""
    keys = [(score is not None, score if score is not None else 0) for score in scores]
    return [1 + sum(other < key for other in keys) + Fraction(keys.count(key) - 1, 2) for key in keys]


def share_of_subsets(scores, size):
    ranks = mid_ranks(scores)
    observed = sum(ranks[:size])
    sums = [sum(subset) for subset in combinations(ranks, size)]
    return Fraction(sum(total >= observed for total in sums), len(sums))


@settings(deadline=None)
@given(st.lists(TIED_SCORES, min_size=2, max_size=9), st.data())
def test_p_value_is_the_share_of_assignments_that_rank_as_high(scores, data):
    """Every subset is tried, with ties and missing scores."""
    size = data.draw(st.integers(1, len(scores) - 1))
    assert rank_sum_p_value(scores[:size], scores[size:]) == share_of_subsets(scores, size)


@pytest.mark.parametrize("size", [1, 3, 7, 12, 13])
def test_p_value_counts_subsets_where_either_side_is_the_smaller(size):
    scores = [Fraction(value) for value in random.Random(size).choices(range(9), k=14)]
    assert rank_sum_p_value(scores[:size], scores[size:]) == share_of_subsets(scores, size)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=40, unique=True), st.data())
@settings(deadline=None)
def test_p_value_agrees_with_scipy_without_ties(values, data):
    size = data.draw(st.integers(1, len(values) - 1))
    expected = stats.mannwhitneyu(values[:size], values[size:], alternative="greater", method="exact").pvalue
    result = rank_sum_p_value(
        [Fraction(value) for value in values[:size]], [Fraction(value) for value in values[size:]]
    )
    assert float(result) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.3])
def test_p_value_of_a_large_set_is_near_the_normal_approximation(shift):
    """Loosely: the approximation is off by a few per cent of itself where p is not small."""
    draw = random.Random(4)
    scores = [round(draw.gauss(shift if place < 32 else 0.0, 1.0), 2) for place in range(256)]
    expected = stats.mannwhitneyu(scores[:32], scores[32:], alternative="greater", method="asymptotic").pvalue
    exact = rank_sum_p_value([Fraction(score) for score in scores[:32]], [Fraction(score) for score in scores[32:]])
    assert float(exact) == pytest.approx(expected, rel=0.05)


@settings(deadline=None)
@given(st.data())
def test_two_values_give_the_exact_test(data):
    """Where the scores only say matched or not, both tests ask the same question."""
    issued, decoys = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 60))
    hits, others = data.draw(st.integers(0, issued)), data.draw(st.integers(0, decoys))
    ranked = rank_sum_p_value(
        [Fraction(1)] * hits + [None] * (issued - hits), [Fraction(1)] * others + [None] * (decoys - others)
    )
    assert ranked == hypergeometric_p_value(
        candidates=issued + decoys, issued=issued, matched=hits + others, issued_matched=hits
    )


def test_perfect_separation_has_the_smallest_p_value_there_is():
    low, high = [Fraction(value) for value in range(224)], [Fraction(value) for value in range(300, 332)]
    assert rank_sum_p_value(high, low) == Fraction(1, comb(256, 32))
    assert rank_sum_p_value(low, high) == 1
    assert rank_sum_p_value(high[:1], high[1:]) == 1


def test_scores_that_are_all_alike_or_all_missing_prove_nothing():
    assert rank_sum_p_value([Fraction(3)] * 4, [Fraction(3)] * 9) == 1
    assert rank_sum_p_value([None] * 4, [None] * 9) == 1
    assert rank_sum_p_value([], [Fraction(1)]) == rank_sum_p_value([Fraction(1)], []) == rank_sum_p_value([], []) == 1


def test_a_missing_score_ranks_below_every_score_there_is():
    lowest = Fraction(-(10**9))
    assert rank_sum_p_value([None], [lowest, lowest]) == 1
    assert rank_sum_p_value([lowest, Fraction(0)], [None, None, None]) == Fraction(1, comb(5, 2))
    assert rank_sum_p_value([lowest, None], [None, None]) == rank_sum_p_value([Fraction(1), None], [None, None])


@settings(deadline=None)
@given(st.lists(TIED_SCORES, min_size=2, max_size=14), st.data())
def test_an_issued_candidate_that_trades_places_with_a_better_decoy_never_raises_the_p_value(scores, data):
    """The ties stay the same: p is conditional on them, so only such comparisons are ordered."""
    size = data.draw(st.integers(1, len(scores) - 1))
    one, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(size, len(scores) - 1))
    traded = list(scores)
    traded[one], traded[other] = scores[other], scores[one]
    ranks = mid_ranks(scores)
    better, worse = (traded, scores) if ranks[other] > ranks[one] else (scores, traded)
    assert rank_sum_p_value(better[:size], better[size:]) <= rank_sum_p_value(worse[:size], worse[size:])


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=14, unique=True), st.data())
def test_raising_an_issued_score_never_raises_the_p_value_where_nothing_is_tied(values, data):
    size = data.draw(st.integers(1, len(values) - 1))
    raised = [Fraction(value) for value in values]
    raised[0] += data.draw(st.integers(0, 30)) + Fraction(1, 2)
    scores = [Fraction(value) for value in values]
    assert rank_sum_p_value(raised[:size], raised[size:]) <= rank_sum_p_value(scores[:size], scores[size:])


@settings(deadline=None)
@given(st.lists(st.fractions(-5, 5, max_denominator=4), min_size=2, max_size=24), st.data())
def test_only_the_order_of_the_scores_matters(scores, data):
    size = data.draw(st.integers(1, len(scores) - 1))
    bent = [score**3 + score for score in scores]
    assert rank_sum_p_value(bent[:size], bent[size:]) == rank_sum_p_value(scores[:size], scores[size:])
    among = data.draw(st.permutations(scores[:size]))
    assert rank_sum_p_value(among, scores[size:]) == rank_sum_p_value(scores[:size], scores[size:])


@given(st.lists(TIED_SCORES, min_size=1, max_size=8), st.lists(TIED_SCORES, min_size=1, max_size=8))
def test_pairs_won_counts_pairs_and_halves_ties(issued, decoys):
    ranks = mid_ranks(issued + decoys)
    pairs = [(one, other) for one in ranks[: len(issued)] for other in ranks[len(issued) :]]
    won = sum(Fraction((one > other) * 2 + (one == other), 2) for one, other in pairs)
    assert pairs_won(issued, decoys) == won / len(pairs)


def test_nobody_wins_where_one_side_is_empty():
    assert pairs_won([], [Fraction(1)]) == pairs_won([Fraction(1)], []) == Fraction(1, 2)


@settings(deadline=None)
@given(st.lists(TIED_SCORES, min_size=2, max_size=9), st.data())
def test_bound_is_never_below_the_share(scores, data):
    size = data.draw(st.integers(1, len(scores) - 1))
    assert share_of_subsets(scores, size) <= rank_sum_bound(scores[:size], scores[size:]) <= 1


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0, 9.0])
def test_bound_is_near_the_share_in_the_tail(shift):
    """In units of ten, which is what a verdict at 1e-6 needs; the factor grows with the root of the numbers."""
    source = random.Random(f"bound {shift}")
    issued = [Fraction(source.gauss(shift, 1)) for _ in range(32)]
    decoys = [Fraction(source.gauss(0, 1)) for _ in range(224)]
    exact, bound = rank_sum_p_value(issued, decoys), rank_sum_bound(issued, decoys)
    assert exact <= bound <= 300 * exact or (bound == 1 and exact > Fraction(1, 300))


def test_thousands_of_candidates_are_bounded_in_moderate_time():
    """330 keys of 55 marks beside 1,980 decoys: counting takes hours and gigabytes."""
    source = random.Random(5)
    issued = [Fraction(source.gauss(0.5, 1)) for _ in range(330)]
    decoys = [Fraction(source.gauss(0, 1)) for _ in range(1980)]
    p_value = rank_sum_p_value(issued, decoys)
    assert p_value == rank_sum_bound(issued, decoys)
    normal = stats.mannwhitneyu(list(map(float, issued)), list(map(float, decoys)), alternative="greater").pvalue
    assert normal < p_value < 1e4 * normal


def test_extremes_of_thousands_are_still_counted():
    issued, decoys = [Fraction(1)] * 330, [Fraction(0)] * 1980
    assert rank_sum_p_value(issued, decoys) == Fraction(1, comb(2310, 330))


def test_work_decides_between_counting_and_bounding(monkeypatch):
    issued, decoys = [Fraction(value) for value in (5, 9, 7)], [Fraction(value) for value in (1, 6, 8, 2)]
    counted = rank_sum_p_value(issued, decoys)
    monkeypatch.setattr(rank_test, "MOST_WORK", 0)
    assert counted < rank_sum_p_value(issued, decoys) == rank_sum_bound(issued, decoys)
