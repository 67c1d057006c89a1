from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.cost import Cost, MethodCost, crossover, mean_cost


def method(once, each, **more):
    return MethodCost("m", Cost(once, 2 * once, 100), Cost(each, each, 70), **more)


def test_times_add_up_and_of_peaks_the_larger_counts():
    assert Cost(1, 2, 30, 4) + Cost(10, 20, 3, 40) == Cost(11, 22, 30, 40)
    assert Cost(1, 2, 30, 4).times(3) == Cost(3, 6, 30, 4)
    assert mean_cost([Cost(1, 4, 30, 0), Cost(3, 2, 10, 5)]) == Cost(2, 3, 30, 5)


def test_many_models_cost_what_is_done_once_and_so_many_times_the_rest():
    assert method(100, 1).of(10) == Cost(110, 210, 100)


def test_what_was_not_measured_is_said_to_be_extrapolated():
    document = method(100, 1, measured=10).to_json()
    assert [(item["models"], item["seconds"], item["extrapolated"]) for item in document["models"]] == [
        (1, 101, False), (10, 110, False), (100, 200, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "models"),
    [
        ((100, 1), (0, 30), 4),  # 104 against 120; at three models 103 against 90
        ((100, 10), (0, 30), 6),  # at five models both cost 150
        ((0, 30), (100, 1), None),  # cheaper at first, but not for good
        ((0, 1), (5, 2), 1),
        ((0, 2), (5, 2), 1),
        ((5, 2), (5, 2), None),
        ((5, 2), (0, 2), None),
    ],
)
def test_crossover_is_where_a_method_becomes_the_cheaper_one_for_good(first, second, models):
    assert crossover(method(*first), method(*second)) == models


@given(*[st.integers(0, 1000)] * 4)
def test_crossover_solves_the_inequality(once, each, other_once, other_each):
    found = crossover(method(once, each), method(other_once, other_each))

    def cheaper(models):
        return Fraction(once) + models * each < other_once + models * other_each

    if found is None:
        assert not cheaper(10**6)
    else:
        assert all(cheaper(models) for models in (found, found + 1, 10**6))
        assert found == 1 or not cheaper(found - 1)


def test_crossover_of_another_quantity():
    assert crossover(method(100, 1), method(0, 30), quantity="device_seconds") == 7
