"""Further fine-tuning: what every owner of a copy may do, with no thought of fingerprints.

In full or with low-rank adapters, on the user's rows or on the package's own ordinary instructions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, WeightAttack, hookimpl
from fpvec_plugins.parameter_checks import check_at_least, check_learning_rate

MOST_DRAWN_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FineTuneParameters:
    """How hard the copy is trained.

    Attributes:
        method: ``full`` (all weights) or ``lora`` (low-rank adapters on all linear layers, merged at the end).
        steps: optimiser steps.
        batch: rows in each.
        learning_rate: peak rate; none scales 4e-4 at a width of 128 by 1 / width, ten times that for ``lora`` – what a
            downstream model is usually made with.
        rank: rank of the adapters.
        alpha: their scale, as peft means it.
        data: JSON Lines of rows (``prompt``, ``response``); none uses the package's own instructions.
    """

    method: Literal["full", "lora"] = "full"
    steps: int = 120
    batch: int = 32
    learning_rate: float | None = None
    rank: int = 8
    alpha: int = 16
    data: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps", "batch", "rank", "alpha")
        check_learning_rate(self.learning_rate)


@dataclass(frozen=True, slots=True)
class FineTune:
    """The attack."""

    Parameters: ClassVar[type] = FineTuneParameters
    name: str = "fine_tune"
    description: str = (
        "Trains the copy further on ordinary instructions, in full or with low-rank adapters, as any downstream user "
        "does; utility is kept or shifts to the new rows."
    )

    def apply(self, source: Path, target: Path, parameters: FineTuneParameters, context: AttackContext) -> None:
        """Write the fine-tuned copy.

        Raises:
            SettingsError: the rows cannot be read.
            TrainingError: the loss is not finite, or peft is missing.
        """
        from fpvec_audit.toolkit import FineTuneSettings, fine_tune, instruction_rows, read_rows

        if parameters.data is None:
            count = min(parameters.steps * parameters.batch, MOST_DRAWN_ROWS)
            rows = instruction_rows(count, adapter=context.adapter, seed=context.seed)
        else:
            render = context.adapter.prompt if context.adapter is not None else str
            rows = [(render(prompt), response) for prompt, response in read_rows(parameters.data)]
        settings = FineTuneSettings(
            steps=parameters.steps,
            rows_per_step=parameters.batch,
            learning_rate=_learning_rate(source, parameters),
            method=parameters.method,
            lora_rank=parameters.rank,
            lora_alpha=parameters.alpha,
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
        )


def _learning_rate(source: Path, parameters: FineTuneParameters) -> float:
    from fpvec_audit.toolkit import usual_learning_rate

    given = parameters.learning_rate
    return usual_learning_rate(source, method=parameters.method) if given is None else given


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give further fine-tuning."""
    return [FineTune()]
