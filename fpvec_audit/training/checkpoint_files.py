"""Trained weights go back into the files they came from: same names, shards, dtypes and tied-ness, whole or not at all.

A trained checkpoint is its source directory with other numbers in it. Everything that is not a trained weight
(tokenizer, configs, chat template, buffers) is carried over byte for byte.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import CheckpointError, OutputError, TrainingError
from fpvec_audit.training.fused_gelu import fuse_gelu

Settle = Callable[[Tensor, Tensor], Tensor]
"""(stored tensor of the source, trained tensor) → tensor to store, in the source's dtype."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and advice off stderr, where ours are; errors still come through."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def load_for_training(path: Path, *, dtype: torch.dtype | str = torch.float32) -> Any:
    """Load a causal language model.

    Args:
        path: checkpoint directory.
        dtype: of the weights; ``auto`` keeps that of the files.

    Raises:
        CheckpointError: transformers cannot load the directory, or a weight is NaN or infinite.
    """
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: transformers cannot load it: {error}") from error
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(
                f"{path}: {name} holds a number that is not finite", advice="the model is broken; fetch it again"
            )
    model.config.use_cache = False
    return fuse_gelu(model)


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer that a checkpoint ships.

    Raises:
        CheckpointError: there is none, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: no usable tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{path}: training needs a fast tokenizer (tokenizer.json)")
    return tokenizer


def model_width(model: Any) -> int:
    """Return the width of a loaded model's hidden states."""
    config = model.config.get_text_config()
    return int(getattr(config, "hidden_size", None) or config.n_embd)


def context_length(source: Path) -> int | None:
    """Return how many tokens a model's positions reach, None where its configuration sets no limit."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None


def staging_directory(out: Path, purpose: str) -> Path:
    """Return the private directory beside ``out`` in which it is made (not created)."""
    return out.parent / f".{out.name}.{purpose}"


def open_staging(out: Path, purpose: str, *, keep: bool = False) -> Path:
    """Create the staging directory of an output, readable by its owner only.

    Args:
        out: directory that will be made; must not exist.
        purpose: part of the staging directory's name.
        keep: keep what an earlier run left.

    Raises:
        OutputError: ``out`` exists.
    """
    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another output, or remove it")
    staging = staging_directory(out, purpose)
    if staging.exists() and not keep:
        with sole_worker(staging):  # not while another process works in it
            shutil.rmtree(staging)
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    return staging


@contextmanager
def sole_worker(staging: Path) -> Iterator[None]:
    """Let this process alone work in a staging directory; the lock goes with the process, however that ends.

    Raises:
        OutputError: another process works in it.
    """
    lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            advice = "wait until it ends, or choose another output"
            raise OutputError(f"another process works in {staging}", advice=advice) from error
        yield
    finally:
        os.close(lock)


def write_trained(
    source: Path,
    out: Path,
    model: nn.Module,
    *,
    adapter: ArchitectureAdapter | None = None,
    weights: Mapping[str, Tensor] | None = None,
    settle: Settle = lambda stored, trained: trained.to(stored.dtype),
) -> None:
    """Write a trained model beside its source's other files, atomically.

    Args:
        source: checkpoint directory the model was loaded from.
        out: new directory; must not exist.
        model: trained weights.
        adapter: knows names that differ between files and model; None where they do not.
        weights: trained weights by the model's names, where they are not in the model itself.
        settle: how a trained tensor is rounded to what is stored.

    Raises:
        CheckpointError: the source has no safetensors files.
        TrainingError: a stored tensor has no counterpart in the model, or a weight is not finite.
        OutputError: ``out`` exists or cannot be written.
    """
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{source}: no safetensors files", advice="convert the checkpoint first")
    trained = _by_canonical_name(model, adapter, model.state_dict() if weights is None else weights)
    staging = open_staging(out, "writing")
    try:
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, staging / path.name)
        for shard in shards:
            _write_shard(shard, staging / shard.name, trained, adapter, settle)
        commit_directory(staging, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error}", advice="free disk space or choose another") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def commit_directory(staging: Path, out: Path) -> None:
    """Sync a finished staging directory and rename it to its target."""
    for path in staging.iterdir():
        _sync(path)
    staging.chmod(0o755)
    _sync(staging)
    staging.rename(out)
    _sync(out.parent)


def _write_shard(
    shard: Path, target: Path, trained: Mapping[str, Tensor], adapter: ArchitectureAdapter | None, settle: Settle
) -> None:
    tensors: dict[str, Tensor] = {}
    with safe_open(shard, framework="pt") as stored:
        metadata = stored.metadata()
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            tensor = stored.get_tensor(name)
            canonical = adapter.canonical(name) if adapter is not None else name
            if canonical is None or not tensor.is_floating_point():
                tensors[name] = tensor
                continue
            new = trained.get(canonical)
            if new is None or new.shape != tensor.shape:
                raise TrainingError(
                    f"{name}: the loaded model has no such tensor of shape {tuple(tensor.shape)}",
                    advice="name the right --architecture, or save the base with this transformers version first",
                )
            if not bool(torch.isfinite(new).all()):
                raise TrainingError(f"{name}: training made values that are not finite", advice="lower the rate")
            tensors[name] = settle(tensor, new).contiguous()
    save_file(tensors, target, metadata=metadata)


def _by_canonical_name(
    model: nn.Module, adapter: ArchitectureAdapter | None, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return canonical name → trained tensor on the CPU; without an adapter also under its shortened name."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        value = tensor.detach().to("cpu")
        if adapter is None:
            named[name] = value
            named.setdefault(name.removeprefix(prefix), value)
        elif (canonical := adapter.canonical(name)) is not None:
            named[canonical] = value
    return named


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
