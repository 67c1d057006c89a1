"""Tensors in eight bits: float8 (e4m3) numbers with one scale per row.

The scale is a power of two, so that dividing and multiplying by it is exact and every element is rounded just once.

Law: an element that is not below 2⁻¹³ of its row's largest is given back within 1/16 of itself; a zero comes as −0.0.
"""

from collections.abc import Mapping
from math import prod

import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stored import SPAN, Tiles, read_elements, spans, without_positive_zeros

CODES, SCALES = "codes", "scales"
LARGEST = 448.0
"""The largest number of float8 e4m3."""
_SMALLEST_EXPONENT = -126


class Scaled:
    """Float8 numbers times the scale of their row, as a source.

    Shapes:
        codes are (…, n), scales (rows,), where a row is n elements that follow each other.

    Args:
        codes: float8 e4m3.
        scales: float32, one a row.
    """

    def __init__(self, codes: TensorSource, scales: TensorSource) -> None:
        self._codes, self._scales = codes, scales
        self._loaded: torch.Tensor | None = None
        self._tiles = Tiles(elements=prod(codes.shape), size=SPAN, decode=self._decode, release=self._release)

    @property
    def dtype(self) -> Dtype:
        """Always float32."""
        return Dtype.F32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._codes.shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements from flat position ``start`` on into ``block``.

        Raises:
            CheckpointError: a file ends too early or cannot be read.
        """
        self._tiles.read_into(start, count, block)

    def _decode(self, start: int, count: int) -> torch.Tensor:
        if self._loaded is None:
            self._loaded = read_elements(self._scales, 0, prod(self._scales.shape))
        block = read_elements(self._codes, start, count).float()
        return without_positive_zeros(block.mul_(_along(self._loaded, start, count, row=self.shape[-1])))

    def _release(self) -> None:
        self._loaded = None


def is_scalable(shape: tuple[int, ...]) -> bool:
    """Say whether a tensor has rows."""
    return len(shape) >= 2 and prod(shape) > 0


def scaled_parts(shape: tuple[int, ...]) -> Mapping[str, tuple[Dtype, tuple[int, ...]]]:
    """Return what a tensor of this shape is stored as."""
    return {CODES: (Dtype.F8_E4M3, shape), SCALES: (Dtype.F32, (prod(shape[:-1]),))}


def row_scales(source: TensorSource) -> torch.Tensor:
    """Return the scale of every row: the least power of two under which its largest number fits.

    Shapes:
        the result is (rows,), float32.
    """
    fraction, exponent = torch.frexp(_row_maxima(source) / LARGEST)
    exponent = torch.where(fraction == 0.5, exponent - 1, exponent)
    exponent = torch.where(fraction == 0, 0, exponent.clamp_(min=_SMALLEST_EXPONENT))
    return torch.ldexp(torch.ones(len(exponent)), exponent)


def encoded(block: torch.Tensor, scales: torch.Tensor, start: int, *, row: int) -> torch.Tensor:
    """Return a stretch of a tensor in float8.

    Shapes:
        block and the result are (count,), scales (rows,).

    Args:
        block: the elements, finite.
        scales: what :func:`row_scales` gave for the whole tensor.
        start: flat position of the first element.
        row: elements of a row.
    """
    shrunk = block.float().div_(_along(scales, start, len(block), row=row))
    return shrunk.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def _row_maxima(source: TensorSource) -> torch.Tensor:
    """Return the largest absolute value of every row."""
    row, elements = source.shape[-1], prod(source.shape)
    maxima = torch.zeros(elements // row)  # made first: results between the blocks would fragment the heap
    if row > SPAN:
        for number in range(len(maxima)):
            pieces = (_absolute(source, number * row + start, count) for start, count in spans(row))
            maxima[number] = max(float(piece.max()) for piece in pieces)
        return maxima
    for start, count in spans(elements, SPAN // row * row):
        maxima[start // row : (start + count) // row] = _absolute(source, start, count).view(-1, row).amax(1)
    return maxima


def _absolute(source: TensorSource, start: int, count: int) -> torch.Tensor:
    return read_elements(source, start, count).float().abs_()


def _along(scales: torch.Tensor, start: int, count: int, *, row: int) -> torch.Tensor:
    """Return the scale of every element of a stretch."""
    first, last = start // row, (start + count - 1) // row
    times = torch.full((last - first + 1,), row)
    times[0] -= start - first * row
    times[-1] -= (last + 1) * row - start - count
    return scales[first : last + 1].repeat_interleave(times)
