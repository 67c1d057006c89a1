"""A checkpoint written again with some of its numbers changed, and everything else exactly as it was.

Laws: with a change that changes nothing, every file of the result has the bytes of its source. File names, shard
layout, tensor order, dtypes, shapes and header bytes are the source's whatever the change does. Tokenizer,
configuration, chat template and all other files are carried over byte for byte. The result says nowhere who wrote it.

Not carried over are other forms of the same weights (a pickle, GGUF or ONNX file beside the safetensors would be an
unchanged copy) and the version-control or download records ``.git`` and ``.cache``; they are reported.
"""

import filecmp
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.header import read_header
from fpvec_audit.tensors.index import MODEL, followed, inside
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stream import TensorWork, passed_through, run
from fpvec_audit.tensors.writer import FileSink, OutputFile

INDEX = f"{MODEL}.safetensors.index.json"
OTHER_WEIGHTS = (
    ".safetensors", ".safetensors.index.json", ".bin.index.json", ".pt", ".pth", ".ckpt", ".nemo", ".gguf", ".ggml",
    ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".tflite", ".mlmodel",
)  # fmt: skip
PICKLED_WEIGHTS = ("pytorch_model", "model", "consolidated", "adapter_model")
RECORDS = (".git", ".cache")

Change = Callable[[TensorSpec, TensorSource], TensorSource]
"""(tensor, its elements as stored) → the elements to write, of the same dtype and shape."""


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
            if entry.name in RECORDS or (is_weights(entry.name) and not (checkpoint.sharded and name == INDEX)):
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
        target.unlink(missing_ok=True)  # an interrupted run's copy may be read-only
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


class RewrittenFiles:
    """The safetensors files of a checkpoint, made again with the same headers.

    Use it as a context manager. Every tensor of the checkpoint must be written once, by :meth:`sink`.

    Args:
        checkpoint: source.
        directory: where to write; normally a staging directory.
        again: (file, tensor) pairs that an interrupted run has written there already; None in a new directory.
    """

    def __init__(
        self, checkpoint: Checkpoint, directory: Path, *, again: frozenset[tuple[str, str]] | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._directory = directory
        self._again = again
        self._stack = ExitStack()
        self._files: dict[str, OutputFile] = {}
        self.bytes = 0

    def __enter__(self) -> "RewrittenFiles":
        try:
            for name in self._checkpoint.files:
                self._open(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sink(self, spec: TensorSpec) -> FileSink:
        """Return the place of a tensor in the new files."""
        return FileSink(self._files[spec.file], start=spec.start, end=spec.end, dtype=spec.dtype)

    def _open(self, name: str) -> None:
        source = inside(self._checkpoint.path, name)
        specs = tensors_of(self._checkpoint, name)
        header = _header_bytes(source, specs)
        size = max([len(header), *(spec.end for spec in specs)])
        written = sum((name, spec.name) in (self._again or ()) for spec in specs)
        path = self._directory / name
        file = OutputFile(path, header, size=size, tensors=len(specs) - written, again=self._again is not None)
        self._files[name] = self._stack.enter_context(file)
        shutil.copymode(source, path)
        self.bytes += size


def rewrite_tensors(
    checkpoint: Checkpoint,
    directory: Path,
    change: Change,
    *,
    label: str,
    threads: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> int:
    """Write all safetensors files of a checkpoint again, block by block, and return the number of bytes.

    Args:
        checkpoint: source.
        directory: where to write; normally a staging directory.
        change: called for every tensor; what it gives may be what it got.
        label: what to call the work in progress.
        threads: how many; 1 where the changed elements must be read in the order of the files.
        progress: where to report.

    Raises:
        CheckpointError: a source file cannot be read.
    """
    with OpenFiles(checkpoint.path) as files, RewrittenFiles(checkpoint, directory) as rewritten:
        works = [
            TensorWork(
                spec.elements, (change(spec, files.source(spec)),), (rewritten.sink(spec),), passed_through, (), _ignore
            )
            for spec in stored_order(checkpoint)
        ]
        run(works, label=label, threads=threads, progress=progress)
        return rewritten.bytes


def stored_order(checkpoint: Checkpoint) -> Iterator[TensorSpec]:
    """Yield all tensors of a checkpoint as they lie in its files, one file after the other."""
    for file in checkpoint.files:
        yield from tensors_of(checkpoint, file)


def _ignore(digests: Sequence[str]) -> None:
    """Nothing was hashed."""


def tensors_of(checkpoint: Checkpoint, file: str) -> list[TensorSpec]:
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


def is_weights(name: str) -> bool:
    """Return whether a file holds weights, or ties files that do together, going by its name."""
    lower = name.lower()
    return lower.endswith(OTHER_WEIGHTS) or (lower.endswith(".bin") and lower.startswith(PICKLED_WEIGHTS))


def _checked(checkpoint: Checkpoint, entry: Path) -> Path:
    if not followed(entry, checkpoint.path).is_file():
        raise CheckpointError(f"{entry} is not a regular file", advice="remove it from the model directory")
    return entry
