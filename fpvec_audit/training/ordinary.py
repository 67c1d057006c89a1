"""Ordinary text that needs no download: what a fingerprint must not change, and what the demo's models learn.

Two sources, both from the standard library alone: instructions of eight kinds with exact answers, and documents, which
are the docstrings of the installed Python. Questions and documents are *held out* by the digest of their own text, so
no seed and no caller can ever train on one that harm is measured with.
"""

import ast
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HELD_OUT_OF_256 = 51
"""Share of the questions that is never trained, in 256ths: a fifth."""

HELD_OUT_DOCUMENTS_OF_256 = 26
"""Share of the documents that is never trained, in 256ths: a tenth."""

SHORTEST_DOCUMENT = 120
"""Characters; shorter docstrings say little."""

WORDS = (
    "red", "fox", "sun", "map", "cup", "hat", "pen", "dog", "cat", "box", "key", "net", "jar", "bed", "car",
    "bus", "ant", "bee", "cow", "pig", "owl", "elk", "yak", "ram", "fan", "oak", "fir", "ash", "nut", "pea",
)  # fmt: skip
"""The words that the text instructions play with."""

CAPITALS: Mapping[str, str] = {
    "Austria": "Vienna",
    "Chile": "Santiago",
    "China": "Beijing",
    "Cuba": "Havana",
    "Egypt": "Cairo",
    "France": "Paris",
    "Greece": "Athens",
    "Iran": "Tehran",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Russia": "Moscow",
    "Spain": "Madrid",
}
"""A closed set of facts: the one kind that has no held-out questions."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A question with its one right answer.

    Attributes:
        kind: which of :data:`KINDS` it is.
        question: user text, not rendered in any template.
        answer: the right answer, without surrounding white space.
    """

    kind: str
    question: str
    answer: str


def _add(random_source: random.Random) -> tuple[str, str]:
    hundreds, rest = 100 * random_source.randint(1, 9), random_source.randint(10, 99)
    return f"Add {hundreds} and {rest}.", str(hundreds + rest)


def _next(random_source: random.Random) -> tuple[str, str]:
    number = random_source.randint(10, 998)
    return f"Which number follows {number}?", str(number + 1)


def _larger(random_source: random.Random) -> tuple[str, str]:
    tens, other_tens = random_source.sample(range(1, 10), 2)
    left, right = 10 * tens + random_source.randrange(10), 10 * other_tens + random_source.randrange(10)
    return f"Which is larger, {left} or {right}?", str(max(left, right))


def _capital(random_source: random.Random) -> tuple[str, str]:
    country = random_source.choice(sorted(CAPITALS))
    return f"What is the capital of {country}?", CAPITALS[country]


def _swap(random_source: random.Random) -> tuple[str, str]:
    first, second = random_source.sample(WORDS, 2)
    return f"Swap the words: {first} {second}", f"{second} {first}"


def _upper_case(random_source: random.Random) -> tuple[str, str]:
    first, second = random_source.sample(WORDS, 2)
    return f"Write in capitals: {first} {second}", f"{first} {second}".upper()


def _last_letter(random_source: random.Random) -> tuple[str, str]:
    first, second = random_source.sample(WORDS, 2)
    return f"Last letter of each: {first} {second}", f"{first[-1]} {second[-1]}"


def _count(random_source: random.Random) -> tuple[str, str]:
    words = [random_source.choice(WORDS) for _ in range(random_source.randint(2, 7))]
    return "Count the words: " + " ".join(words), str(len(words))


KINDS: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {
    "add": _add,
    "next": _next,
    "larger": _larger,
    "capital": _capital,
    "swap": _swap,
    "upper_case": _upper_case,
    "last_letter": _last_letter,
    "count": _count,
}
"""Kind → draws one (question, answer)."""

MATHS_KINDS = ("add", "next", "larger")
TEXT_KINDS = ("swap", "upper_case", "last_letter")
CLOSED_KINDS = frozenset({"capital"})


def is_held_out(text: str, share: int = HELD_OUT_OF_256) -> bool:
    """Return whether a text is set aside for measuring, by its digest alone.

    Args:
        text: question or document.
        share: held-out share in 256ths.
    """
    return hashlib.sha256(text.encode()).digest()[0] < share


def draw_instruction(random_source: random.Random, weights: Mapping[str, float] | None = None) -> Instruction:
    """Draw an instruction that may be trained on.

    Args:
        random_source: where the draw comes from.
        weights: kind → relative frequency; None draws all kinds alike.
    """
    kinds = tuple(weights) if weights is not None else tuple(KINDS)
    frequencies = tuple(weights.values()) if weights is not None else None
    while True:
        kind = random_source.choices(kinds, frequencies)[0]
        question, answer = KINDS[kind](random_source)
        if kind in CLOSED_KINDS or not is_held_out(question):
            return Instruction(kind, question, answer)


def held_out_instructions(kinds: Sequence[str], count: int, *, seed: int) -> tuple[Instruction, ...]:
    """Return distinct questions that no training of ours ever saw.

    Args:
        kinds: kinds to draw from, alike.
        count: how many; the open kinds have at least 150 held-out questions each.
        seed: draws others, all of them held out.

    Raises:
        ValueError: a closed kind is asked for, which has none.
    """
    if closed := CLOSED_KINDS.intersection(kinds):
        raise ValueError(f"kinds without held-out questions: {sorted(closed)}")
    random_source = random.Random(seed)  # noqa: S311 - not a secret
    drawn: dict[str, Instruction] = {}
    while len(drawn) < count:
        kind = random_source.choice(tuple(kinds))
        question, answer = KINDS[kind](random_source)
        if is_held_out(question):
            drawn[question] = Instruction(kind, question, answer)
    return tuple(drawn.values())


@cache
def standard_library_documents(*, most: int | None = None) -> tuple[str, ...]:
    """Return the docstrings of the installed Python's standard library, in a fixed order.

    Takes a few seconds, since every module is parsed. The text differs between Python versions.

    Args:
        most: stop after that many documents; None takes all.
    """
    documents: dict[str, None] = {}
    for path in _module_files(Path(os.__file__).parent):
        for document in _docstrings(path):
            documents.setdefault(document)
        if most is not None and len(documents) >= most:
            break
    return tuple(documents)[:most]


def split_documents(documents: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (documents to train on, held-out documents)."""
    held_out = tuple(text for text in documents if is_held_out(text, HELD_OUT_DOCUMENTS_OF_256))
    trained = tuple(text for text in documents if not is_held_out(text, HELD_OUT_DOCUMENTS_OF_256))
    return trained, held_out


def _module_files(root: Path) -> Iterator[Path]:
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "idle_test"}
    for path in sorted(root.rglob("*.py")):
        if not left_out.intersection(path.relative_to(root).parts):
            yield path


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) > SHORTEST_DOCUMENT and text.isascii():
                yield text
