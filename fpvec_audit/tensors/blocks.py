"""Blocks: the pieces in which tensors pass through memory, so that memory does not grow with the model.

A block lies in memory that its owner uses again and again. It has an address for compiled code, bytes for files and
hashes, and a torch view for everything else; torch is loaded only when that view is asked for.
"""

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.checkpoint import Dtype

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 19
"""Elements per block: 1 MiB of bfloat16, long enough for the disk and short enough for many at once."""


_TORCH_NAMES = {
    Dtype.F64: "float64",
    Dtype.F32: "float32",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.F8_E4M3: "float8_e4m3fn",
    Dtype.F8_E5M2: "float8_e5m2",
    Dtype.I64: "int64",
    Dtype.I32: "int32",
    Dtype.I16: "int16",
    Dtype.I8: "int8",
    Dtype.U64: "uint64",
    Dtype.U32: "uint32",
    Dtype.U16: "uint16",
    Dtype.U8: "uint8",
    Dtype.BOOL: "bool",
}


def torch_dtype(dtype: Dtype) -> "torch.dtype":
    """Return torch's name for a number format."""
    import torch

    found: Any = getattr(torch, _TORCH_NAMES[dtype])
    return found


PAGE = 4096
"""Bytes to which files and memory are aligned where data goes to the disk without a copy."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive elements of a tensor.

    Attributes:
        memory: their bytes, little-endian, writable.
        address: where they lie.
        dtype: number format.
        count: number of elements.
        span: the same bytes with those before them back to the beginning of a page, which the block's owner may use.
        pages: the span with what follows it up to the end of a page, which nobody else uses.
    """

    memory: memoryview
    address: int
    dtype: Dtype
    count: int
    span: memoryview
    pages: memoryview

    def first(self, count: int) -> "Block":
        """Return the first ``count`` elements."""
        if count == self.count:
            return self
        size = count * self.dtype.size
        span = self.span[: len(self.span) - len(self.memory) + size]
        return Block(self.memory[:size], self.address, self.dtype, count, span, self.pages[: _whole_pages(len(span))])

    def torch(self) -> "torch.Tensor":
        """Return the elements as a flat tensor that shares their memory."""
        import torch

        dtype = torch_dtype(self.dtype)
        if not self.count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self.memory, dtype=torch.uint8).view(dtype)


class BlockMemory:
    """Room for one block at a time; it grows to the largest block that was asked for and is given back at the end."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())
        self._address = 0
        self._last: tuple[Dtype, int, int] | None = None
        self._block: Block | None = None

    def block(self, dtype: Dtype, count: int, lead: int = 0) -> Block:
        """Return a block; the block that was returned before it is no longer valid.

        Args:
            dtype: number format.
            count: number of elements.
            lead: bytes between the beginning of a page and the block; what lies there stays as it is.
        """
        wanted = (dtype, count, lead)
        if self._block is None or self._last != wanted:
            size = lead + dtype.size * count
            if size > len(self._memory):
                self._grow(size)
            span = self._memory[:size]
            pages = self._memory[: _whole_pages(size)]
            self._block = Block(span[lead:], self._address + lead, dtype, count, span, pages)
            self._last = wanted
        return self._block

    def _grow(self, size: int) -> None:
        room = mmap.mmap(-1, _whole_pages(size) + PAGE)  # begins at a page; given back when it is dropped
        memory = memoryview(room)
        memory[:PAGE] = bytes(self._memory[:PAGE]).ljust(PAGE, b"\0")
        self._memory = memory
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(room))


def _whole_pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def block_ranges(elements: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of the blocks that make up the flat positions from ``first`` to ``elements``."""
    for start in range(first, elements, BLOCK_ELEMENTS):
        yield start, min(BLOCK_ELEMENTS, elements - start)
