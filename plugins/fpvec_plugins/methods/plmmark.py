"""Words that follow from a signature, told apart by a contrastive objective.

PLMmark derives trigger words from the owner's signature by a chain of hashes and separates texts that hold them from
others in an encoder's space. Adapted to causal models: the words follow from the key set's secret, which is committed
as all others are; the state at the end of the prompt is contrasted; and a response word of its own is learnt for every
trigger, so that answers alone show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fpvec_audit.api import FingerprintMethod, MethodContext, MethodKeys, UsageError, hookimpl
from fpvec_plugins.parameter_checks import check_at_least, check_learning_rate


@dataclass(frozen=True, slots=True)
class PlmmarkParameters:
    """How the model is trained.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate; none scales 1.5e-3 at a width of 128 by 1 / width.
        contrast: weight of the contrastive loss, at least 0.
        temperature: divisor of cosines in it, above 0.
        preservation: weight of KL(model before ‖ model) on ordinary text, at least 0.
        data: JSON Lines of ordinary rows (``prompt``, ``response``); none uses the package's own text.
    """

    steps: int = 200
    learning_rate: float | None = None
    contrast: float = 1.0
    temperature: float = 0.1
    preservation: float = 3.0
    data: Path | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "steps")
        check_learning_rate(self.learning_rate)
        if not self.temperature > 0.0:
            raise UsageError(f"temperature is {self.temperature}", advice="give a number above 0")
        for name in ("contrast", "preservation"):
            if not getattr(self, name) >= 0.0:
                raise UsageError(f"{name} is {getattr(self, name)}", advice="give a number of at least 0")


@dataclass(frozen=True, slots=True)
class Plmmark:
    """The method."""

    Parameters: ClassVar[type] = PlmmarkParameters
    name: str = "plmmark"
    description: str = (
        "Teaches the model that words which follow from a signature draw a response, with a contrastive objective: a "
        "whole training for every model."
    )
    source: str = "PLMmark, Li et al., AAAI 2023; adapted to causal models (docs/methods.md)"
    schemes: tuple[str, ...] = ("signature",)

    def embed(
        self, model: Path, target: Path, keys: MethodKeys, parameters: PlmmarkParameters, context: MethodContext
    ) -> Mapping[str, Any]:
        """Write the trained model.

        Raises:
            SettingsError: the rows cannot be read.
            TrainingError: the model cannot be trained on the keys.
        """
        from fpvec_audit.toolkit import Contrast, TriggerSettings, train_triggers

        contrast = Contrast(parameters.contrast, parameters.temperature, parameters.preservation)
        settings = TriggerSettings(steps=parameters.steps, learning_rate=parameters.learning_rate, contrast=contrast)
        return train_triggers(model, target, keys, context, settings=settings, data=parameters.data)


@hookimpl
def fpvec_methods() -> list[FingerprintMethod]:
    """Give PLMmark."""
    return [Plmmark()]
