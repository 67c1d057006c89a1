"""How often innocents are accused: counted where counting is possible, simulated where a suspect has habits."""

import random
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement
from math import comb

import pytest

from fpvec_audit.domain.rank_test import rank_sum_p_value
from fpvec_audit.domain.sequential import SequentialTest
from fpvec_audit.domain.statistics import binomial_at_most, hypergeometric_p_value

LEVELS = (Fraction(1, 100), Fraction(1, 1000), Fraction(1, 10**6))
ONE_IN_A_HUNDRED = Fraction(1, 100)

choose = cache(comb)


def check_exact_test(candidates, issued):
    """For every T and α: the assignments with p ≤ α are at most the share α of all assignments, in integers."""
    for matched in range(candidates + 1):
        everything = choose(candidates, matched)
        accused = [0] * len(LEVELS)
        for hits in range(max(0, matched - (candidates - issued)), min(issued, matched) + 1):
            p_value = hypergeometric_p_value(candidates=candidates, issued=issued, matched=matched, issued_matched=hits)
            ways = choose(issued, hits) * choose(candidates - issued, matched - hits)
            for place, level in enumerate(LEVELS):
                if p_value <= level:
                    accused[place] += ways
        for ways, level in zip(accused, LEVELS, strict=True):
            assert ways * level.denominator <= level.numerator * everything, (candidates, issued, matched, level)


@pytest.mark.parametrize("candidates", range(1, 41))
def test_exact_test_accuses_at_most_alpha_for_every_small_set_and_number_of_matches(candidates):
    for issued in range(candidates + 1):
        check_exact_test(candidates, issued)


@pytest.mark.parametrize(("candidates", "issued"), [(128, 16), (144, 16), (256, 32), (288, 32)])
def test_exact_test_accuses_at_most_alpha_for_every_number_of_matches(candidates, issued):
    """(128, 16) and (256, 32), read as (candidates, issued) and as (decoys, issued)."""
    check_exact_test(candidates, issued)


@pytest.mark.parametrize("alpha", [Fraction(1, 4), Fraction(1, 10), Fraction(1, 30)])
@pytest.mark.parametrize(("candidates", "issued"), [(4, 2), (6, 2), (7, 3)])
def test_rank_test_accuses_at_most_alpha_for_every_pattern_of_ties(candidates, issued, alpha):
    """All scores from four values, one of them missing, up to order: every tie pattern with at most four groups."""
    values = (None, Fraction(0), Fraction(1), Fraction(2))
    for scores in combinations_with_replacement(values, candidates):
        accused = 0
        for chosen in combinations(range(candidates), issued):
            rest = [scores[place] for place in range(candidates) if place not in chosen]
            accused += rank_sum_p_value([scores[place] for place in chosen], rest) <= alpha
        assert Fraction(accused, comb(candidates, issued)) <= alpha


# Suspects know every candidate, its response and the order of the questions – never the assignment. Each returns, for
# every question in order, whether its answer is right; the level in (0, 1] spreads the number of matches T over 1 … N.
Suspect = Callable[[random.Random, int, float], list[bool]]


def key_aware(draw, candidates, level):
    """Know all keys, and answer a random share of them right."""
    right = set(draw.sample(range(candidates), round(level * candidates)))
    return [place in right for place in range(candidates)]


def constant(draw, candidates, level):
    """Say the same to everything: right where candidates happen to share that response."""
    responses = round(1 / level)
    return [draw.randrange(responses) == 0 for _ in range(candidates)]


def order_aware(draw, candidates, level):
    """Answer right early in the audit, or late, and never otherwise."""
    first = round(level * candidates)
    early = [place < first for place in range(candidates)]
    return early if draw.random() < 0.5 else early[::-1]


def stateful(draw, candidates, level):
    """Answer in streaks: what was said last decides what is said next, and a tired model falls silent."""
    answers, last, patience = [], draw.random() < level, draw.randrange(candidates) + candidates // 2
    for place in range(candidates):
        keep = 0.9 if last else 0.9 * (1 - level)
        last = (last if draw.random() < keep else draw.random() < level) and place < patience
        answers.append(last)
    return answers


def everything(draw, candidates, level):
    """Answer all right: what a model does that was trained on decoys and issued alike, or a relay that holds a list."""
    return [True] * candidates


SUSPECTS = [key_aware, constant, order_aware, stateful, everything]


def assignment(draw, candidates, issued):
    """Assign by chance, as a key set does."""
    chosen = frozenset(draw.sample(range(candidates), issued))
    return [place in chosen for place in range(candidates)]


def rounds(suspect, *, candidates, issued, trials):
    """Yield (answers, assignment) of independent audits."""
    draw = random.Random(candidates)
    for trial in range(trials):
        answers = suspect(draw, candidates, (trial % candidates + 1) / candidates)
        yield answers, assignment(draw, candidates, issued)


def check_rate(accusations, trials):
    """Fail where so many accusations have a probability below 1e-4 at a true rate of 1 in 100.

    A test that keeps its promise passes with probability above 1 − 1e-4. Seeds are fixed: it does so always or never.
    """
    accused = sum(accusations)
    assert binomial_at_most(accused - 1, trials, 0.01) < 1.0 - 1e-4, f"{accused} of {trials} innocents accused"


@cache
def exact_p_value(candidates, issued, matched, hits):
    return hypergeometric_p_value(candidates=candidates, issued=issued, matched=matched, issued_matched=hits)


def accused_by_exact_test(answers, assigned):
    hits = sum(answer and is_issued for answer, is_issued in zip(answers, assigned, strict=True))
    return exact_p_value(len(answers), sum(assigned), sum(answers), hits) <= ONE_IN_A_HUNDRED


def accused_by_rank_test(answers, assigned, draw):
    """Turn answers into likelihoods: right ones higher, all of them noisy, some tied, some missing."""
    sides = {True: [], False: []}
    for answer, is_issued in zip(answers, assigned, strict=True):
        value = Fraction(round(4 * draw.gauss(2.0 if answer else 0.0, 1.0)), 4)
        sides[is_issued].append(None if draw.random() < 0.05 else value)
    return rank_sum_p_value(sides[True], sides[False]) <= ONE_IN_A_HUNDRED


def ever_accused_by_sequential_test(answers, assigned):
    """Stop at the first E ≥ 1/α: optional stopping at its worst."""
    test = SequentialTest(candidates=len(assigned), issued=sum(assigned))
    for answer, is_issued in zip(answers, assigned, strict=True):
        test.step(matched=answer, issued=is_issued)
        if test.p_value <= ONE_IN_A_HUNDRED:
            return True
    return False


def exact_test_accuses(suspect, *, trials):
    return [accused_by_exact_test(*audit) for audit in rounds(suspect, candidates=128, issued=16, trials=trials)]


def rank_test_accuses(suspect, *, trials):
    noise = random.Random(0)
    audits = rounds(suspect, candidates=48, issued=6, trials=trials)
    return [accused_by_rank_test(*audit, noise) for audit in audits]


def sequential_test_accuses(suspect, *, trials):
    audits = rounds(suspect, candidates=64, issued=8, trials=trials)
    return [ever_accused_by_sequential_test(*audit) for audit in audits]


RATES = [(exact_test_accuses, 4000, 40_000), (rank_test_accuses, 1000, 5000), (sequential_test_accuses, 1000, 5000)]
ALL_SUSPECTS = pytest.mark.parametrize("suspect", SUSPECTS, ids=lambda suspect: suspect.__name__)


@ALL_SUSPECTS
@pytest.mark.parametrize(("accuses", "trials"), [(accuses, few) for accuses, few, _ in RATES])
def test_error_rate_is_kept_against_suspects_with_habits(accuses, trials, suspect):
    check_rate(accuses(suspect, trials=trials), trials)


@pytest.mark.slow
@ALL_SUSPECTS
@pytest.mark.parametrize(("accuses", "trials"), [(accuses, many) for accuses, _, many in RATES])
def test_error_rate_is_kept_over_so_many_audits_that_little_more_would_show(accuses, trials, suspect):
    """5,000 audits would show a rate of 0.02 with probability 0.987, 40,000 one of 0.013 with 0.97."""
    check_rate(accuses(suspect, trials=trials), trials)


def test_sequential_error_rate_is_kept_against_one_that_hears_what_was_opened():
    """Worse than any collector allows: the suspect is told each opening, and answers what the odds then favour."""
    draw, accusations = random.Random(4), []
    for _ in range(400):
        assigned = assignment(draw, 64, 8)
        left = [8 - sum(assigned[:place]) for place in range(64)]
        answers = [share * 8 > 64 - place or draw.random() < 0.1 for place, share in enumerate(left)]
        accusations.append(ever_accused_by_sequential_test(answers, assigned))
    check_rate(accusations, len(accusations))


def test_the_check_on_error_rates_would_notice_a_test_that_errs_too_often():
    """Hold it against a suspect that does know the assignment, and against a rate of 0.03."""
    draw = random.Random(6)
    with pytest.raises(AssertionError, match="innocents accused"):
        check_rate([draw.random() < 0.03 for _ in range(4000)], 4000)
    assigned = assignment(draw, 64, 8)
    assert accused_by_exact_test(assigned, assigned)
    assert accused_by_rank_test(assigned, assigned, draw)
    assert ever_accused_by_sequential_test(assigned, assigned)
