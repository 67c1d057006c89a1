"""Continued pre-training: the copy learns plain text, as somebody does who adapts it to a language or a field."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fpvec_audit.api import AttackContext, QueryAttack, WeightAttack, hookimpl
from fpvec_plugins.parameter_checks import check_at_least, check_learning_rate


@dataclass(frozen=True, slots=True)
class ContinuePretrainingParameters:
    """How hard the copy is trained.

    Attributes:
        method: ``full`` (all weights) or ``lora`` (low-rank adapters on all linear layers, merged at the end).
        steps: optimiser steps.
        batch: windows in each.
        tokens: tokens in a window, at least 2.
        learning_rate: peak rate; none takes what a downstream model is usually made with: 4e-4 at a width of 128,
            falling as 1 / width, ten times that for ``lora``.
        rank: rank of the adapters.
        alpha: their scale, as peft means it.
        data: plain text file; none uses the package's own documents.
    """

    method: Literal["full", "lora"] = "full"
    steps: int = 120
    batch: int = 16
    tokens: int = 128
    learning_rate: float | None = None
    rank: int = 8
    alpha: int = 16
    data: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps", "batch", "rank", "alpha")
        check_at_least(2, self, "tokens")
        check_learning_rate(self.learning_rate)


@dataclass(frozen=True, slots=True)
class ContinuePretraining:
    """The attack.

    Source: "Don't Stop Pretraining" (arXiv:2004.10964).
    """

    Parameters: ClassVar[type] = ContinuePretrainingParameters
    name: str = "continue_pretraining"
    description: str = (
        "Trains the copy further on plain text; what it knew of instructions fades with the steps, unless the text "
        "holds some."
    )

    def apply(
        self, source: Path, target: Path, parameters: ContinuePretrainingParameters, context: AttackContext
    ) -> None:
        """Write the copy that was trained further.

        Raises:
            SettingsError: the text cannot be read.
            CheckpointError: the model cannot be loaded, or holds NaN or Inf.
            TrainingError: the loss is not finite, or peft is missing.
        """
        from fpvec_audit.toolkit import (
            FineTuneSettings,
            continue_pretraining,
            ordinary_documents,
            read_text,
            usual_learning_rate,
        )

        documents = ordinary_documents() if parameters.data is None else (read_text(parameters.data),)
        rate = parameters.learning_rate
        continue_pretraining(
            source,
            target,
            documents,
            tokens=parameters.tokens,
            settings=FineTuneSettings(
                steps=parameters.steps,
                rows_per_step=parameters.batch,
                learning_rate=usual_learning_rate(source, method=parameters.method) if rate is None else rate,
                method=parameters.method,
                lora_rank=parameters.rank,
                lora_alpha=parameters.alpha,
            ),
            adapter=context.adapter,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give continued pre-training."""
    return [ContinuePretraining()]
