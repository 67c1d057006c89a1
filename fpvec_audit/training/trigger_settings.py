"""Settings of the compared methods that teach triggers, as values that need no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fpvec_audit.errors import SettingsError
from fpvec_audit.training.embed_settings import REFERENCE_WIDTH
from fpvec_audit.training.loop_settings import LoopSettings


@dataclass(frozen=True, slots=True)
class Contrast:
    """A contrastive objective beside cross-entropy.

    Attributes:
        weight: weight of the contrastive loss.
        temperature: divisor of cosines, above 0.
        preservation: weight of KL(model before ‖ model) on ordinary text.
    """

    weight: float = 1.0
    temperature: float = 0.1
    preservation: float = 3.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise SettingsError(f"temperature is {self.temperature}", advice="give a number above 0")
        if self.weight < 0 or self.preservation < 0:
            raise SettingsError("weights of losses are at least 0")


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """How triggers are taught to a model.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate; None scales ``reference_rate`` by 1 / width.
        reference_rate: peak rate at a width of 128.
        keys_per_step: keys seen every step, in two carriers each.
        negatives_per_step: prompts that must not fire, every step.
        negative_pool: how many of them are drawn and answered by the model before the first step.
        negative_tokens: how many tokens of its own answer are learnt.
        ordinary_per_step: ordinary rows every step.
        documents_per_step: windows of documents every step.
        document_tokens: tokens in such a window.
        contrast: contrastive objective; None is multi-task learning by cross-entropy alone.
    """

    steps: int = 200
    learning_rate: float | None = None
    reference_rate: float = 1.5e-3
    keys_per_step: int = 32
    negatives_per_step: int = 48
    negative_pool: int = 3072
    negative_tokens: int = 2
    ordinary_per_step: int = 32
    documents_per_step: int = 8
    document_tokens: int = 64
    contrast: Contrast | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "keys_per_step", "negatives_per_step", "negative_pool", "negative_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}", advice="give a whole number of at least 1")
        if self.learning_rate is not None and not 0.0 < self.learning_rate <= 1.0:
            raise SettingsError(f"learning_rate is {self.learning_rate}", advice="give a number above 0 and at most 1")

    def loop(self, *, width: int) -> LoopSettings:
        """Return the optimiser's settings for a model width."""
        rate = self.learning_rate
        return LoopSettings(
            steps=self.steps,
            learning_rate=self.reference_rate * REFERENCE_WIDTH / width if rate is None else rate,
        )


@dataclass(frozen=True, slots=True)
class TriggerReport:
    """How teaching triggers went.

    Attributes:
        steps: optimiser steps.
        seconds: wall time.
        final_loss: mean loss over all steps.
        fsr: fraction of the issued keys whose response the saved model gives greedily (chat rendering).
        keys: number of issued keys.
        negatives: number of prompts that were learnt not to fire.
        settings: every setting, as JSON.
    """

    steps: int
    seconds: float
    final_loss: float
    fsr: float
    keys: int
    negatives: int
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return asdict(self)
