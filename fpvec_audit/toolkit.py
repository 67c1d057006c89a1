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

import torch

from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.ports import ArchitectureAdapter, AttackContext
from fpvec_audit.errors import TrainingError, UsageError
from fpvec_audit.services.embed import read_rows
from fpvec_audit.tensors.low_rank import truncated_factors
from fpvec_audit.tensors.recompute import Change, Compute, recompute_checkpoint, rewrite_checkpoint
from fpvec_audit.training.activations import change_by_activations
from fpvec_audit.training.fine_tune import FineTuneReport, FineTuneSettings, fine_tune
from fpvec_audit.training.matrices import Matrix, weight_matrices
from fpvec_audit.training.ordinary import draw_instruction, split_documents, standard_library_documents
from fpvec_audit.training.pretrain import continue_pretraining, read_text

__all__ = [
    "Change",
    "Compute",
    "FineTuneReport",
    "FineTuneSettings",
    "Matrix",
    "change_by_activations",
    "continue_pretraining",
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
