"""Heavy helpers for plugins: import this inside the function that needs it, since it loads torch.

What is written here is whole or does not exist: it is made in a staging directory beside the target and renamed last.
"""

import random
from collections.abc import Callable
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import PluginError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.embed import read_rows
from fpvec_audit.tensors.blocks import block_ranges, torch_dtype
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.rewrite import copy_files, other_files, rewrite_tensors
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.staging import size_of, staged_directory
from fpvec_audit.training.fine_tune import FineTuneReport, FineTuneSettings, fine_tune
from fpvec_audit.training.ordinary import draw_instruction

__all__ = [
    "Change",
    "FineTuneReport",
    "FineTuneSettings",
    "fine_tune",
    "instruction_rows",
    "read_rows",
    "rewrite_checkpoint",
]

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""(canonical name, tensor) → tensor of the same shape and dtype."""


def rewrite_checkpoint(
    source: Path,
    target: Path,
    change: Change,
    *,
    adapter: ArchitectureAdapter | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write a checkpoint again with its parameters changed, one tensor in memory at a time.

    Only floating-point parameters are given to ``change``; buffers, integers and every other file are carried over. A
    tied tensor that is stored twice is changed once, so that its two copies stay equal.

    Args:
        source: checkpoint directory; stays as it is.
        target: directory to make; must not exist.
        change: gives the new values of a tensor, in its shape and dtype; may return the tensor itself.
        adapter: gives canonical names and tells buffers; without one, names are as stored.
        progress: where to report.

    Raises:
        CheckpointError: the source cannot be read.
        OutputError: the target exists or cannot be written.
        PluginError: ``change`` returned another shape or dtype.
    """
    checkpoint = read_checkpoint(source)
    others = other_files(checkpoint).carried
    with staged_directory(target, checkpoint.bytes + size_of(others), progress=progress) as staging:
        copy_files(others, staging)
        rewriting = _Rewriting(checkpoint, adapter, change)
        label = f"write {target.name}"  # one thread: a change may draw random numbers, in the order of the files
        rewrite_tensors(checkpoint, staging, rewriting.changed, label=label, threads=1, progress=progress)


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


class _Rewriting:
    """The changed tensors of a checkpoint, file by file."""

    def __init__(self, checkpoint: Checkpoint, adapter: ArchitectureAdapter | None, change: Change) -> None:
        named = named_parameters(checkpoint, adapter)
        self._checkpoint = checkpoint
        self._change = change
        self._canonical = named.canonical
        stored = list(named.canonical.values())
        self._twice = {name for name in stored if stored.count(name) > 1}
        self._kept: dict[str, torch.Tensor] = {}

    def changed(self, spec: TensorSpec, source: TensorSource) -> TensorSource:
        """Return the changed elements of a stored tensor; the change is made when they are first read."""
        return _ChangedTensor(spec, source, self._changed)

    def _changed(self, spec: TensorSpec, tensor: torch.Tensor) -> torch.Tensor:
        name = self._canonical.get(spec.name)
        if name is None or not spec.dtype.floating:
            return tensor
        if name in self._kept:
            return self._kept[name]
        changed = self._change(name, tensor)
        if changed.shape != tensor.shape or changed.dtype != tensor.dtype:
            raise PluginError(
                f"{name}: the change gave {changed.dtype} {tuple(changed.shape)} for {tensor.dtype} "
                f"{tuple(tensor.shape)}",
                advice="keep shape and dtype",
            )
        changed = changed.detach().to("cpu").contiguous()
        if name in self._twice:
            self._kept[name] = changed
        return changed


class _ChangedTensor:
    """A tensor that is read and changed as a whole when its first block is asked for, and dropped after the last."""

    def __init__(
        self, spec: TensorSpec, source: TensorSource, change: Callable[[TensorSpec, torch.Tensor], torch.Tensor]
    ) -> None:
        self._spec, self._source, self._change = spec, source, change
        self._flat: torch.Tensor | None = None

    @property
    def dtype(self) -> Dtype:
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._spec.shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        if self._flat is None:
            self._flat = self._change(self._spec, _read_whole(self._source)).reshape(-1)
        block[:] = memoryview(self._flat[start : start + count].view(torch.uint8).numpy())
        if start + count == self._spec.elements:
            self._flat = None


def _read_whole(source: TensorSource) -> torch.Tensor:
    whole = torch.empty(source.shape, dtype=torch_dtype(source.dtype))
    flat = whole.view(-1)
    for start, count in block_ranges(flat.numel()):
        part = flat[start : start + count]
        source.read_into(start, count, memoryview(part.view(torch.uint8).numpy()))
    return whole
