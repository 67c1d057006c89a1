"""A checkpoint written again with some of its numbers changed, and everything else exactly as it was.

Laws: with a change that changes nothing, every file of the result has the bytes of its source. File names, shard
layout, tensor order, dtypes, shapes and header bytes are the source's whatever the change does. Tokenizer,
configuration, chat template and all other files are carried over byte for byte. The result says nowhere who wrote it.

Not carried over are other forms of the same weights (a pickle, GGUF or ONNX file beside the safetensors would be an
unchanged copy) and the version-control or download records ``.git`` and ``.cache``; they are reported.
"""

import filecmp
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.header import read_header
from fpvec_audit.tensors.index import MODEL, followed, inside
from fpvec_audit.tensors.reader import TensorReader, block_ranges
from fpvec_audit.tensors.writer import TensorWriter

INDEX = f"{MODEL}.safetensors.index.json"
OTHER_WEIGHTS = (
    ".safetensors", ".safetensors.index.json", ".bin.index.json", ".pt", ".pth", ".ckpt", ".nemo", ".gguf", ".ggml",
    ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel",
)  # fmt: skip
PICKLED_WEIGHTS = ("pytorch_model", "model", "consolidated", "adapter_model")
RECORDS = (".git", ".cache")

Change = Callable[[TensorSpec, int, torch.Tensor], torch.Tensor]
"""(tensor, flat position of the block's first element, block) → block of the same dtype and length."""


@dataclass(frozen=True, slots=True)
class CarriedFiles:
    """The files of a checkpoint beside its tensors.

    Attributes:
        carried: path relative to the checkpoint → file to copy.
        left_out: relative paths that are not copied.
    """

    carried: Mapping[str, Path]
    left_out: tuple[str, ...]


def other_files(checkpoint: Checkpoint) -> CarriedFiles:
    """Return the files beside the tensors that a rewritten checkpoint carries over, and those it leaves out.

    Raises:
        CheckpointError: a link leads out of the directory, or something is no regular file.
    """
    carried: dict[str, Path] = {}
    left_out: list[str] = []
    pending = [checkpoint.path]
    while pending:
        directory = pending.pop()
        for entry in sorted(directory.iterdir()):
            name = entry.relative_to(checkpoint.path).as_posix()
            if name in checkpoint.files:
                continue
            if entry.name in RECORDS or (_is_weights(entry.name) and not (checkpoint.sharded and name == INDEX)):
                left_out.append(name)
            elif entry.is_dir() and not entry.is_symlink():
                pending.append(entry)
            else:
                carried[name] = _checked(checkpoint, entry)
    return CarriedFiles(dict(sorted(carried.items())), tuple(sorted(left_out)))


def copy_files(files: Mapping[str, Path], directory: Path) -> int:
    """Copy files to a directory and return the number of bytes; links are followed, modes kept."""
    copied = 0
    for name, source in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)
        copied += target.stat().st_size
    return copied


def same_other_files(checkpoint: Checkpoint, copy: Path) -> bool:
    """Say whether a directory holds the files that a rewritten checkpoint would, those beside the tensors unchanged."""
    carried = other_files(checkpoint).carried
    there = {file.relative_to(copy).as_posix() for file in copy.rglob("*") if not file.is_dir()}
    if there != {*carried, *checkpoint.files}:
        return False
    return all(filecmp.cmp(source, copy / name, shallow=False) for name, source in carried.items())


def rewrite_tensors(
    checkpoint: Checkpoint, directory: Path, change: Change, *, label: str, progress: Progress = NO_PROGRESS
) -> int:
    """Write all safetensors files of a checkpoint again, block by block, and return the number of bytes.

    Args:
        checkpoint: source.
        directory: where to write; normally a staging directory.
        change: called for every block in the order of the files; its result may be the block itself.
        label: what to call the work in progress.
        progress: where to report.

    Raises:
        CheckpointError: a source file cannot be read.
    """
    written = 0
    with TensorReader(checkpoint.path) as reader, progress.step(label, checkpoint.bytes, "bytes") as step:
        for file in checkpoint.files:
            path = inside(checkpoint.path, file)
            specs = _tensors_of(checkpoint, file)
            with TensorWriter(directory / file, _header_bytes(path, specs)) as writer:
                for spec in specs:
                    for start, count in block_ranges(spec.elements):
                        writer.append(change(spec, start, reader.read(spec, start, count)))
                        step.advance(count * spec.dtype.size)
                written += writer.written
            shutil.copymode(path, directory / file)
    return written


def _tensors_of(checkpoint: Checkpoint, file: str) -> list[TensorSpec]:
    """Return the tensors of a file in the order of their bytes, as its header has them."""
    specs = (spec for spec in checkpoint.tensors.values() if spec.file == file)
    return sorted(specs, key=lambda spec: (spec.start, spec.end))


def _header_bytes(path: Path, specs: list[TensorSpec]) -> bytes:
    header = read_header(path)
    found = {(spec.name, spec.dtype, spec.shape, spec.start) for spec in header.tensors}
    if found != {(spec.name, spec.dtype, spec.shape, spec.start) for spec in specs}:
        raise CheckpointError(f"{path} was changed while it was read", advice="try again when nobody writes to it")
    with path.open("rb") as file:
        return file.read(header.data_start)


def _is_weights(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(OTHER_WEIGHTS) or (lower.endswith(".bin") and lower.startswith(PICKLED_WEIGHTS))


def _checked(checkpoint: Checkpoint, entry: Path) -> Path:
    if not followed(entry, checkpoint.path).is_file():
        raise CheckpointError(f"{entry} is not a regular file", advice="remove it from the model directory")
    return entry
