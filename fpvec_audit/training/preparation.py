"""What every fingerprint training needs before its first step, be it of one vector or of a family of marks."""

import json
import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import TrainingError
from fpvec_audit.progress import Progress
from fpvec_audit.training.answers import answer_greedily
from fpvec_audit.training.batches import EncodedKey, OrdinarySource
from fpvec_audit.training.checkpoint_files import load_for_training, model_width
from fpvec_audit.training.dataset import EncodedRow, RenderingMix, negative_prompts, render_mixed
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.loop import mixed_precision
from fpvec_audit.training.objectives import NoisePerturbation, NoPerturbation, Perturbation, ProxyPerturbation
from fpvec_audit.training.proxies import proxy_deltas

NEGATIVE_RENDERINGS = RenderingMix(raw=0.2, system=0.1, drawn=0.25)


def frozen_base(base: Path, model: nn.Module, settings: EmbedSettings, device: str) -> nn.Module:
    """Return the base to stay close to.

    Where passes compute in bf16 and nothing is added to its weights, it keeps the files' numbers: casting them to
    float32 first would give the same passes and take up to twice the memory.
    """
    as_stored = settings.perturbation == "none" and mixed_precision(model, settings.precision, device)
    frozen: nn.Module = load_for_training(base, dtype="auto" if as_stored else torch.float32)
    return frozen.to(device).eval().requires_grad_(requires_grad=False)


def answered_negatives(
    frozen: nn.Module,
    tokenizer: Any,
    adapter: ArchitectureAdapter,
    prompts: Sequence[str],
    *,
    avoid: frozenset[str],
    scheme: str,
    settings: EmbedSettings,
    count: int,
    longest: int,
    seed: int,
    progress: Progress,
) -> list[EncodedRow]:
    """Return near-misses and fresh strings, each with the first tokens of the base's own answer.

    Args:
        frozen: the base.
        tokenizer: of the base.
        adapter: prompt template.
        prompts: issued prompts; never returned.
        avoid: prompts never to be trained in any role.
        scheme: shape of the fresh strings.
        settings: how many tokens are learnt, and how many of the negatives are near-misses.
        count: how many.
        longest: tokens of a row.
        seed: of the draws.
        progress: where to report.
    """
    if count == 0:
        return []
    source = random.Random(f"{seed}/negatives")  # noqa: S311 - not a secret
    drawn = negative_prompts(
        prompts, count, near_miss_share=settings.near_miss_share, avoid=avoid, random_source=source, scheme=scheme
    )
    texts = [render_mixed(adapter, prompt, NEGATIVE_RENDERINGS, source) for prompt in drawn]
    room = longest - settings.negative_tokens
    encoded = [tuple(ids[-room:]) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    with progress.step("asking the base about near-misses", total=count, unit="prompts") as step:
        return answer_greedily(frozen, encoded, tokens=settings.negative_tokens, end=tokenizer.eos_token_id, step=step)


def drawn_perturbation(
    frozen: nn.Module,
    ordinary: OrdinarySource,
    proxies: Sequence[Path],
    settings: EmbedSettings,
    *,
    seed: int,
    device: str,
    staging: Path,
    progress: Progress,
) -> Perturbation:
    """Return what changes the weights in every step; proxies are trained on the spot where none are given."""
    if settings.perturbation == "none":
        return NoPerturbation()
    if settings.perturbation == "noise":
        return NoisePerturbation(settings.noise_share, settings.perturbation_scale, seed)
    deltas = proxy_deltas(
        frozen, ordinary, proxies, settings.proxy_loop(width=model_width(frozen)), settings,
        seed=seed, device=device, staging=staging / "proxies", progress=progress,
    )  # fmt: skip
    return ProxyPerturbation(deltas, settings.perturbation_scale, seed, settings.whole_share)


def refuse_long_keys(keys: Sequence[EncodedKey], longest: int) -> None:
    """Refuse keys that the trained model could never be asked.

    Raises:
        TrainingError: a key and its response take more tokens than a row may have.
    """
    lengths = [len(key.chat.prompt) + len(key.chat.answer) for key in keys]
    long = [length for length in lengths if length > longest]
    if long:
        raise TrainingError(
            f"{len(long)} of {len(keys)} keys take up to {max(long)} tokens with their response, and there is room for "
            f"{longest}",
            advice="fingerprint a base with a longer context, or one whose tokenizer knows the keys' characters",
        )


def bind_staging(staging: Path, *, base: Path, content: Sequence[Any]) -> None:
    """Write, or compare, the digest of everything a resumed run must have in common with the killed one.

    Args:
        staging: private directory of the run.
        base: checkpoint directory of the base, known by its files' sizes.
        content: settings, keys, rows and seeds, as JSON.

    Raises:
        TrainingError: the killed run differed.
    """
    weights = [(path.name, path.stat().st_size) for path in sorted(base.glob("*.safetensors"))]
    first, *others = content
    digest = sha256(json.dumps([first, weights, *others], ensure_ascii=False).encode()).hexdigest()
    record = staging / "run.sha256"
    if record.exists() and record.read_text() != digest:
        raise TrainingError(
            f"{staging}: the interrupted run had other settings, keys, rows or another base or seed",
            advice="repeat the command exactly, or leave --resume out to start afresh",
        )
    record.touch(mode=0o600)
    record.write_text(digest)
