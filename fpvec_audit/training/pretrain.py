"""Continued pre-training on plain text: what an infringer does who has documents and no instructions."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import SettingsError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.training.checkpoint_files import context_length
from fpvec_audit.training.dataset import draw_windows, encode_documents
from fpvec_audit.training.fine_tune import FineTuneReport, FineTuneSettings, train_copy
from fpvec_audit.training.loop import Batch, StepBatches


def continue_pretraining(
    source: Path,
    out: Path,
    documents: Sequence[str],
    *,
    tokens: int,
    settings: FineTuneSettings | None = None,
    adapter: ArchitectureAdapter | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    label: str = "pre-training",
) -> FineTuneReport:
    """Train a checkpoint to predict plain text and write it beside the source's other files, atomically.

    Args:
        source: checkpoint directory.
        out: new directory; must not exist.
        documents: texts; an end of text follows each.
        tokens: tokens in a window, at most the model's context; windows are drawn anywhere in the joined text.
        settings: how to walk; ``rows_per_step`` counts windows.
        adapter: knows tensor names that differ between files and model; None where they do not.
        seed: places of the windows, and the adapters' initial weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: where to report.
        label: what the progress bar says.

    Raises:
        TrainingError: no text, or a loss that is not finite.
        CheckpointError: the source cannot be loaded.
        OutputError: ``out`` exists or cannot be written.
    """
    settings = settings or FineTuneSettings()

    def batches(tokenizer: Any) -> StepBatches:
        stream = encode_documents(tokenizer, documents)
        if len(stream) < 2:
            raise TrainingError("there is no text to train on", advice="give documents of two tokens or more")
        length = min(tokens, context_length(source) or tokens, len(stream))

        def make(_step: int, numbers: random.Random) -> Batch:
            return {"documents": draw_windows(stream, settings.rows_per_step, length, numbers)}

        return StepBatches(settings.steps, seed, make)

    return train_copy(
        source,
        out,
        batches,
        examples=len(documents),
        settings=settings,
        adapter=adapter,
        seed=seed,
        device=device,
        progress=progress,
        label=label,
    )


def read_text(path: Path) -> str:
    """Read a plain text file.

    Raises:
        SettingsError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise SettingsError(f"{path} holds no text", advice="give a file with some")
    return text
