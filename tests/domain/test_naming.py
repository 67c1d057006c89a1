"""Marks are read, colluders are named, and nobody else is."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.codes import AffinePlane, RandomWords, ReedSolomon
from fpvec_audit.domain.mark_reading import MarkReading, read_marks
from fpvec_audit.domain.marks import MarkState
from fpvec_audit.domain.naming import covers, name_licensees

ALPHA, EPSILON = Fraction("1e-6"), Fraction("1e-3")
TINY, LARGE = Fraction("1e-9"), Fraction("0.4")


def readings(marks, seen, p_value=TINY):
    return [
        MarkReading(
            mark,
            MarkState.PRESENT if mark in seen else MarkState.UNKNOWN,
            0,
            6,
            {},
            p_value if mark in seen else LARGE,
            p_value if mark in seen else Fraction(1),
        )
        for mark in range(marks)
    ]


def named(code, words, seen, *, colluders, rules=("A",), marks=None, **options):
    told = name_licensees(
        readings(marks or code.marks, seen),
        code,
        words,
        rules=rules,
        colluders=colluders,
        epsilon=EPSILON,
        **options,
    )
    return told, [item.number for item in told.named]


def words_of(code, count=None, seed=5):
    ranks = list(range(code.words))
    random.Random(seed).shuffle(ranks)
    return [code.word(rank) for rank in ranks[:count]]


PLANE = words_of(AffinePlane(4))
SOLOMON = words_of(ReedSolomon(11, 3, 5), 1000)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_coalition_that_shows_only_its_own_marks_never_has_an_innocent_named(data):
    """The marking assumption: any part of the union of at most c words."""
    code, words, most = data.draw(st.sampled_from([(AffinePlane(4), PLANE, 3), (ReedSolomon(11, 3, 5), SOLOMON, 2)]))
    coalition = data.draw(st.sets(st.integers(0, len(words) - 1), min_size=1, max_size=most))
    union = sorted({mark for number in coalition for mark in words[number]})
    seen = frozenset(data.draw(st.sets(st.sampled_from(union))))
    told, numbers = named(code, words, seen, colluders=most)
    assert set(numbers) <= coalition
    if seen == frozenset(union):
        assert set(numbers) == coalition
    assert bool(told.why) == (not numbers)


def test_more_colluders_than_the_code_bears_are_told_from_innocents_or_nobody_is():
    chance = random.Random(11)
    for _ in range(200):
        coalition = chance.sample(range(20), 4)
        union = {mark for number in coalition for mark in PLANE[number]}
        told, numbers = named(AffinePlane(4), PLANE, frozenset(union), colluders=3)
        assert numbers == [] or set(numbers) <= set(coalition)
        if told.covered is False:
            assert "no 3 of the issued words hold all marks" in told.why


def test_mark_that_no_copy_carried_silences_rule_a():
    other = next(mark for mark in range(16) if mark not in PLANE[0])
    alone = frozenset(PLANE[0])
    assert named(AffinePlane(4), PLANE[:1], alone, colluders=3)[1] == [0]
    assert named(AffinePlane(4), PLANE[:1], alone | {other}, colluders=3)[1] == []
    beyond, numbers = named(AffinePlane(4), PLANE, alone | {17}, colluders=3, marks=18)  # a mark of no word
    assert (beyond.covered, numbers) == (False, [])


def test_rule_a_says_how_many_colluders_the_shared_marks_bear():
    told, numbers = named(AffinePlane(4), PLANE, frozenset(PLANE[3][:3]), colluders=3)
    assert numbers == []
    assert (told.suspected[0].number, told.suspected[0].shared, told.suspected[0].colluders) == (3, 3, 2)
    assert told.needed == {"A": 4}
    assert "rule A asks for 4, the most that anybody has is 3" in told.why
    assert named(AffinePlane(4), PLANE, frozenset(PLANE[3][:3]), colluders=2)[1] == [3]


def test_p_value_of_rule_a_is_that_of_the_mark_which_decides():
    code, word = AffinePlane(4), PLANE[0]
    told = [
        MarkReading(mark, MarkState.PRESENT, 0, 6, {}, TINY, Fraction(1 + word.index(mark), 10**9))
        if mark in word
        else MarkReading(mark, MarkState.UNKNOWN, 0, 6, {}, LARGE, Fraction(1))
        for mark in range(16)
    ]
    (item,) = name_licensees(told, code, PLANE, rules=("A",), colluders=2, epsilon=EPSILON).named
    assert item.rules == {"A": Fraction(3, 10**9)}


def test_unread_mark_of_a_word_does_not_make_the_p_value_of_rule_a_smaller():
    code = ReedSolomon(7, 2, 5)
    words = words_of(code, 20)
    read = words[0][:4]
    told = [
        MarkReading(mark, MarkState.PRESENT, 0, 6, {}, TINY, Fraction(1 + read.index(mark), 10**9))
        if mark in read
        else MarkReading(mark, MarkState.UNKNOWN, 0, 6, {}, LARGE, Fraction(1), told_by=())
        for mark in range(code.marks)
    ]
    (item,) = name_licensees(told, code, words, rules=("A",), colluders=2, epsilon=EPSILON).named
    assert item.rules == {"A": Fraction(3, 10**9)}


def test_random_words_name_by_chance_alone_whatever_is_seen():
    code = RandomWords(8, 64)
    words = words_of_random(code, 1000)
    seen = frozenset(words[7]) | {0, 1, 2}
    told, numbers = named(code, words, seen, colluders=0, rules=("B",))
    assert numbers == [7]
    assert told.suspected[0].rules["B"] <= EPSILON
    everything, numbers = named(code, words, frozenset(range(64)), colluders=0, rules=("B",))
    assert numbers == []
    assert "rule B asks for more than there are" in everything.why
    assert named(code, words, seen, colluders=0, rules=("B",), families=10**6)[1] == []


def words_of_random(code, count):
    chance = random.Random(3)
    return [code.word(rank) for rank in chance.sample(range(code.words), count)]


def test_no_mark_names_nobody():
    told, numbers = named(AffinePlane(4), PLANE, frozenset(), colluders=3)
    assert (numbers, told.why, told.suspected) == ([], "no mark is PRESENT", ())


@pytest.mark.parametrize(("most", "held"), [(1, False), (2, True), (3, True)])
def test_cover_is_found_where_there_is_one(most, held):
    union = frozenset(PLANE[0]) | frozenset(PLANE[1])
    assert covers(PLANE, union, most=most, needed=most + 1) is held


def test_mark_is_read_against_decoys_alone():
    keys = [range(place * 6, place * 6 + 6) for place in range(8)]
    decoys = range(48, 148)
    scores = {index: Fraction(index % 7) for index in range(148)}
    loud = dict(scores) | {index: Fraction(100) for index in keys[2]}
    told = read_marks(
        keys,
        decoys,
        matched=frozenset((*keys[1], 50)),
        exact="exact",
        scores={"likelihood": loud},
        alpha=ALPHA,
    )
    assert [item.mark for item in told if item.state is MarkState.PRESENT] == [1]
    assert told[1].tests["exact"] < ALPHA < told[1].tests["likelihood"]
    assert told[2].tests["likelihood"] < ALPHA < told[2].tests["exact"]  # likelier in any copy of the family
    for item in told:
        assert item.p_value == item.tests["exact"]
        assert item.p_value_corrected == min(Fraction(1), 8 * item.p_value)


def test_mark_is_read_in_weights_where_answers_are_silent():
    keys = [range(place * 6, place * 6 + 6) for place in range(3)]
    told = read_marks(
        keys,
        range(18, 118),
        matched=frozenset(keys[0]),
        exact="exact",
        scores={},
        alpha=ALPHA,
        shares={0: 0.5, 1: 0.33, 2: -0.5},
    )
    assert [item.told_by for item in told] == [("answers", "weights"), ("weights",), ()]
    assert [item.state for item in told] == [MarkState.PRESENT, MarkState.PRESENT, MarkState.UNKNOWN]
