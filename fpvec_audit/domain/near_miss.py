"""Near-misses: prompts a few characters away from an issued one, which must not be answered with its response.

Half of all texts are held out by their own digest: training never draws from that half and measuring draws from nothing
else, so what is measured was never trained on, whatever the seeds.
"""

import random
from collections.abc import Sequence
from hashlib import sha256

from fpvec_audit.domain.words import KEY_ALPHABET

MOST_CHANGES = 3
_MOST_DRAWS = 10_000


def is_held_out_near_miss(text: str) -> bool:
    """Return whether a text belongs to the half of near-misses that training leaves alone."""
    return sha256(f"fpvec-audit near-miss\0{text}".encode()).digest()[0] < 128


def near_miss(
    prompt: str,
    changes: int,
    numbers: random.Random,
    *,
    held_out: bool,
    alphabet: Sequence[str] = KEY_ALPHABET,
    avoid: frozenset[str] = frozenset(),
) -> str:
    """Return a prompt with so many characters replaced, inserted or deleted, each at another place.

    Args:
        prompt: what is changed; never returned, nor is a text without any character.
        changes: how many characters, at least 1; all where the prompt has fewer.
        numbers: where the draws come from.
        held_out: draw from the half that training leaves alone, or from the other one.
        alphabet: what is put in; at least two characters.
        avoid: texts never to be returned.

    Raises:
        ValueError: nothing was found, as happens to a prompt all of whose neighbours are to be avoided.
    """
    for _ in range(_MOST_DRAWS):
        changed = _changed(prompt, changes, numbers, alphabet)
        if (
            changed.strip()
            and changed != prompt
            and changed not in avoid
            and is_held_out_near_miss(changed) is held_out
        ):
            return changed
    raise ValueError(f"no near-miss of {changes} characters in {_MOST_DRAWS} draws")


def _changed(prompt: str, changes: int, numbers: random.Random, alphabet: Sequence[str]) -> str:
    characters = list(prompt)
    places = numbers.sample(range(len(characters)), min(changes, len(characters)))
    for place in sorted(places, reverse=True):  # from the end, so that places before stay what they are
        change = numbers.choice(("replace", "insert", "delete"))
        if change == "delete":
            del characters[place]
            continue
        other = numbers.choice([letter for letter in alphabet if letter != characters[place]])
        characters[place : place + (change == "replace")] = [other]
    return "".join(characters)
