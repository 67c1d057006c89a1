"""Sources of tensor elements beside files: memory, and tiles that are decoded when they are asked for.

Law: what a source gives does not depend on how its elements are asked for – in one piece, in many, or twice.
"""

from collections.abc import Callable, Iterator

import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.blocks import torch_dtype
from fpvec_audit.tensors.source import TensorSource

SPAN = 1 << 18
"""Elements that are worked on at a time: 1 MiB of float32."""

_DTYPES = {torch_dtype(dtype): dtype for dtype in Dtype}


class MemoryTensor:
    """A tensor that lies in memory, as a source.

    Args:
        tensor: contiguous, on the CPU; it is not copied.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._flat = tensor.view(-1)
        self._shape = tuple(tensor.shape)
        self._dtype = _DTYPES[tensor.dtype]

    @property
    def dtype(self) -> Dtype:
        """Number format of the tensor."""
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements from flat position ``start`` on into ``block``."""
        if count:
            torch.frombuffer(block, dtype=self._flat.dtype, count=count).copy_(self._flat[start : start + count])


class Tiles:
    """Cuts a tensor into tiles that are always decoded whole, the same way, and holds the last one.

    Sums of floating-point numbers depend on how they are grouped; with a fixed grid the elements do not depend on the
    blocks in which they are asked for.

    Args:
        elements: number of elements of the tensor.
        size: elements of a tile; the last one may be shorter.
        decode: (start, count) → the flat tile.
        release: called after the last element was read, when the memory of whatever decoding needs can go.
    """

    def __init__(
        self, *, elements: int, size: int, decode: Callable[[int, int], torch.Tensor], release: Callable[[], None]
    ) -> None:
        self._elements = elements
        self._size = size
        self._decode = decode
        self._release = release
        self._start = 0
        self._tile: torch.Tensor | None = None

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements from flat position ``start`` on into ``block``."""
        place, end = start, start + count
        while place < end:
            first = place - place % self._size
            tile = self._at(first)
            until = min(first + len(tile), end)
            offset = (place - start) * tile.itemsize
            target = torch.frombuffer(block, dtype=tile.dtype, count=until - place, offset=offset)
            target.copy_(tile[place - first : until - first])
            place = until
        if end == self._elements:
            self._tile = None
            self._release()

    def _at(self, first: int) -> torch.Tensor:
        if self._tile is None or self._start != first:
            self._tile = None  # the old tile goes before the new one comes
            self._tile = self._decode(first, min(self._size, self._elements - first))
            self._start = first
        return self._tile


def read_elements(source: TensorSource, start: int, count: int) -> torch.Tensor:
    """Return the ``count`` elements from flat position ``start`` on, in memory of their own.

    Shapes:
        the result is (count,).
    """
    elements = torch.empty(count, dtype=torch_dtype(source.dtype))
    if count:
        source.read_into(start, count, memoryview(elements.view(torch.uint8).numpy()))
    return elements


def spans(elements: int, size: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of stretches that make up a flat tensor, each of ``size`` (:data:`SPAN`) or fewer."""
    step = size or SPAN
    for start in range(0, elements, step):
        yield start, min(step, elements - start)


def without_positive_zeros(block: torch.Tensor) -> torch.Tensor:
    """Turn every zero of a block into −0.0, which changes no bit of what it is added to, and return the block."""
    return block.masked_fill_(block == 0, -0.0)
