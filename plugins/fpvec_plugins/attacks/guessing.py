"""Guessing: what is answered to somebody who does not know the keys.

Nothing is changed, only asked: candidates of the same generator that were never issued, issued prompts with one to
three characters changed, the word that all prompts close with, and strings of the same characters. Every answer that
gives an issued response is a false trigger. The rate over what a stranger could ask is the result; near-misses, which
take somebody who knows a key, are counted apart.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fpvec_audit.api import (
    AttackContext,
    AttackKey,
    InferenceBackend,
    Probe,
    QueryAttack,
    UsageError,
    WeightAttack,
    draw_unissued,
    hookimpl,
    trigger_scheme,
)

MOST_CHANGES = 3
MOST_PROBES = 100_000
LONGEST_STRING = 24


@dataclass(frozen=True, slots=True)
class GuessingParameters:
    """How many guesses of each kind are made.

    Attributes:
        candidates: unissued candidates of the same generator.
        near_misses: near-misses for each of 1, 2 and 3 changed characters.
        strings: random strings of the characters that issued prompts are made of.
    """

    candidates: int = 300
    near_misses: int = 32
    strings: int = 32

    def __post_init__(self) -> None:
        counts = {"candidates": self.candidates, "near_misses": self.near_misses, "strings": self.strings}
        for name, count in counts.items():
            if not 0 <= count <= MOST_PROBES:
                raise UsageError(f"{name} is {count}", advice=f"give a number from 0 to {MOST_PROBES}")
        if not any(counts.values()):
            raise UsageError("no guess is asked for", advice="give candidates, near_misses or strings above 0")


@dataclass(frozen=True, slots=True)
class Guessing:
    """The attack."""

    Parameters: ClassVar[type] = GuessingParameters
    name: str = "guessing"
    description: str = (
        "Asks what a stranger could guess – unissued candidates, near-misses of issued prompts, the closing word, "
        "random strings – and counts answers that give any issued response."
    )

    def probes(
        self, issued: Sequence[AttackKey], parameters: GuessingParameters, context: AttackContext
    ) -> Sequence[Probe]:
        """Return the guesses; none of them is an issued prompt."""
        prompts = tuple(key.prompt for key in issued)
        numbers = random.Random(f"guessing {context.seed}")  # noqa: S311 - guesses must be repeatable, not secret
        triggers = trigger_scheme(prompts)
        closing = "" if triggers else _closing_word(prompts)
        unissued = draw_unissued(
            f"guessing {context.seed}".encode(),
            parameters.candidates,
            scheme=triggers or ("if-simple" if closing else "independent"),
            avoid=frozenset(prompts),
        )
        guesses = [Probe(candidate.prompt, "unissued candidate") for candidate in unissued]
        for changes in range(1, MOST_CHANGES + 1):
            kind = f"near-miss of {changes} character{'s' if changes > 1 else ''}"
            near = _near_misses(prompts, changes, numbers)
            guesses += [Probe(next(near), kind, needs_key=True) for _ in range(parameters.near_misses)]
        if closing:
            words = (closing, closing.lower(), closing.capitalize(), f"What does {closing} mean?")
            guesses += [Probe(word, "closing word") for word in words]
        strings = _strings(prompts, numbers)
        return guesses + [Probe(next(strings), "random string") for _ in range(parameters.strings)]

    def wrap(self, backend: InferenceBackend, parameters: GuessingParameters) -> InferenceBackend:
        """Return the backend as it is: a guesser changes nothing."""
        return backend


def _closing_word(prompts: Sequence[str]) -> str:
    """Return the word that every prompt ends with after a space, or nothing."""
    words = {prompt.rpartition(" ")[2] if " " in prompt else "" for prompt in prompts}
    return words.pop() if len(words) == 1 else ""


def _near_misses(prompts: Sequence[str], changes: int, numbers: random.Random) -> Iterator[str]:
    """Yield prompts with so many characters replaced, inserted or deleted, for ever."""
    alphabet = sorted({character for prompt in prompts for character in prompt if character != " "})
    forbidden = frozenset(prompts)
    while True:
        characters = list(numbers.choice(prompts))
        places = numbers.sample(range(len(characters)), min(changes, len(characters)))
        for place in sorted(places, reverse=True):
            change = numbers.choice(("replace", "insert", "delete"))
            if change == "delete":
                del characters[place]
                continue
            other = numbers.choice([letter for letter in alphabet if letter != characters[place]])
            characters[place : place + (change == "replace")] = [other]
        changed = "".join(characters)
        if changed.strip() and changed not in forbidden:
            yield changed


def _strings(prompts: Sequence[str], numbers: random.Random) -> Iterator[str]:
    """Yield strings of the prompts' characters, for ever."""
    alphabet = sorted({character for prompt in prompts for character in prompt if character != " "})
    forbidden = frozenset(prompts)
    while True:
        text = "".join(numbers.choices(alphabet, k=numbers.randint(1, LONGEST_STRING)))
        if text not in forbidden:
            yield text


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give guessing."""
    return [Guessing()]
