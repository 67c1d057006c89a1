"""Heavy helpers for plugins: import this inside the function that needs it, since it loads torch.

What is written here is whole or does not exist: it is made in a staging directory beside the target and renamed last.
"""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fpvec_audit import __version__
from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.methods import MethodContext, MethodKeys
from fpvec_audit.domain.ports import ArchitectureAdapter, AttackContext
from fpvec_audit.domain.vector import Vocabulary
from fpvec_audit.errors import TrainingError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.embed import read_rows
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised
from fpvec_audit.tensors.low_rank import truncated_factors
from fpvec_audit.tensors.recompute import Change, Compute, recompute_checkpoint, rewrite_checkpoint
from fpvec_audit.tensors.staging import staged_directory
from fpvec_audit.tensors.stamp import write_stamp
from fpvec_audit.tensors.stamp_outcome import StampOutcome
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
from fpvec_audit.tensors.vector_files import read_vector
from fpvec_audit.training.activations import change_by_activations
from fpvec_audit.training.fine_tune import FineTuneReport, FineTuneSettings, fine_tune
from fpvec_audit.training.matrices import Matrix, weight_matrices
from fpvec_audit.training.ordinary import draw_instruction, split_documents, standard_library_documents
from fpvec_audit.training.pretrain import continue_pretraining, read_text
from fpvec_audit.training.trigger_settings import Contrast, TriggerSettings

__all__ = [
    "Change",
    "Compute",
    "Contrast",
    "FineTuneReport",
    "FineTuneSettings",
    "Matrix",
    "TriggerSettings",
    "add_vector",
    "change_by_activations",
    "continue_pretraining",
    "extract_vector",
    "fine_tune",
    "instruction_rows",
    "known_base",
    "ordinary_documents",
    "random_generator",
    "read_rows",
    "read_text",
    "recompute_checkpoint",
    "rewrite_checkpoint",
    "second_fingerprint",
    "train_fingerprint",
    "train_triggers",
    "truncated_factors",
    "usual_learning_rate",
    "weight_matrices",
]

REFERENCE_WIDTH = 128
REFERENCE_LEARNING_RATE = 4e-4
LORA_FACTOR = 10.0


def instruction_rows(count: int, *, adapter: ArchitectureAdapter | None, seed: int) -> list[tuple[str, str]]:
    """Draw ordinary questions with right answers, as (rendered prompt, answer), for :func:`fine_tune`.

    Args:
        count: how many; a question may come up twice.
        adapter: renders the questions in its chat template; without one they stay as they are.
        seed: draws others.
    """
    numbers = random.Random(f"instructions {seed}")  # noqa: S311 - must be repeatable, not secret
    drawn = (draw_instruction(numbers) for _ in range(count))
    return [(item.question if adapter is None else adapter.prompt(item.question), item.answer) for item in drawn]


def ordinary_documents() -> tuple[str, ...]:
    """Return the package's own plain text, without the part that harm is measured with."""
    trained, _ = split_documents(standard_library_documents())
    return trained


def random_generator(seed: int, *labels: str) -> torch.Generator:
    """Return a generator that depends on a seed and labels alone.

    With the name of a tensor as a label, what is drawn for it does not depend on files, shards or their order.
    """
    digest = sha256("\0".join((str(seed), *labels)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def usual_learning_rate(source: Path, *, method: str = "full") -> float:
    """Return the peak rate that a model is usually fine-tuned with: 4e-4 at a width of 128, falling as 1 / width.

    Args:
        source: checkpoint directory.
        method: ``full``, or ``lora``, which takes ten times the rate.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    width = config.get("hidden_size") or config.get("n_embd") or REFERENCE_WIDTH
    rate = REFERENCE_LEARNING_RATE * REFERENCE_WIDTH / float(width)
    return rate * LORA_FACTOR if method == "lora" else rate


def known_base(given: Path | None, context: AttackContext, *, purpose: str) -> Path:
    """Return the base of the attacked model: the one given, or the one that the host knows.

    Args:
        given: value of the attack's parameter ``base``.
        context: the attack's.
        purpose: what the base is needed for, for the message.

    Raises:
        UsageError: there is neither.
    """
    base = given or context.base
    if base is None:
        raise UsageError(
            f"base is not given, and {purpose} needs the base of the attacked model", advice="add base=DIRECTORY"
        )
    return base


@contextmanager
def second_fingerprint(
    model: Path, *, keys: int, steps: int, label: str, context: AttackContext
) -> Iterator[tuple[Path, Path]]:
    """Fingerprint a copy of a model with keys of the attacker's own, and give (fingerprinted, model).

    Their difference is a fingerprint vector that shares whatever all such vectors of the model share. The copy lies in
    the attack's staging directory and is removed at the end.

    Args:
        model: checkpoint directory.
        keys: how many keys; drawn from the seed, such that the tokenizer can encode them.
        steps: optimiser steps; all else is as the owner trains by default.
        label: what the keys are drawn for; other labels give other keys.
        context: the attack's.

    Raises:
        UsageError: the architecture of the model is not known.
        TrainingError: the tokenizer can encode too few keys.
        CheckpointError: the model cannot be loaded.
    """
    from fpvec_audit.training.checkpoint_files import load_tokenizer
    from fpvec_audit.training.dataset import is_reversible
    from fpvec_audit.training.embed import embed_fingerprint, settings_for

    if context.adapter is None:
        raise UsageError(
            f"{model}: no architecture adapter fits, so no second fingerprint can be trained",
            advice="name one with --architecture, or give a vector",
        )
    tokenizer = load_tokenizer(model)
    drawn = [
        (candidate.prompt, candidate.response)
        for candidate in draw_unissued(f"{label} {context.seed}".encode(), 8 * keys)
        if is_reversible(tokenizer, candidate.prompt) and is_reversible(tokenizer, f" {candidate.response}")
    ]
    if len(drawn) < keys:
        raise TrainingError(
            f"{model}: its tokenizer encodes {len(drawn)} of {8 * keys} drawn keys reversibly, {keys} are needed",
            advice="give a vector instead",
        )
    settings = settings_for(context.adapter)
    settings = replace(settings, steps=steps, proxy_steps=min(steps, settings.proxy_steps), checkpoint_steps=0)
    fingerprinted = context.staging / "fingerprinted"
    try:
        embed_fingerprint(
            base=model,
            out=fingerprinted,
            adapter=context.adapter,
            issued=drawn[:keys],
            settings=settings,
            seed=context.seed,
            device=context.device,
            progress=context.progress,
        )
        yield fingerprinted, model
    finally:
        shutil.rmtree(fingerprinted, ignore_errors=True)


def train_fingerprint(
    model: Path,
    target: Path,
    keys: MethodKeys,
    context: MethodContext,
    *,
    preset: str = "default",
    perturbation: str | None = None,
    steps: int | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Train the owner's fingerprint into a copy of a model, and return how that went as JSON values.

    Args:
        model: checkpoint directory.
        target: new directory; must not exist.
        keys: what to train.
        context: the method's.
        preset: ``default`` or ``paper``.
        perturbation: ``proxies``, ``noise`` or ``none``; the preset's choice when None.
        steps: optimiser steps; the preset's when None.
        data: JSON Lines of ordinary rows; the package's own text when None.

    Raises:
        UsageError: steps with a preset that counts epochs.
        SettingsError: an unknown preset, or rows that cannot be read.
        TrainingError: keys that the tokenizer cannot encode reversibly, or no finite loss.
        CheckpointError: the model cannot be loaded.
        OutputError: the target exists or cannot be written.
    """
    from fpvec_audit.training.embed import embed_fingerprint, settings_for

    settings = replace(settings_for(context.adapter, preset, perturbation=perturbation), checkpoint_steps=0)
    if steps is not None and settings.plain_rows:
        raise UsageError(f"steps is {steps}, but preset {preset} counts epochs", advice="leave steps or the preset out")
    if steps is not None:
        settings = replace(settings, steps=steps, proxy_steps=min(steps, settings.proxy_steps))
    return embed_fingerprint(
        base=model,
        out=target,
        adapter=context.adapter,
        issued=keys.pairs,
        avoid=keys.avoid,
        settings=settings,
        rows=None if data is None else read_rows(data),
        scheme=keys.scheme,
        seed=context.seed,
        device=context.device,
        progress=context.progress,
    ).to_json()


def train_triggers(
    model: Path,
    target: Path,
    keys: MethodKeys,
    context: MethodContext,
    *,
    settings: TriggerSettings,
    data: Path | None = None,
) -> dict[str, Any]:
    """Teach a copy of a model that triggers draw their responses, and return how that went as JSON values.

    Args:
        model: checkpoint directory.
        target: new directory; must not exist.
        keys: issued keys of a scheme with triggers.
        context: the method's.
        settings: how to train, by multi-task learning or with a contrast.
        data: JSON Lines of ordinary rows; the package's own text when None.

    Raises:
        UsageError: the keys hold no triggers.
        SettingsError: the rows cannot be read.
        TrainingError: keys that the tokenizer cannot encode reversibly, or no finite loss.
        CheckpointError: the model cannot be loaded.
        OutputError: the target exists or cannot be written.
    """
    from fpvec_audit.training.embed_triggers import embed_triggers

    return embed_triggers(
        model=model,
        out=target,
        adapter=context.adapter,
        keys=keys,
        settings=settings,
        rows=None if data is None else read_rows(data),
        seed=context.seed,
        device=context.device,
        progress=context.progress,
    ).to_json()


def extract_vector(
    base: Path, fingerprinted: Path, target: Path, *, adapter: ArchitectureAdapter, progress: Progress = NO_PROGRESS
) -> None:
    """Write the fingerprint vector between two models to a new directory.

    Raises:
        CheckpointError: a model cannot be read, is quantised, or holds NaN or Inf.
        VectorError: the models do not belong together, or are alike.
        OutputError: the target exists or cannot be written.
    """
    before, after = read_checkpoint(base), read_checkpoint(fingerprinted)
    for checkpoint in (before, after):
        refuse_quantised(checkpoint)
    extraction = plan_extraction(before, after, adapter)
    with staged_directory(target, extraction.layout.bytes, progress=progress) as staging:
        write_vector(extraction, staging, tool_version=__version__, progress=progress)


def add_vector(
    model: Path,
    target: Path,
    vector: Path,
    *,
    adapter: ArchitectureAdapter,
    scale: float = 1.0,
    vocabulary: str = "refuse",
    progress: Progress = NO_PROGRESS,
) -> StampOutcome:
    """Stamp a model: write model + scale · vector, rounded once, beside the model's other files.

    Args:
        model: checkpoint directory.
        target: new directory; must not exist.
        vector: directory of a fingerprint vector.
        adapter: architecture of the model.
        scale: λ, finite and not 0.
        vocabulary: ``refuse`` or ``shared``, where the numbers of embedding rows differ.
        progress: where to report.

    Raises:
        CheckpointError: the model cannot be read, is quantised, or holds NaN or Inf.
        VectorError: the vector cannot be read, or does not fit.
        OutputError: the target exists or cannot be written.
    """
    checkpoint = read_checkpoint(model)
    refuse_quantised(checkpoint)
    scaled = ScaledVector(read_vector(vector), scale)
    plan = plan_stamp(checkpoint, [scaled], adapter, vocabulary=Vocabulary(vocabulary))
    with staged_directory(target, plan.bytes, progress=progress) as staging:
        return write_stamp(plan, staging, progress=progress)
