"""Heavy helpers for plugins: import this inside the function that needs it, since it loads torch.

What is written here is whole or does not exist: it is made in a staging directory beside the target and renamed last.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import PluginError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.embed import read_rows
from fpvec_audit.tensors.header import read_header
from fpvec_audit.tensors.index import inside, read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import TORCH_DTYPES, TensorReader, block_ranges
from fpvec_audit.tensors.rewrite import copy_files, other_files
from fpvec_audit.tensors.writer import TensorWriter, size_of, staged_directory
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
    with staged_directory(target, checkpoint.bytes + size_of(others)) as staging:
        copy_files(others, staging)
        rewriting = _Rewriting(checkpoint, adapter, change)
        with progress.step(f"write {target.name}", checkpoint.bytes, "bytes") as step:
            for file in checkpoint.files:
                with TensorWriter(staging / file, _header(checkpoint, file)) as writer:
                    for spec, tensor in rewriting.tensors(file):
                        flat = tensor.reshape(-1)
                        for start, count in block_ranges(spec.elements):
                            writer.append(flat[start : start + count])
                        step.advance(spec.bytes)


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

    def tensors(self, file: str) -> Iterator[tuple[TensorSpec, torch.Tensor]]:
        """Yield the tensors of a file in the order in which they are stored."""
        specs = [spec for spec in self._checkpoint.tensors.values() if spec.file == file]
        with TensorReader(self._checkpoint.path) as reader:
            for spec in sorted(specs, key=lambda spec: (spec.start, spec.end)):
                yield spec, self._changed(spec, _read_whole(reader, spec))

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


def _read_whole(reader: TensorReader, spec: TensorSpec) -> torch.Tensor:
    whole = torch.empty(spec.elements, dtype=TORCH_DTYPES[spec.dtype])
    for start, block in reader.blocks(spec):
        whole[start : start + len(block)] = block
    return whole.reshape(spec.shape)


def _header(checkpoint: Checkpoint, file: str) -> bytes:
    path = inside(checkpoint.path, file)
    with path.open("rb") as opened:
        return opened.read(read_header(path).data_start)
