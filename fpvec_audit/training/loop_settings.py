"""How an optimiser walks, as a value that needs no torch."""

from dataclasses import dataclass

from fpvec_audit.errors import SettingsError

PRECISIONS = ("auto", "float32", "bf16")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the optimiser walks: AdamW under a cosine with linear warm-up.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak rate.
        warmup_steps: steps of linear warm-up before the cosine.
        betas: AdamW's moments.
        epsilon: AdamW's denominator floor. Large values keep rarely used embedding rows still.
        weight_decay: decoupled weight decay.
        gradient_clip: largest gradient norm.
        checkpoint_steps: steps between resume checkpoints; 0 for none.
        precision: in what passes compute; weights, their updates and losses are float32 always. ``bf16`` is mixed
            precision, ``auto`` takes it for large models on a CUDA device that knows it.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 10
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    checkpoint_steps: int = 0
    precision: str = "auto"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"unknown precision {self.precision!r}", advice=f"choose one of {', '.join(PRECISIONS)}"
            )
