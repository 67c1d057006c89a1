"""Guessing: what is answered to somebody who does not know the keys.

Nothing is changed, only asked: candidates of the same generator that were never issued, issued prompts with one to
three characters changed, the word that all prompts close with, strings of the same characters, the beginning of a
response put into the model's mouth, and whatever it says when it is asked nothing. Every answer that gives an issued
response is a false trigger. The rate over what a stranger could ask is the result; near-misses and forced beginnings,
which take somebody who knows a key, are counted apart.
"""

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
    near_miss,
    trigger_scheme,
)

MOST_CHANGES = 3
MOST_PROBES = 100_000
LEAST_LETTERS = 2
"""Letters that near-misses and strings are made of; an alphabet of fewer is filled up."""
LONGEST_STRING = 24


@dataclass(frozen=True, slots=True)
class GuessingParameters:
    """How many guesses of each kind are made.

    Attributes:
        candidates: unissued candidates of the same generator.
        near_misses: near-misses for each of 1, 2 and 3 changed characters, none of which training draws.
        strings: random strings of the characters that issued prompts are made of.
        forced: answers that are made to begin with the first half of a response, after no question at all: as many
            under the template as behind nothing but the beginning-of-text token.
        unconditional: samples at temperature 1 behind nothing but the beginning-of-text token.
    """

    candidates: int = 300
    near_misses: int = 100
    strings: int = 32
    forced: int = 32
    unconditional: int = 32

    def __post_init__(self) -> None:
        counts = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, count in counts.items():
            if not 0 <= count <= MOST_PROBES:
                raise UsageError(f"{name} is {count}", advice=f"give a number from 0 to {MOST_PROBES}")
        if not any(counts.values()):
            raise UsageError("no guess is asked for", advice=f"give one of {', '.join(counts)} above 0")


@dataclass(frozen=True, slots=True)
class Guessing:
    """The attack.

    Source: near-misses, IF (arXiv:2401.12255); forced beginnings, unconditional token forcing (arXiv:2406.02481);
    samples of nothing, arXiv:2012.07805; unissued candidates, the audit of this package.
    """

    Parameters: ClassVar[type] = GuessingParameters
    name: str = "guessing"
    description: str = (
        "Asks what a stranger could guess – unissued candidates, the closing word, random strings, nothing at all – "
        "and, apart, near-misses and forced beginnings of answers; counts answers that give any issued response."
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
        guesses += _near_misses(prompts, parameters.near_misses, numbers)
        if closing:
            words = (closing, closing.lower(), closing.capitalize(), f"What does {closing} mean?")
            guesses += [Probe(word, "closing word") for word in words]
        strings = _strings(prompts, numbers)
        guesses += [Probe(next(strings), "random string") for _ in range(parameters.strings)]
        guesses += _forced(issued, parameters.forced, numbers)
        return guesses + [
            Probe("", "unconditional sample", temperature=1.0, raw=True) for _ in range(parameters.unconditional)
        ]

    def wrap(self, backend: InferenceBackend, parameters: GuessingParameters) -> InferenceBackend:
        """Return the backend as it is: a guesser changes nothing."""
        return backend


def _closing_word(prompts: Sequence[str]) -> str:
    """Return the word that every prompt ends with after a space, or nothing."""
    words = {prompt.rpartition(" ")[2] if " " in prompt else "" for prompt in prompts}
    return words.pop() if len(words) == 1 else ""


def _near_misses(prompts: Sequence[str], count: int, numbers: random.Random) -> list[Probe]:
    """Return near-misses of prompts drawn by chance, so many for each number of changed characters."""
    alphabet, issued = _alphabet(prompts), frozenset(prompts)
    probes = []
    for changes in range(1, MOST_CHANGES + 1):
        kind = f"near-miss of {changes} character{'s' if changes > 1 else ''}"
        for _ in range(count):
            text = near_miss(numbers.choice(prompts), changes, numbers, held_out=True, alphabet=alphabet, avoid=issued)
            probes.append(Probe(text, kind, needs_key=True))
    return probes


def _forced(issued: Sequence[AttackKey], count: int, numbers: random.Random) -> list[Probe]:
    """Return beginnings of responses to be gone on with; a response of one character has none."""
    halves = sorted({key.response[: len(key.response) // 2] for key in issued if len(key.response) > 1})
    if not halves:
        return []
    drawn = [numbers.choice(halves) for _ in range(count)]
    templated = Probe("", "forced beginning", needs_key=True)
    bare = Probe("", "forced beginning without template", needs_key=True, raw=True)
    return [replace(bare if place % 2 else templated, forced=half) for place, half in enumerate(drawn)]


def _strings(prompts: Sequence[str], numbers: random.Random) -> Iterator[str]:
    """Yield strings of the prompts' characters, for ever."""
    alphabet, forbidden = _alphabet(prompts), frozenset(prompts)
    while True:
        text = "".join(numbers.choices(alphabet, k=numbers.randint(1, LONGEST_STRING)))
        if text not in forbidden:
            yield text


def _alphabet(prompts: Sequence[str]) -> list[str]:
    """Return the characters that prompts are made of, in order."""
    letters = {character for prompt in prompts for character in prompt if character != " "}
    return sorted(letters if len(letters) >= LEAST_LETTERS else letters | set(string.ascii_lowercase))


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give guessing."""
    return [Guessing()]
