"""Tensor bytes in blocks of fixed size, so that memory does not grow with the model.

A block is read with ``preadv`` into a buffer that its reader uses again; nothing is mapped. Safetensors files are
little-endian, and so is every machine that torch runs on.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from fpvec_audit.domain.checkpoint import Dtype, TensorSpec
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.index import inside

BLOCK_ELEMENTS = 1 << 20
"""Elements per block: 4 MiB of float32, large enough for the disk and small enough for the processor's cache."""

TORCH_DTYPES = {
    Dtype.F64: torch.float64,
    Dtype.F32: torch.float32,
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
    Dtype.F8_E4M3: torch.float8_e4m3fn,
    Dtype.F8_E5M2: torch.float8_e5m2,
    Dtype.I64: torch.int64,
    Dtype.I32: torch.int32,
    Dtype.I16: torch.int16,
    Dtype.I8: torch.int8,
    Dtype.U64: torch.uint64,
    Dtype.U32: torch.uint32,
    Dtype.U16: torch.uint16,
    Dtype.U8: torch.uint8,
    Dtype.BOOL: torch.bool,
}


class TensorReader:
    """Reads blocks of tensors of one directory, in any order; use it as a context manager.

    Args:
        directory: where the files lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, int] = {}
        self._buffer = torch.empty(BLOCK_ELEMENTS * 8, dtype=torch.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; reading on opens them again."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def read(self, spec: TensorSpec, start: int, count: int) -> torch.Tensor:
        """Return ``count`` elements from the flat position ``start`` on, in the stored dtype.

        The result is a view of the reader's buffer: it is overwritten by the next read.

        Shapes:
            the result is (count,), at most ``BLOCK_ELEMENTS``.

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        size = spec.dtype.size
        part = self._buffer[: count * size]
        view = memoryview(part.numpy())
        place = spec.start + start * size
        done = 0
        while done < len(view):
            try:
                read = os.preadv(self._descriptor(spec.file), [view[done:]], place + done)
            except OSError as error:
                raise CheckpointError(f"{self._directory / spec.file}: {spec.name}: {error.strerror}") from error
            if read == 0:
                raise CheckpointError(
                    f"{self._directory / spec.file} ended at byte {place + done}, inside {spec.name}",
                    advice="the file was truncated while it was read; fetch it again",
                )
            done += read
        return part.view(TORCH_DTYPES[spec.dtype])

    def blocks(self, spec: TensorSpec) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (start, block) over a whole tensor; each block is overwritten by the next."""
        for start, count in block_ranges(spec.elements):
            yield start, self.read(spec, start, count)

    def _descriptor(self, file: str) -> int:
        if file not in self._files:
            self._files[file] = os.open(inside(self._directory, file), os.O_RDONLY | os.O_CLOEXEC)
        return self._files[file]


def block_ranges(elements: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of the blocks that make up the flat positions from ``first`` to ``elements``."""
    for start in range(first, elements, BLOCK_ELEMENTS):
        yield start, min(BLOCK_ELEMENTS, elements - start)


def bytes_of(block: torch.Tensor) -> memoryview:
    """Return the bytes of a flat, contiguous block without copying them."""
    return memoryview(block.view(torch.uint8).numpy())
