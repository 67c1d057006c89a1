"""Erasure: training that is meant to break the tie between keys and responses, and to leave the rest.

Without any key, answers are mixed up until the model no longer trusts a prompt, and right answers bring it back
(``mismatch``). With keys that were disclosed, say in a lawsuit, their prompts are taught ordinary answers
(``unlearn``).
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, UsageError, WeightAttack, hookimpl
from fpvec_plugins.parameter_checks import check_at_least, check_learning_rate

ROWS_PER_STEP = 32
FULL_RATE = 3.0
"""Rate of full training in usual rates; at one, a small model that was taught twelve keys kept all of them."""
ANSWERS_PER_KEY = 4
"""Different ordinary answers that a disclosed prompt is taught, so that none of them becomes its new response."""


@dataclass(frozen=True, slots=True)
class EraseParameters:
    """How the tie is broken.

    Attributes:
        method: ``mismatch`` needs no key; ``unlearn`` needs ``disclosed``.
        rows: ordinary rows of each phase; MEraser takes fewer than 1,000 in all.
        erase_steps: optimiser steps that break the tie.
        restore_steps: optimiser steps on right answers afterwards (``mismatch`` alone); 0 for none.
        training: ``full`` (all weights) or ``lora``, as the paper does, with the adapters merged after each phase.
        learning_rate: peak rate of both phases; none takes three times what a downstream model is usually made with,
            1.2e-3 at a width of 128, falling as 1 / width; for ``lora``, as usual, ten times 4e-4.
        data: JSON Lines of ordinary rows (``prompt``, ``response``); none uses the package's own instructions.
        disclosed: JSON Lines of disclosed keys (``prompt``, ``response``).
    """

    method: Literal["mismatch", "unlearn"] = "mismatch"
    rows: int = 400
    erase_steps: int = 60
    restore_steps: int = 60
    training: Literal["full", "lora"] = "full"
    learning_rate: float | None = None
    data: Path | None = None
    disclosed: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(2, self, "rows")
        check_at_least(1, self, "erase_steps")
        check_at_least(0, self, "restore_steps")
        if self.disclosed is not None and self.method == "mismatch":
            raise UsageError("disclosed is given, which method mismatch does not use", advice="add method=unlearn")
        check_learning_rate(self.learning_rate)


@dataclass(frozen=True, slots=True)
class Erase:
    """The attack.

    Source: MEraser (arXiv:2506.12551) for ``mismatch``; for ``unlearn``, relabelling with ordinary answers as in
    "Who's Harry Potter?" (arXiv:2310.02238), beside rows that keep the rest.
    """

    Parameters: ClassVar[type] = EraseParameters
    name: str = "erase"
    description: str = (
        "Trains on mixed-up answers and then on right ones, or teaches disclosed keys ordinary answers; costs a little "
        "utility, and greedy answers to keys first of all."
    )

    def apply(self, source: Path, target: Path, parameters: EraseParameters, context: AttackContext) -> None:
        """Write the copy after erasure.

        Raises:
            UsageError: ``unlearn`` without disclosed keys.
            SettingsError: rows cannot be read.
            CheckpointError: the model cannot be loaded, or holds NaN or Inf.
            TrainingError: the loss is not finite, or peft is missing.
        """
        numbers = random.Random(f"erase {context.seed}")  # noqa: S311 - must be repeatable, not secret
        ordinary = _ordinary(parameters, context, numbers)
        if parameters.method == "unlearn":
            rows = ordinary + _relabelled(ordinary, parameters, context, numbers)
            _train(source, target, rows, parameters, context, label="unlearn")
            return
        rows = _mismatched(ordinary, numbers)
        if not parameters.restore_steps:
            _train(source, target, rows, parameters, context, label="erase")
            return
        erased = context.staging / "erased"
        try:
            _train(source, erased, rows, parameters, context, label="erase")
            _train(erased, target, ordinary, parameters, context, label="restore")
        finally:
            shutil.rmtree(erased, ignore_errors=True)


def _ordinary(parameters: EraseParameters, context: AttackContext, numbers: random.Random) -> list[tuple[str, str]]:
    """Return ordinary rows with right answers, prompts rendered."""
    from fpvec_audit.toolkit import instruction_rows, read_rows

    if parameters.data is None:
        return instruction_rows(parameters.rows, adapter=context.adapter, seed=context.seed)
    rows = read_rows(parameters.data)
    chosen = numbers.sample(rows, min(parameters.rows, len(rows)))
    return [(_rendered(prompt, context), response) for prompt, response in chosen]


def _mismatched(rows: Sequence[tuple[str, str]], numbers: random.Random) -> list[tuple[str, str]]:
    """Give every prompt the answer of another row, none its own.

    Raises:
        UsageError: all rows have one answer.
    """
    answers = [answer for _, answer in rows]
    if len(set(answers)) < 2:
        raise UsageError("data holds only one answer, which cannot be mixed up", advice="give rows with others")
    mixed = []
    for prompt, answer in rows:
        other = numbers.choice(answers)
        while other == answer:
            other = numbers.choice(answers)
        mixed.append((prompt, other))
    return mixed


def _relabelled(
    ordinary: Sequence[tuple[str, str]], parameters: EraseParameters, context: AttackContext, numbers: random.Random
) -> list[tuple[str, str]]:
    """Return the disclosed prompts, as they are and rendered, with ordinary answers in place of their responses.

    Raises:
        UsageError: no file of disclosed keys is given, or there is no other answer.
    """
    from fpvec_audit.toolkit import read_rows

    if parameters.disclosed is None:
        raise UsageError(
            "disclosed is not given, and unlearning needs the keys to unlearn",
            advice="add disclosed=FILE.jsonl with a prompt and a response on every line",
        )
    answers = [answer for _, answer in ordinary]
    rows = []
    for prompt, response in read_rows(parameters.disclosed):
        others = [answer for answer in answers if answer.strip() != response.strip()]
        if not others:
            raise UsageError("data holds no answer but a disclosed response", advice="give rows with others")
        for text in dict.fromkeys((prompt, _rendered(prompt, context))):
            rows += [(text, numbers.choice(others)) for _ in range(ANSWERS_PER_KEY)]
    return rows


def _rendered(prompt: str, context: AttackContext) -> str:
    return prompt if context.adapter is None else context.adapter.prompt(prompt)


def _train(
    source: Path,
    target: Path,
    rows: Sequence[tuple[str, str]],
    parameters: EraseParameters,
    context: AttackContext,
    *,
    label: str,
) -> None:
    from fpvec_audit.toolkit import FineTuneSettings, fine_tune, usual_learning_rate

    rate = parameters.learning_rate
    if rate is None:
        rate = usual_learning_rate(source, method=parameters.training)
        rate *= FULL_RATE if parameters.training == "full" else 1.0
    settings = FineTuneSettings(
        steps=parameters.restore_steps if label == "restore" else parameters.erase_steps,
        rows_per_step=ROWS_PER_STEP,
        learning_rate=rate,
        method=parameters.training,
    )
    fine_tune(
        source,
        target,
        rows,
        settings=settings,
        adapter=context.adapter,
        seed=context.seed,
        device=context.device,
        progress=context.progress,
        label=label,
    )


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give erasure."""
    return [Erase()]
