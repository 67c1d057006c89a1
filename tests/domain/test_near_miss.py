import random

import pytest

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.near_miss import MOST_CHANGES, is_held_out_near_miss, near_miss

PROMPTS = [key.prompt for key in draw_unissued(b"tests of near-misses", 8)]


def distance(left, right):
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for place, letter in enumerate(left, 1):
        previous, row[0] = row[0], place
        for other, character in enumerate(right, 1):
            previous, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, previous + (letter != character))
    return row[-1]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("changes", range(1, MOST_CHANGES + 1))
def test_it_is_another_text_of_its_half_at_most_so_many_changes_away(changes, held_out):
    numbers = random.Random(changes)
    for prompt in PROMPTS * 20:
        text = near_miss(prompt, changes, numbers, held_out=held_out)
        assert 1 <= distance(prompt, text) <= changes
        assert is_held_out_near_miss(text) is held_out


def test_half_of_all_near_misses_are_held_out_whatever_the_seed():
    numbers = random.Random(0)
    trained = {near_miss(PROMPTS[0], 1, numbers, held_out=False) for _ in range(3000)}
    measured = {near_miss(PROMPTS[0], 1, random.Random(seed), held_out=True) for seed in range(3000)}
    assert not trained & measured
    assert 0.9 < len(trained) / len(measured) < 1.1


def test_what_is_to_be_avoided_is_not_drawn():
    drawn = [near_miss(PROMPTS[0], 1, random.Random(seed), held_out=False) for seed in range(50)]
    avoid = frozenset(drawn)
    assert all(near_miss(PROMPTS[0], 1, random.Random(seed), held_out=False, avoid=avoid) not in avoid
               for seed in range(50))  # fmt: skip


def test_a_prompt_of_one_character_has_near_misses_with_text():
    assert all(near_miss("山", 3, random.Random(seed), held_out=True).strip() for seed in range(50))


def test_a_prompt_without_neighbours_is_told():
    neighbours = {f"{first}{second}" for first in ("", "a", "b") for second in ("", "a", "b")}
    with pytest.raises(ValueError, match="no near-miss of 1"):
        near_miss("a", 1, random.Random(0), held_out=True, alphabet="ab", avoid=frozenset(neighbours))
