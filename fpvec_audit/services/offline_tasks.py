"""Tasks that come with the package: made by our own generators, the same everywhere, and nothing is fetched.

``offline_quiz`` asks held-out questions of every kind that has any; ``offline_cloze`` lets the model choose among four
words the one that comes next in a held-out document, at one word in :data:`WORD_STRIDE`. What is held out is decided by
the digest of the text itself (``training/ordinary.py``), so no training of ours ever saw an item; and every item is
asked once, as the tests behind a verdict take items for independent.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fpvec_audit.training.ordinary import (
    CLOSED_KINDS,
    KINDS,
    Instruction,
    is_held_out,
    split_documents,
    standard_library_documents,
)

QUIZ, CLOZE = "offline_quiz", "offline_cloze"
OFFLINE_TASKS = (QUIZ, CLOZE)
OPEN_KINDS = tuple(kind for kind in KINDS if kind not in CLOSED_KINDS)
QUESTION_COUNT = 3000
"""Items of ``offline_quiz``."""

WORD_COUNT = 2500
"""Items of ``offline_cloze``."""

WORD_STRIDE = 4
CHOICES = 4
SHORTEST_CONTEXT, LONGEST_CONTEXT = 6, 12
"""Words that the model reads before the one that is asked: enough to choose by, and quick on two cores."""

DRAWS = 20_000
"""Draws a kind until its held-out questions count as exhausted."""

LONGEST_ANSWER = 16
_SEED = 711
_WORD = re.compile(r"[A-Za-z]{3,}")
Render = Callable[[str], str]
"""Question → prompt as it is put to the model."""


@cache
def offline_questions(count: int = QUESTION_COUNT) -> tuple[Instruction, ...]:
    """Return held-out questions, each once, as evenly over the kinds as the kinds have any.

    Args:
        count: how many.
    """
    pools = {kind: _held_out(kind, count) for kind in OPEN_KINDS}
    shares = _even_shares({kind: len(pool) for kind, pool in pools.items()}, count)
    chosen = [item for kind in OPEN_KINDS for item in pools[kind][: shares[kind]]]
    random.Random(_SEED).shuffle(chosen)  # noqa: S311 - so that a prefix is a fair sample of the whole
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that breaks off, and words of which one comes next.

    Attributes:
        text: what stands before the word.
        choices: words; the others come next in other places.
        right: place of the right one.
    """

    text: str
    choices: tuple[str, ...]
    right: int


@cache
def offline_passages(count: int = WORD_COUNT) -> tuple[Passage, ...]:
    """Return passages from held-out documents, each place once.

    Args:
        count: how many, at most.
    """
    _, held_out = split_documents(standard_library_documents())
    found = list(dict.fromkeys(item for document in held_out for item in _passages(document)))
    source = random.Random(_SEED)  # noqa: S311 - not a secret
    source.shuffle(found)  # so that a prefix is a fair sample of the whole
    words = sorted({word for _, word in found})
    return tuple(_choice(text, word, words, source) for text, word in found[:count])


def offline_task_config(name: str, render: Render) -> dict[str, Any]:
    """Return a task's configuration for lm-eval, with its items in memory.

    Args:
        name: one of :data:`OFFLINE_TASKS`.
        render: question → prompt.
    """
    if name == QUIZ:
        return question_config(
            name,
            [
                {"prompt": render(item.question), "answer": item.answer, "kind": item.kind}
                for item in offline_questions()
            ],
        )
    rows = [
        {"text": passage.text, "choices": list(passage.choices), "right": passage.right}
        for passage in offline_passages()
    ]
    return {
        "task": name,
        "custom_dataset": in_memory(rows),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def question_config(name: str, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the configuration of a task whose answers must be met exactly after trimming.

    Args:
        name: the task's.
        rows: ``prompt`` and ``answer`` each.
    """
    return {
        "task": name,
        "custom_dataset": in_memory(rows),
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": LONGEST_ANSWER, "do_sample": False},
        "filter_list": [
            {
                "name": "trimmed",
                "filter": [
                    {"function": "regex", "regex_pattern": r"^\s*(.*?)\s*$", "fallback": ""},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def in_memory(rows: Sequence[Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
    """Return what lm-eval calls for a data set, so that nothing is left in a cache."""

    def build(**_: Any) -> Mapping[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(list(rows))}

    return build


def _held_out(kind: str, most: int) -> list[Instruction]:
    source = random.Random(f"{_SEED}/{kind}")  # noqa: S311 - not a secret
    found: dict[str, Instruction] = {}
    for _ in range(DRAWS):
        question, answer = KINDS[kind](source)
        if is_held_out(question):
            found.setdefault(question, Instruction(kind, question, answer))
        if len(found) == most:
            break
    return list(found.values())


def _even_shares(available: Mapping[str, int], count: int) -> dict[str, int]:
    """Divide a number over pools evenly; what a small one lacks the larger ones give."""
    shares: dict[str, int] = {}
    left = count
    for place, (name, pool) in enumerate(sorted(available.items(), key=lambda item: (item[1], item[0]))):
        shares[name] = min(pool, left // (len(available) - place))
        left -= shares[name]
    return shares


def _choice(text: str, word: str, words: list[str], source: random.Random) -> Passage:
    others = [other for other in source.sample(words, CHOICES) if other != word][: CHOICES - 1]
    choices = [word, *others]
    source.shuffle(choices)
    return Passage(text, tuple(choices), choices.index(word))


def _passages(document: str) -> Iterator[tuple[str, str]]:
    """Yield every few words what stands before a word, and the word."""
    words = list(re.finditer(r"\S+", document))
    for place in range(SHORTEST_CONTEXT, len(words), WORD_STRIDE):
        letters = _WORD.match(words[place].group())
        blank = document[words[place - 1].end() : words[place].start()]
        if letters and blank == " ":  # within a line, where the word follows upon one space
            first = words[max(0, place - LONGEST_CONTEXT)].start()
            yield document[first : words[place - 1].end()], letters.group()
