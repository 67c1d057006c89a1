"""Codes of constant weight hold what they promise, and their words come in a secret order."""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.code_choice import (
    Demand,
    bears,
    chance_bound,
    chosen_code,
    proposals,
    rule_for,
    shares_needed,
)
from fpvec_audit.domain.code_words import WordBook, permuted
from fpvec_audit.domain.codes import AffinePlane, RandomWords, ReedSolomon, most_colluders, parse_code
from fpvec_audit.domain.finite_field import FiniteField, prime_powers
from fpvec_audit.domain.secret import KeySetSecret
from fpvec_audit.errors import UsageError

SMALL = (
    *(AffinePlane(order) for order in (2, 3, 4, 5, 7, 8, 9)),
    *(ReedSolomon(*numbers) for numbers in ((4, 2, 3), (8, 3, 5), (9, 2, 9), (5, 1, 3), (11, 3, 5), (7, 4, 7))),
    *(RandomWords(*numbers) for numbers in ((3, 7), (1, 5), (5, 5))),
)
SECRET, COMMITMENT = KeySetSecret(bytes(range(32))), "ab" * 32


@pytest.mark.parametrize("order", [2, 3, 4, 8, 9, 16, 25, 27])
def test_field_has_inverses_and_distributes(order):
    field, elements = FiniteField(order), range(order)
    for one in elements:
        assert sorted(field.add(one, other) for other in elements) == list(elements)
        if one:
            assert sorted(field.multiply(one, other) for other in elements) == list(elements)
    for one, other, third in [(a, b, c) for a in elements for b in elements for c in (0, 1, order // 2, order - 1)]:
        assert field.multiply(one, field.add(other, third)) == field.add(
            field.multiply(one, other), field.multiply(one, third)
        )


def test_prime_powers_are_known_and_other_orders_refused():
    assert prime_powers(1, 32) == (2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32)
    with pytest.raises(UsageError, match="no finite field of 6 elements"):
        AffinePlane(6)


@pytest.mark.parametrize("code", SMALL, ids=lambda code: code.text)
def test_words_have_their_weight_and_share_no_more_than_promised(code):
    words = [code.word(rank) for rank in range(code.words)]
    assert {len(set(word)) for word in words} == {code.weight}
    assert all(list(word) == sorted(word) for word in words)
    assert {mark for word in words for mark in word} == set(range(code.marks))
    masks = [sum(1 << mark for mark in word) for word in words]
    assert max((int.bit_count(one & other) for one, other in combinations(masks, 2)), default=0) == code.intersection
    assert parse_code(code.text, marks=code.marks) == code


def test_published_sizes():
    """Figures of docs/marks.md."""
    plane, solomon = AffinePlane(4), ReedSolomon(11, 3, 5)
    assert (plane.marks, plane.weight, plane.words, most_colluders(plane)) == (16, 4, 20, 3)
    assert (solomon.marks, solomon.weight, solomon.words, most_colluders(solomon)) == (55, 5, 1331, 2)
    assert most_colluders(ReedSolomon(11, 3, 7)) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plane:5", "needs 25 marks, the family has 16"),
        ("rs:4,3,2", "need 1 ≤ k ≤ l ≤ q"),
        ("random:17", "a word of 17 marks cannot be drawn from 16"),
        ("random:2/9999", "9999 marks"),
        ("circle:4", "is no code"),
        ("rs:4,3", "is no code"),
        ("plane:" + "9" * 5000, "is no code"),
    ],
)
def test_code_that_cannot_be_is_refused(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_code(text, marks=16)


@given(size=st.integers(1, 200), key=st.binary(min_size=32, max_size=32))
def test_secret_order_is_a_permutation(size, key):
    assert sorted(permuted(number, size=size, key=key) for number in range(size)) == list(range(size))


def test_secret_order_is_spread_evenly():
    """A fixed sample of 3,000 keys: every place is hit as often as chance has it (χ², 19 degrees, p > 1e-4)."""
    hits = [0] * 20
    for seed in range(3000):
        hits[permuted(7, size=20, key=seed.to_bytes(32, "big"))] += 1
    assert sum((hit - 150) ** 2 / 150 for hit in hits) < 49


def test_words_follow_from_secret_commitment_and_code():
    code = RandomWords(8, 64)
    book = WordBook(code, SECRET, COMMITMENT)
    assert book.words([0, 5]) == (book.word(0), book.word(5))
    others = (
        WordBook(code, KeySetSecret(bytes(32)), COMMITMENT),
        WordBook(code, SECRET, "cd" * 32),
        WordBook(RandomWords(8, 63), SECRET, COMMITMENT),
    )
    for other in others:
        assert (other.binding, other.word(0), other.commitment(0)) != (book.binding, book.word(0), book.commitment(0))
        assert other.binding != book.binding
    assert "redacted" in repr(book)


def test_fewest_marks_for_a_demand():
    def marks(licensees, colluders):
        return [code.marks for code in proposals(Demand(licensees, colluders)) if code.rule == "A"]

    assert marks(20, 3) == [23, 16]
    assert marks(1331, 2)[-2:] == [55, 49]
    assert marks(1331, 3)[-1] == 77
    for code in proposals(Demand(1000, 2)):
        assert bears(code, Demand(1000, 2))


def test_code_is_chosen_by_what_the_marks_carry():
    assert chosen_code(Demand(20, 3), marks=16) == AffinePlane(4)
    assert chosen_code(Demand(1000, 2), marks=55) == ReedSolomon(11, 3, 5)
    assert chosen_code(Demand(1000, 1), marks=16) == RandomWords(4, 16)
    heavy = chosen_code(Demand(20, 1, least_weight=3), marks=8)
    assert (heavy, rule_for(heavy, Demand(20, 1))) == (RandomWords(3, 8), "A")
    with pytest.raises(UsageError, match=r"16 marks cannot tell 1000 licensees apart when 2 .*takes 49 marks"):
        chosen_code(Demand(1000, 2), marks=16)
    with pytest.raises(UsageError, match="more than 512 marks"):
        chosen_code(Demand(1000, 200), marks=16)


def test_bound_of_random_words_counts_every_word_that_could_be_held():
    """By enumeration: words over 8 marks of 3; the words that are not held, and share enough, are at most the bound."""
    code, seen = RandomWords(3, 8), {0, 1, 2, 3}
    for shared in range(4):
        enough = sum(len(seen & set(code.word(rank))) >= shared for rank in range(code.words))
        for licensees in (1, 5, 20):
            held = licensees - 1  # at most, and they may all share too little
            worst = Fraction(licensees * enough, code.words - held)
            assert chance_bound(code, licensees=licensees, seen=4, shared=shared) == min(1, worst)
    assert chance_bound(code, licensees=57, seen=4, shared=3) == 1
    assert chance_bound(code, licensees=1, seen=2, shared=3) == 0


def test_shares_needed_is_the_first_number_within_epsilon():
    code = RandomWords(8, 64)
    needed = shares_needed(code, licensees=1000, seen=14, epsilon=Fraction(1, 1000))
    assert needed is not None
    assert chance_bound(code, licensees=1000, seen=14, shared=needed) <= Fraction(1, 1000)
    assert chance_bound(code, licensees=1000, seen=14, shared=needed - 1) > Fraction(1, 1000)
    assert shares_needed(code, licensees=comb(64, 8), seen=16, epsilon=Fraction(1, 1000)) is None
