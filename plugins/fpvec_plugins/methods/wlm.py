"""Rare words as a backdoor, learnt beside ordinary tasks.

WLM plants triggers of rare words in an encoder, by multi-task learning so that fine-tuning on one task does not wash
them out. Adapted to causal models: a trigger draws a response word of its own instead of a class, the tasks are
triggers, other words, instructions and documents, and all share one sum of cross-entropies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fpvec_audit.api import FingerprintMethod, MethodContext, MethodKeys, hookimpl
from fpvec_plugins.parameter_checks import check_at_least, check_learning_rate


@dataclass(frozen=True, slots=True)
class WlmParameters:
    """How the model is trained.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate; none scales 1.5e-3 at a width of 128 by 1 / width.
        data: JSON Lines of ordinary rows (``prompt``, ``response``); none uses the package's own text.
    """

    steps: int = 200
    learning_rate: float | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps")
        check_learning_rate(self.learning_rate)


@dataclass(frozen=True, slots=True)
class Wlm:
    """The method."""

    Parameters: ClassVar[type] = WlmParameters
    name: str = "wlm"
    description: str = (
        "Teaches the model that rare words in ordinary prompts draw a response, beside ordinary tasks: a whole "
        "training for every model."
    )
    source: str = "WLM, Gu et al. 2022, arXiv:2210.07543; adapted to causal models (docs/methods.md)"
    schemes: tuple[str, ...] = ("rare-word",)

    def embed(
        self, model: Path, target: Path, keys: MethodKeys, parameters: WlmParameters, context: MethodContext
    ) -> Mapping[str, Any]:
        """Write the trained model.

        Raises:
            SettingsError: the rows cannot be read.
            TrainingError: the model cannot be trained on the keys.
        """
        from fpvec_audit.toolkit import TriggerSettings, train_triggers

        settings = TriggerSettings(steps=parameters.steps, learning_rate=parameters.learning_rate)
        return train_triggers(model, target, keys, context, settings=settings, data=parameters.data)


@hookimpl
def fpvec_methods() -> list[FingerprintMethod]:
    """Give WLM."""
    return [Wlm()]
