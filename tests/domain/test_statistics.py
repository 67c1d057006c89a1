from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fpvec_audit.domain.statistics import (
    binomial_at_most,
    clopper_pearson,
    holm,
    hypergeometric_p_value,
    lower_bound,
    mcnemar_p_value,
    upper_bound,
)


def p_value(candidates, issued, matched, issued_matched):
    return hypergeometric_p_value(candidates=candidates, issued=issued, matched=matched, issued_matched=issued_matched)


@pytest.mark.parametrize(("candidates", "issued"), [(6, 2), (7, 3), (8, 4)])
def test_exact_test_counts_assignments(candidates, issued):
    """Every assignment is tried: the p-value is the share of those with at least as many matches."""
    assignments = list(combinations(range(candidates), issued))
    for matched in range(candidates + 1):
        hits = [sum(index < matched for index in assignment) for assignment in assignments]
        for observed in set(hits):
            share = Fraction(sum(hit >= observed for hit in hits), len(assignments))
            assert p_value(candidates, issued, matched, observed) == share


@pytest.mark.parametrize("issued", [1, 5, 16])
@pytest.mark.parametrize("alpha", [Fraction(1, 100), Fraction(1, 1000), Fraction(1, 10**6)])
def test_exact_test_accuses_the_innocent_at_most_as_often_as_it_says(issued, alpha):
    for candidates in (issued + 1, 30, 40):
        for matched in range(candidates + 1):
            error = Fraction(0)
            for hits in range(max(0, matched - (candidates - issued)), min(issued, matched) + 1):
                if p_value(candidates, issued, matched, hits) <= alpha:
                    error += Fraction(
                        comb(issued, hits) * comb(candidates - issued, matched - hits), comb(candidates, matched)
                    )
            assert error <= alpha


@given(st.data())
def test_exact_test_agrees_with_scipy(data):
    candidates = data.draw(st.integers(2, 300))
    issued = data.draw(st.integers(1, candidates))
    matched = data.draw(st.integers(0, candidates))
    hits = data.draw(st.integers(max(0, matched - (candidates - issued)), min(issued, matched)))
    expected = stats.hypergeom.sf(hits - 1, candidates, issued, matched)
    assert float(p_value(candidates, issued, matched, hits)) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_smallest_p_values_of_the_default_sizes():
    assert p_value(256, 32, 32, 32) == Fraction(1, comb(256, 32))
    assert float(p_value(256, 32, 32, 32)) == pytest.approx(2e-41, rel=0.2)
    assert p_value(256, 32, 7, 7) <= Fraction(1, 10**6) < p_value(256, 32, 6, 6)
    assert p_value(256, 32, 10, 8) <= Fraction(1, 10**6) < p_value(256, 32, 9, 7)


@pytest.mark.parametrize("counts", [(10, 11, 1, 1), (10, 5, 3, 4), (10, 5, 11, 5), (10, 5, 8, 2), (10, 5, 3, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="impossible counts"):
        p_value(*counts)


def test_holm_steps_down():
    given_values = [Fraction(4, 100), Fraction(1, 100), Fraction(3, 100)]
    assert holm(given_values) == (Fraction(6, 100), Fraction(3, 100), Fraction(6, 100))
    assert holm([]) == ()
    assert holm([Fraction(9, 10), Fraction(8, 10)]) == (1, 1)


@given(st.lists(st.fractions(0, 1), min_size=1, max_size=6))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(values):
    adjusted = holm(values)
    assert all(value <= after <= 1 for value, after in zip(values, adjusted, strict=True))
    assert adjusted[values.index(min(values))] == min(1, min(values) * len(values))
    for one, after_one in zip(values, adjusted, strict=True):
        assert all(after_one <= after for other, after in zip(values, adjusted, strict=True) if one < other)


@given(st.integers(1, 400), st.data())
def test_clopper_pearson_agrees_with_scipy(trials, data):
    successes = data.draw(st.integers(0, trials))
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_bounds_of_all_and_none_have_closed_forms():
    assert clopper_pearson(10, 10)[0] == pytest.approx(0.6915, abs=1e-4)
    assert upper_bound(0, 32) == pytest.approx(1 - 0.05 ** (1 / 32))
    assert lower_bound(32, 32) == pytest.approx(0.05 ** (1 / 32))
    assert (lower_bound(0, 5), upper_bound(5, 5)) == (0.0, 1.0)


def test_bounds_cover_as_often_as_they_say():
    """P(bound < true share) ≤ 5 %, summed exactly over all outcomes."""
    for share in np.linspace(0.05, 0.95, 7):
        chances = stats.binom.pmf(range(21), 20, share)
        assert sum(chance for hits, chance in enumerate(chances) if upper_bound(hits, 20) < share) <= 0.05 + 1e-9
        assert sum(chance for hits, chance in enumerate(chances) if lower_bound(hits, 20) > share) <= 0.05 + 1e-9


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(successes, trials):
    for bound in (upper_bound, lower_bound, clopper_pearson):
        with pytest.raises(ValueError, match="no proportion"):
            bound(successes, trials)


@given(st.integers(1, 500), st.data(), st.floats(0, 1))
def test_binomial_tail_agrees_with_scipy(trials, data, share):
    successes = data.draw(st.integers(0, trials))
    assert binomial_at_most(successes, trials, share) == pytest.approx(
        stats.binom.cdf(successes, trials, share), abs=1e-9
    )


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(gained, lost):
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert float(mcnemar_p_value(gained, lost)) == pytest.approx(expected, rel=1e-9)
