"""Bounds of a loss: against plain convolution, and their level by going through all outcomes."""

from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.noninferiority import (
    binomial_upper_bound,
    difference_interval,
    loss_at_least_p_value,
    loss_at_most_p_value,
    loss_upper_bound,
    paired_sum_at_most,
)
from fpvec_audit.domain.statistics import upper_bound


def convolved(items, *, loss, discordant):
    """Return P(D = d) for d = −items … items in exact fractions."""
    down, up = (discordant - loss) / 2, (discordant + loss) / 2
    row = [Fraction(1)]
    for _ in range(items):
        longer = [Fraction(0)] * (len(row) + 2)
        for place, chance in enumerate(row):
            for step, weight in enumerate((down, 1 - discordant, up)):
                longer[place + step] += chance * weight
        row = longer
    return row


def outcomes(items, *, loss, discordant):
    """Yield (lost, gained, probability) of every outcome."""
    down, up, same = (discordant - loss) / 2, (discordant + loss) / 2, 1 - discordant
    for lost, gained in product(range(items + 1), repeat=2):
        rest = items - lost - gained
        if rest >= 0:
            ways = comb(items, lost) * comb(items - lost, gained)
            yield lost, gained, ways * up**lost * down**gained * same**rest


@pytest.mark.parametrize("loss", [Fraction(-1, 5), Fraction(0), Fraction(1, 20), Fraction(1, 4)])
@pytest.mark.parametrize("discordant", [Fraction(1, 4), Fraction(3, 5), Fraction(1)])
def test_tail_is_that_of_plain_convolution(loss, discordant):
    chances = convolved(14, loss=loss, discordant=discordant)
    for total in range(-15, 16):
        exact = float(sum(chances[: max(0, total + 15)]))
        assert paired_sum_at_most(total, 14, loss=float(loss), discordant=float(discordant)) == pytest.approx(
            exact, rel=1e-9, abs=1e-13
        )


def test_tail_of_many_items_neither_overflows_nor_drifts():
    from scipy.stats import norm

    items, loss, discordant = 40_000, 0.03, 0.08
    spread = (items * (discordant - loss**2)) ** 0.5
    total = round(items * loss - 2 * spread)
    found = paired_sum_at_most(total, items, loss=loss, discordant=discordant)
    assert found == pytest.approx(norm.cdf((total + 0.5 - items * loss) / spread), rel=0.02)


@pytest.mark.parametrize(("successes", "trials"), [(0, 50), (3, 40), (320, 4000), (39, 40), (40, 40)])
def test_bound_of_the_nuisance_is_clopper_and_pearsons(successes, trials):
    assert binomial_upper_bound(successes, trials, tail=1e-4) == pytest.approx(
        upper_bound(successes, trials, tail=1e-4), abs=1e-8
    )


@pytest.mark.parametrize("items", [1, 2, 7, 25, 60])
@pytest.mark.parametrize("discordant", [0.0301, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_level_holds_exactly_when_the_loss_is_the_margin(items, discordant):
    """No simulation: the probability of every outcome that would be called harmless, or harmful, is added up."""
    margin = 0.03
    called = {"harmless": 0.0, "harmful": 0.0}
    for lost, gained, chance in outcomes(items, loss=margin, discordant=discordant):
        if chance > 1e-12:
            called["harmless"] += chance * (loss_at_least_p_value(lost, gained, items, margin=margin) <= 0.05)
            called["harmful"] += chance * (loss_at_most_p_value(lost, gained, items, margin=margin) <= 0.05)
    assert max(called.values()) <= 0.05


counts = st.integers(1, 400).flatmap(
    lambda items: st.tuples(st.integers(0, items), st.just(items)).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.integers(0, pair[1] - pair[0]), st.just(pair[1]))
    )
)


@given(counts)
def test_bound_is_where_the_test_turns_and_the_interval_holds_the_estimate(drawn):
    lost, gained, items = drawn
    bound = loss_upper_bound(lost, gained, items)
    if bound < 1:
        assert loss_at_least_p_value(lost, gained, items, margin=bound) <= 0.05
    assert loss_at_least_p_value(lost, gained, items, margin=bound - 1e-6) > 0.05
    low, high = difference_interval(lost, gained, items)
    assert -1 <= low <= (gained - lost) / items <= high <= 1
    assert -bound >= low - 1e-6


@given(counts)
def test_losing_one_item_more_never_lowers_the_bound(drawn):
    lost, gained, items = drawn
    if gained:
        assert loss_upper_bound(lost + 1, gained - 1, items) >= loss_upper_bound(lost, gained, items) - 1e-7


@given(counts)
def test_intervals_mirror_each_other(drawn):
    lost, gained, items = drawn
    low, high = difference_interval(lost, gained, items)
    assert difference_interval(gained, lost, items) == pytest.approx((-high, -low))


def test_equal_models_are_told_harmless_by_enough_items_only():
    assert loss_upper_bound(0, 0, 2000) < 0.03
    assert loss_upper_bound(0, 0, 50) > 0.03


@pytest.mark.parametrize(("lost", "gained", "items"), [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(lost, gained, items):
    with pytest.raises(ValueError, match="impossible counts"):
        loss_upper_bound(lost, gained, items)
