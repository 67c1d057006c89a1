"""Tensor bytes from safetensors files, read with ``preadv`` into memory that is used again; nothing is mapped.

A map would turn a file that is truncated while it is read into a dead process; here it is an error that names the
tensor. Safetensors files are little-endian, and so is every machine that torch runs on.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fpvec_audit.domain.checkpoint import Dtype, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.blocks import PAGE, Block, BlockMemory, block_ranges
from fpvec_audit.tensors.index import inside
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.uncached import open_uncached, read_cached, read_pages

if TYPE_CHECKING:
    import torch

READ_AHEAD = 16 << 20
"""Bytes that the disk is asked for in advance of every tensor that is being read."""


class OpenFiles:
    """The files of one directory, opened when they are first read; several threads may read. A context manager.

    Args:
        directory: where the files lie.
        once: whether nobody will want them soon again: what the page cache does not hold is then not put there.
    """

    def __init__(self, directory: Path, *, once: bool = False) -> None:
        self.directory = directory
        self.uncached_files: set[str] = set()
        self._once = once
        self._descriptors: dict[str, int] = {}
        self._uncached: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; reading on opens them again."""
        with self._lock:
            for descriptor in (*self._descriptors.values(), *self._uncached.values()):
                if descriptor >= 0:
                    os.close(descriptor)
            self._descriptors.clear()
            self._uncached.clear()

    def source(self, spec: TensorSpec) -> TensorSource:
        """Return the elements of a tensor of this directory."""
        aligned = not spec.start % spec.dtype.size
        return UncachedSource(self, spec) if self._once and aligned else FileSource(self, spec)

    def read_into(self, spec: TensorSpec, place: int, memory: memoryview) -> None:
        """Fill memory with the bytes from ``place`` of a tensor's file on.

        Raises:
            CheckpointError: the file ends too early or cannot be read; the tensor is named.
        """
        descriptor = self.descriptor(spec.file)
        done = 0
        while done < len(memory):
            try:
                read = os.preadv(descriptor, [memory[done:]], place + done)
            except OSError as error:
                raise CheckpointError(f"{self.directory / spec.file}: {spec.name}: {error.strerror}") from error
            if read == 0:
                raise CheckpointError(
                    f"{self.directory / spec.file} ended at byte {place + done}, inside {spec.name}",
                    advice="the file was truncated while it was read; fetch it again",
                )
            done += read

    def uncached(self, file: str) -> int:
        """Return a descriptor for reading past the page cache; it belongs to this object, and −1 says it cannot be."""
        with self._lock:
            if file not in self._uncached:
                self._uncached[file] = open_uncached(inside(self.directory, file))
            return self._uncached[file]

    def descriptor(self, file: str) -> int:
        """Return a descriptor for reading a file; it belongs to this object.

        Raises:
            CheckpointError: the file is missing, leads out of the directory or cannot be opened.
        """
        found = self._descriptors.get(file)
        if found is not None:
            return found
        with self._lock:
            if file not in self._descriptors:
                path = inside(self.directory, file)
                try:
                    self._descriptors[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
            return self._descriptors[file]


class FileSource:
    """The elements of one tensor of a file; a ``TensorSource``."""

    __slots__ = ("_ahead", "_files", "_spec")

    def __init__(self, files: OpenFiles, spec: TensorSpec) -> None:
        self._files = files
        self._spec = spec
        self._ahead = 0

    @property
    def dtype(self) -> Dtype:
        """Number format."""
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return self._spec.shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Read elements, and ask the disk for those that come next.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        place = self._place(start)
        self._ask_ahead(place + len(block))
        self._files.read_into(self._spec, place, block)

    def _place(self, start: int) -> int:
        return self._spec.start + start * self._spec.dtype.size

    def _ask_ahead(self, place: int) -> None:
        """Ask for what follows, beyond the end of the tensor too: the next one lies there as a rule."""
        if self._ahead - place >= READ_AHEAD // 2:
            return
        start = max(self._ahead, place)
        descriptor = self._files.descriptor(self._spec.file)
        while start < place + READ_AHEAD:  # the system takes only so much at once
            os.posix_fadvise(descriptor, start, _ASKED_AT_ONCE, os.POSIX_FADV_WILLNEED)
            start += _ASKED_AT_ONCE
        self._ahead = start


class UncachedSource(FileSource):
    """The elements of one tensor of a file that is read once; a ``FetchedSource``."""

    __slots__ = ()

    @property
    def slow(self) -> bool:
        """Whether the page cache was found not to hold the file."""
        return self._spec.file in self._files.uncached_files

    def lead(self, start: int) -> int:
        """Return where in a page of the file the block at a flat position begins."""
        return self._place(start) % PAGE

    def fetch(self, start: int, block: Block) -> None:
        """Fill a block from the page cache where that holds it, from the disk otherwise.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        place = self._place(start)
        if not self.slow and read_cached(self._files.descriptor(self._spec.file), block.memory, place):
            return
        self._files.uncached_files.add(self._spec.file)
        lead = place % PAGE
        uncached = self._files.uncached(self._spec.file)
        aligned = uncached >= 0 and len(block.span) - len(block.memory) == lead and not (block.address - lead) % PAGE
        if not aligned or not read_pages(uncached, block.pages, place - lead, len(block.span)):
            self.read_into(start, block.count, block.memory)


_ASKED_AT_ONCE = 1 << 20


def ask_in_advance(directories: Sequence[Path], most: int = 256 << 20) -> None:
    """Let the disk begin to read the tensor files of directories while this process still loads its libraries.

    A hint in a thread of its own that nobody waits for; what cannot be read is somebody else's to report.

    Args:
        directories: models and vectors that are about to be read side by side from the front.
        most: bytes to ask for in each.
    """
    threading.Thread(target=_ask_in_advance, args=(directories, most), daemon=True).start()


def _ask_in_advance(directories: Sequence[Path], most: int) -> None:
    with suppress(OSError), ExitStack() as stack:
        opened = [
            stack.enter_context(file.open("rb"))
            for directory in directories
            for file in sorted(directory.glob("*.safetensors"))[:1]
        ]
        for start in range(0, most, _ASKED_AT_ONCE):
            for file in opened:
                os.posix_fadvise(file.fileno(), start, _ASKED_AT_ONCE, os.POSIX_FADV_WILLNEED)


class TensorReader:
    """Reads blocks of tensors of one directory into torch, in any order, for one thread. A context manager.

    Args:
        directory: where the files lie.
    """

    def __init__(self, directory: Path) -> None:
        self._files = OpenFiles(directory)
        self._memory = BlockMemory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; reading on opens them again."""
        self._files.close()

    def read(self, spec: TensorSpec, start: int, count: int) -> "torch.Tensor":
        """Return ``count`` elements from the flat position ``start`` on, in the stored dtype.

        The result is a view of the reader's memory: it is overwritten by the next read.

        Shapes:
            the result is (count,).

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        block = self._memory.block(spec.dtype, count)
        self._files.read_into(spec, spec.start + start * spec.dtype.size, block.memory)
        return block.torch()

    def blocks(self, spec: TensorSpec) -> Iterator[tuple[int, "torch.Tensor"]]:
        """Yield (start, block) over a whole tensor; each block is overwritten by the next."""
        for start, count in block_ranges(spec.elements):
            yield start, self.read(spec, start, count)
