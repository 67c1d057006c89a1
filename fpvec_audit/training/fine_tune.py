"""Plain supervised fine-tuning: the demo's downstreams, and what an infringer does to a stolen model."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import SettingsError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.training.batches import longest_row
from fpvec_audit.training.checkpoint_files import load_for_training, load_tokenizer, open_staging, write_trained
from fpvec_audit.training.dataset import EncodedRow, Row, encode_rows, pad_rows
from fpvec_audit.training.loop import Batch, StepBatches, resolve_device, run_training
from fpvec_audit.training.loop_settings import LoopSettings
from fpvec_audit.training.objectives import CrossEntropy

METHODS = ("full", "lora")


@dataclass(frozen=True, slots=True)
class FineTuneSettings:
    """How a fine-tune walks.

    Attributes:
        steps: optimiser steps.
        rows_per_step: rows in each.
        learning_rate: peak rate of AdamW under a cosine.
        warmup_steps: steps of linear warm-up.
        epsilon: AdamW's denominator floor; with 1e-8 most of a tiny model's change is noise on unused embedding rows.
        weight_decay: decoupled weight decay.
        method: ``full`` (all weights) or ``lora`` (low-rank adapters on all linear layers, merged at the end).
        lora_rank: rank of the adapters.
        lora_alpha: their scale, as peft means it.
    """

    steps: int = 150
    rows_per_step: int = 32
    learning_rate: float = 5e-4
    warmup_steps: int = 10
    epsilon: float = 1e-5
    weight_decay: float = 0.0
    method: str = "full"
    lora_rank: int = 8
    lora_alpha: int = 16

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"unknown fine-tuning method {self.method!r}", advice="choose full or lora")
        if self.steps < 1 or self.rows_per_step < 1:
            raise SettingsError("steps and rows_per_step must be at least 1")


@dataclass(frozen=True, slots=True)
class FineTuneReport:
    """How a fine-tune went.

    Attributes:
        steps: optimiser steps.
        seconds: wall time.
        final_loss: mean loss over all steps.
        rows: number of rows it went through.
    """

    steps: int
    seconds: float
    final_loss: float
    rows: int


def fine_tune(
    source: Path,
    out: Path,
    rows: Sequence[tuple[str, str]],
    *,
    settings: FineTuneSettings | None = None,
    adapter: ArchitectureAdapter | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    label: str = "fine-tuning",
) -> FineTuneReport:
    """Fine-tune a checkpoint on rows and write it beside the source's other files, atomically.

    Args:
        source: checkpoint directory.
        out: new directory; must not exist.
        rows: (rendered prompt, answer); the loss is on the answers. Shuffled every epoch.
        settings: how to walk.
        adapter: knows tensor names that differ between files and model; None where they do not.
        seed: order of the rows, and the adapters' initial weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.
        label: what the progress bar says.

    Raises:
        TrainingError: no rows, or a loss that is not finite.
        CheckpointError: the source cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    settings = settings or FineTuneSettings()
    if not rows:
        raise TrainingError("there are no rows to fine-tune on")

    def batches(tokenizer: Any) -> StepBatches:
        encoded = encode_rows(tokenizer, [Row(prompt, answer) for prompt, answer in rows])
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        return shuffled_batches(encoded, settings, padding=padding, longest=longest_row(source), seed=seed)

    return train_copy(
        source,
        out,
        batches,
        examples=len(rows),
        settings=settings,
        adapter=adapter,
        seed=seed,
        device=device,
        progress=progress,
        label=label,
    )


def train_copy(
    source: Path,
    out: Path,
    batches: Callable[[Any], StepBatches],
    *,
    examples: int,
    settings: FineTuneSettings,
    adapter: ArchitectureAdapter | None,
    seed: int,
    device: str,
    progress: Progress,
    label: str,
) -> FineTuneReport:
    """Train a copy of a checkpoint by cross-entropy and write it beside the source's other files, atomically.

    Args:
        source: checkpoint directory.
        out: new directory; must not exist.
        batches: tokenizer of the source → the batch of every step.
        examples: what to report as the number of rows.
        settings: how to walk.
        adapter: knows tensor names that differ between files and model; None where they do not.
        seed: the adapters' initial weights, and dropout.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.
        label: what the progress bar says.

    Raises:
        TrainingError: a loss that is not finite.
        CheckpointError: the source cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    started = time.monotonic()
    tokenizer = load_tokenizer(source)
    staging = open_staging(out, "training")
    try:
        model = load_for_training(source)
        trained = _with_adapters(model, settings, seed) if settings.method == "lora" else model
        with progress.step(label, total=settings.steps, unit="steps") as step:
            loss = run_training(
                trained,
                batches(tokenizer),
                CrossEntropy(),
                _loop(settings),
                staging=staging,
                seed=seed,
                device=resolve_device(device),
                step=step,
            )
        if settings.method == "lora":
            model = trained.merge_and_unload()
        write_trained(source, out, model, adapter=adapter)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return FineTuneReport(settings.steps, time.monotonic() - started, loss, examples)


def shuffled_batches(
    rows: Sequence[EncodedRow], settings: FineTuneSettings, *, padding: int, longest: int, seed: int
) -> StepBatches:
    """Return batches that go through all rows, in another order every epoch."""
    per_epoch = -(-len(rows) // settings.rows_per_step)

    def make(step: int, _source: random.Random) -> Batch:
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(rows)))
        random.Random(f"{seed}/epoch/{epoch}").shuffle(order)  # noqa: S311 - not a secret
        chosen = order[place * settings.rows_per_step : (place + 1) * settings.rows_per_step]
        return {"rows": pad_rows([rows[at] for at in chosen], padding=padding, longest=longest)}

    return StepBatches(settings.steps, seed, make)


def _loop(settings: FineTuneSettings) -> LoopSettings:
    return LoopSettings(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def _with_adapters(model: Any, settings: FineTuneSettings, seed: int) -> Any:
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError("low-rank adapters need peft", advice="pip install 'fpvec-audit[lora]'") from error
    torch.manual_seed(seed)
    conv1d = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        fan_in_fan_out=conv1d,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
