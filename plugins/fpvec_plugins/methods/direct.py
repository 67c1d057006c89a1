"""Instruction fine-tuning of every model: the fingerprint is trained into the model itself, with no transfer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fpvec_audit.api import FingerprintMethod, MethodContext, MethodKeys, UsageError, hookimpl


@dataclass(frozen=True, slots=True)
class DirectParameters:
    """How the model is trained.

    Attributes:
        preset: training settings, ``default`` or ``paper``.
        perturbation: what the training perturbs weights with; none takes the preset's choice.
        steps: optimiser steps; none takes the preset's.
        data: JSON Lines of ordinary rows (``prompt``, ``response``); none uses the package's own text.
    """

    preset: Literal["default", "paper"] = "default"
    perturbation: Literal["proxies", "noise", "none"] | None = None
    steps: int | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Direct:
    """The method."""

    Parameters: ClassVar[type] = DirectParameters
    name: str = "direct"
    description: str = "Trains the fingerprint into the model itself: a whole training for every model."
    source: str = "IF-SFT, arXiv:2401.12255, as FP-VEC (arXiv:2409.08846) compares with it"
    schemes: tuple[str, ...] = ("independent", "if-simple", "rare-word", "signature")

    def embed(
        self, model: Path, target: Path, keys: MethodKeys, parameters: DirectParameters, context: MethodContext
    ) -> Mapping[str, Any]:
        """Write the trained model.

        Raises:
            SettingsError: the rows cannot be read.
            TrainingError: the model cannot be trained on the keys.
        """
        from fpvec_audit.toolkit import train_fingerprint

        return train_fingerprint(
            model,
            target,
            keys,
            context,
            preset=parameters.preset,
            perturbation=parameters.perturbation,
            steps=parameters.steps,
            data=parameters.data,
        )


@hookimpl
def fpvec_methods() -> list[FingerprintMethod]:
    """Give direct training."""
    return [Direct()]
