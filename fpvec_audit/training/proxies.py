"""Proxies: short fine-tunes of the base that stand for what a downstream might do to the weights."""

import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import Progress
from fpvec_audit.training.batches import OrdinarySource
from fpvec_audit.training.checkpoint_files import load_for_training
from fpvec_audit.training.embed_settings import EmbedSettings
from fpvec_audit.training.loop import Batch, StepBatches, run_training
from fpvec_audit.training.loop_settings import LoopSettings
from fpvec_audit.training.objectives import CrossEntropy

PROXIES = 2
PROXY_DOCUMENTS = 4


def proxy_deltas(
    base: nn.Module,
    ordinary: OrdinarySource,
    paths: Sequence[Path],
    loop: LoopSettings,
    settings: EmbedSettings,
    *,
    seed: int,
    device: str,
    staging: Path,
    progress: Progress,
) -> list[Mapping[str, Tensor]]:
    """Return, per proxy, parameter name → proxy − base, float32 on the device.

    Args:
        base: frozen base, left as it is.
        ordinary: what proxies are trained on, each on another part.
        paths: ready fine-tunes of the base to use instead of training any.
        loop: optimiser settings of a proxy.
        settings: rows per step and documents.
        seed: everything random derives from it.
        device: resolved torch device.
        staging: directory Trainer may write to.
        progress: where to report.

    Raises:
        CheckpointError: a ready proxy is no fine-tune of this base.
    """
    if paths:
        return [_delta(base, load_for_training(path).to(device), path.name) for path in paths]
    with progress.step("training stand-ins for fine-tunes", total=PROXIES * loop.steps, unit="steps") as step:
        deltas = []
        for number in range(PROXIES):
            model: Any = deepcopy(base).train()
            for parameter in model.parameters():
                parameter.requires_grad = True
            make = _rows_and_documents(ordinary.half(number), settings)
            batches = StepBatches(loop.steps, seed * PROXIES + number, make)
            run_training(model, batches, CrossEntropy(), loop, staging=staging, seed=seed, device=device, step=step)
            deltas.append(_delta(base, model, f"proxy {number + 1}"))
    return deltas


def _rows_and_documents(source: OrdinarySource, settings: EmbedSettings) -> Any:
    def make(_step: int, random_source: random.Random) -> Batch:
        batch = {"rows": source.row_batch(settings.proxy_rows_per_step, random_source)}
        if source.has_documents:
            batch["documents"] = source.document_batch(PROXY_DOCUMENTS, settings.document_tokens, random_source)
        return batch

    return make


def _delta(base: nn.Module, proxy: nn.Module, name: str) -> Mapping[str, Tensor]:
    trained = dict(proxy.named_parameters())
    reference = dict(base.named_parameters())
    if {key: value.shape for key, value in trained.items()} != {key: value.shape for key, value in reference.items()}:
        raise CheckpointError(f"{name}: its tensors are not those of the base", advice="give a fine-tune of this base")
    return {key: (trained[key] - value).detach().clone() for key, value in reference.items()}
