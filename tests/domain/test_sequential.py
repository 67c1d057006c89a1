import random
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.sequential import GRID, SequentialTest, sequential_p_value


@cache
def opened(candidates, issued, outcomes):
    """Return the test after these (matched, issued) outcomes, of which nothing more is asked."""
    test = SequentialTest(candidates=candidates, issued=issued)
    for matched, is_issued in outcomes:
        test.step(matched=bool(matched), issued=bool(is_issued))
    return test


@cache
def e_value(candidates, issued, outcomes):
    return opened(candidates, issued, outcomes).e_value


def e_by_definition(candidates, issued, outcomes):
    """The formula as it stands in the literature, in plain fractions."""
    total = Fraction(0)
    for on_issued, on_decoys in GRID:
        fortune, seen = Fraction(1), 0
        for asked, (matched, is_issued) in enumerate(outcomes):
            share = Fraction(issued - seen, candidates - asked)
            if_issued, if_decoy = (on_issued, on_decoys) if matched else (1 - on_issued, 1 - on_decoys)
            fortune *= (if_issued if is_issued else if_decoy) / (share * if_issued + (1 - share) * if_decoy)
            seen += is_issued
        total += fortune
    return total / len(GRID)


def assignments(candidates, issued):
    for chosen in combinations(range(candidates), issued):
        yield tuple(int(place in chosen) for place in range(candidates))


def drawn_outcomes(candidates, issued, *, hit_rate=0.9, decoy_rate=0.02, seed=0):
    draw = random.Random(seed)
    assignment = [place < issued for place in range(candidates)]
    draw.shuffle(assignment)
    return [(draw.random() < (hit_rate if is_issued else decoy_rate), is_issued) for is_issued in assignment]


def test_the_grid_is_every_believable_pair():
    assert len(GRID) == 19
    assert all(on_issued > on_decoys for on_issued, on_decoys in GRID)
    assert (Fraction("0.15"), Fraction("0.2")) not in GRID
    assert GRID[0] == (Fraction("0.15"), Fraction("0.002"))
    assert GRID[-1] == (Fraction("0.95"), Fraction("0.2"))


@pytest.mark.parametrize("candidates", range(1, 7))
def test_mean_over_all_assignments_is_exactly_one_at_every_question(candidates):
    """The martingale property, in fractions: all assignments, all numbers of issued, all answers, every stop."""
    for issued in range(candidates + 1):
        for answers in product((0, 1), repeat=candidates):
            for asked in range(candidates + 1):
                values = [
                    e_value(candidates, issued, tuple(zip(answers[:asked], assigned, strict=False)))
                    for assigned in assignments(candidates, issued)
                ]
                assert sum(values) == len(values) == comb(candidates, issued)


@pytest.mark.parametrize("candidates", range(1, 6))
def test_no_answer_changes_what_the_next_opening_is_worth_on_average(candidates):
    """Step by step: even a suspect that were told what has been opened so far could not move E on average."""
    for issued in range(candidates + 1):
        for asked in range(candidates):
            for opened_so_far in product((0, 1), repeat=asked):
                left, decoys_left = issued - sum(opened_so_far), candidates - asked - issued + sum(opened_so_far)
                if left < 0 or decoys_left < 0:
                    continue
                for answers in product((0, 1), repeat=asked + 1):
                    before = tuple(zip(answers[:asked], opened_so_far, strict=True))
                    after = Fraction(0)
                    for is_issued, ways in ((1, left), (0, decoys_left)):
                        if ways:
                            after += ways * e_value(candidates, issued, (*before, (answers[-1], is_issued)))
                    assert after / (left + decoys_left) == e_value(candidates, issued, before)


@pytest.mark.parametrize(("candidates", "issued"), [(5, 2), (6, 2), (6, 3), (7, 2)])
@pytest.mark.parametrize("alpha", [Fraction(1, 2), Fraction(1, 5), Fraction(1, 10), Fraction(1, 20)])
def test_innocents_are_convicted_at_most_as_often_as_stated_whenever_the_audit_stops(candidates, issued, alpha):
    """Ville's inequality, counted: whoever stops at the best moment of each audit still errs at most α of the time."""
    for answers in product((0, 1), repeat=candidates):
        convicted = sum(
            opened(candidates, issued, tuple(zip(answers, assigned, strict=True))).p_value <= alpha
            for assigned in assignments(candidates, issued)
        )
        assert Fraction(convicted, comb(candidates, issued)) <= alpha


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_e_is_what_the_formula_says(candidates, data):
    issued = data.draw(st.integers(0, candidates))
    assignment = data.draw(st.permutations([True] * issued + [False] * (candidates - issued)))
    answers = data.draw(st.lists(st.booleans(), max_size=candidates))
    outcomes = list(zip(answers, assignment, strict=False))
    test = SequentialTest(candidates=candidates, issued=issued)
    course = [Fraction(1)]
    for asked, (matched, is_issued) in enumerate(outcomes, 1):
        test.step(matched=matched, issued=is_issued)
        course.append(e_by_definition(candidates, issued, outcomes[:asked]))
        assert test.e_value == course[-1]
        assert max(course) - Fraction(1, 2**64) < test.largest <= max(course)
        assert test.p_value == 1 / test.largest
    assert (test.asked, test.issued_asked) == (len(outcomes), sum(is_issued for _, is_issued in outcomes))
    assert sequential_p_value(outcomes, candidates=candidates, issued=issued) == test.p_value


def test_p_value_never_rises_and_never_exceeds_one():
    test, before = SequentialTest(candidates=256, issued=32), Fraction(1)
    assert test.p_value == 1
    for matched, is_issued in drawn_outcomes(256, 32):
        test.step(matched=matched, issued=is_issued)
        assert 0 < test.p_value <= before
        before = test.p_value
    assert before < Fraction(1, 10**20)


@pytest.mark.parametrize(("candidates", "issued"), [(256, 32), (1024, 32), (1024, 128)])
def test_p_value_of_a_large_set_stays_short_enough_to_print(candidates, issued):
    """Python refuses to print integers of more than 4,300 digits; the exact E of 256 questions comes near."""
    p_value = sequential_p_value(drawn_outcomes(candidates, issued), candidates=candidates, issued=issued)
    assert len(str(p_value)) < 400
    assert Fraction(str(p_value)) == p_value


def test_a_copy_is_found_long_before_all_have_been_asked():
    test = SequentialTest(candidates=256, issued=32)
    for matched, is_issued in drawn_outcomes(256, 32, hit_rate=1.0, decoy_rate=0.0):
        test.step(matched=matched, issued=is_issued)
        if test.p_value <= Fraction(1, 10**6):
            break
    assert test.asked < 100


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("issued", [0, 5])
def test_nothing_can_be_won_where_all_or_none_are_issued(matched, issued):
    test = SequentialTest(candidates=5, issued=issued)
    for _ in range(5):
        test.step(matched=matched, issued=bool(issued))
    assert test.e_value == test.p_value == 1


def test_nothing_more_is_won_once_all_issued_are_opened():
    test = SequentialTest(candidates=6, issued=2)
    for _ in range(2):
        test.step(matched=True, issued=True)
    won = test.e_value
    for matched in (True, False, True, False):
        test.step(matched=matched, issued=False)
    assert test.e_value == won > 1


def test_no_candidates_give_no_evidence():
    assert sequential_p_value([], candidates=0, issued=0) == 1
    assert sequential_p_value([], candidates=256, issued=32) == 1


def test_more_candidates_than_there_are_cannot_be_opened():
    test = SequentialTest(candidates=3, issued=1)
    test.step(matched=True, issued=True)
    with pytest.raises(ValueError, match="question 2 opens one more of the issued, and all 1 have been"):
        test.step(matched=True, issued=True)
    test.step(matched=False, issued=False)
    test.step(matched=False, issued=False)
    with pytest.raises(ValueError, match="question 4 opens one more of the decoys, and all 2 have been"):
        test.step(matched=False, issued=False)
    assert test.asked == 3


@pytest.mark.parametrize(("candidates", "issued"), [(3, 4), (3, -1)])
def test_impossible_sizes_are_refused(candidates, issued):
    with pytest.raises(ValueError, match=f"{issued} issued of {candidates} candidates"):
        SequentialTest(candidates=candidates, issued=issued)
