"""The difference between two models in seven levels, packed in bits, and its products with carriers.

A difference is worth as much as it stands out among its neighbours, and no more than three steps: so no few large
numbers decide, and a product with signs is counting bits. The step is a share of the mean size over each chunk of 4,096
elements; any other rule that does not look at carriers would do as well, as the bound on p holds for all of them.

Laws: level 0 where the two models agree; −level for the negative of a difference; both counterparts of a function give
the same bits.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.carrier import CHUNK, rounded_amplitude, sign_bytes
from fpvec_audit.tensors.kernels import FORMATS
from fpvec_audit.tensors.native import carrier_library

if TYPE_CHECKING:
    import numpy


STEP = 0.75
"""Distance of two levels as a share of the mean size; near the best for a bell curve (0.6 standard deviations)."""
_CHUNK_BYTES = CHUNK // 8


@dataclass(frozen=True, slots=True)
class Levels:
    """A difference in levels −3 … 3, one bit of each plane for each element, lowest first, in whole chunks.

    Attributes:
        signs: whether a level is negative.
        ones: whether its size is odd.
        twos: whether its size is 2 or more.
        square: Σ level².
        broken: whether a number of one of the models is not finite.
    """

    signs: bytes | bytearray
    ones: bytes | bytearray
    twos: bytes | bytearray
    square: int
    broken: bool

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.signs) // _CHUNK_BYTES


def levels_of(before: Block, after: Block, *, compiled: bool = True) -> Levels:
    """Return after − before in levels.

    Args:
        before: elements of one model.
        after: the same elements of the other.
        compiled: use the compiled loops where they know the formats.
    """
    loaded = carrier_library() if compiled else None
    if loaded is None or before.dtype not in FORMATS or after.dtype not in FORMATS:
        return _levels_with_torch(before, after)
    size = -(-before.count // CHUNK) * _CHUNK_BYTES
    planes = [bytearray(size) for _ in range(3)]
    views = [(ctypes.c_char * size).from_buffer(plane) for plane in planes]
    square = ctypes.c_uint64()
    broken = loaded.fpvec_levels(
        before.address, FORMATS[before.dtype], after.address, FORMATS[after.dtype], before.count, STEP, *views,
        ctypes.byref(square),
    )  # fmt: skip
    signs, ones, twos = planes
    return Levels(signs, ones, twos, int(square.value), bool(broken))


def products_of(
    levels: Levels, ciphers: Sequence[bytes], nonce: bytes, start: int, *, compiled: bool = True
) -> list[int]:
    """Return Σ level · sign for each carrier.

    Args:
        levels: a difference.
        ciphers: 16 bytes of key for each carrier.
        nonce: of the tensor.
        start: flat position of the first element, a multiple of ``CHUNK``.
        compiled: use the compiled loops where there are any.
    """
    assert not start % CHUNK
    loaded = carrier_library() if compiled else None
    if loaded is None:
        return _products_with_numpy(levels, ciphers, nonce, start)
    found = (ctypes.c_int64 * len(ciphers))()
    planes = [
        (ctypes.c_char * len(plane)).from_buffer_copy(plane) for plane in (levels.signs, levels.ones, levels.twos)
    ]
    loaded.fpvec_read_carriers(b"".join(ciphers), len(ciphers), nonce, start, levels.chunks, *planes, found)
    return list(found)


def _levels_with_torch(before: Block, after: Block) -> Levels:
    import numpy

    one, two = before.torch(), after.torch()
    wide = one.double() if one.itemsize == 8 or two.itemsize == 8 else one.float()
    delta = (two.to(wide.dtype) - wide).float()
    broken = not bool(one.float().isfinite().all() and two.float().isfinite().all() and delta.isfinite().all())
    size = -(-before.count // CHUNK) * CHUNK
    levels = numpy.zeros(size, numpy.int8)
    if not broken:
        for start in range(0, before.count, CHUNK):
            piece = delta[start : start + CHUNK].numpy()
            sizes = numpy.abs(piece)
            unit = numpy.float32(rounded_amplitude(STEP * float(sizes.sum(dtype=numpy.float64)) / len(piece)))
            if unit > 0:
                level = sum((sizes >= numpy.float32(edge) * unit).astype(numpy.int8) for edge in (0.5, 1.5, 2.5))
                levels[start : start + len(piece)] = numpy.where(piece < 0, -level, level)
    large = numpy.abs(levels)
    signs, ones, twos = (
        numpy.packbits(plane, bitorder="little").tobytes() for plane in (levels < 0, large % 2 == 1, large >= 2)
    )
    return Levels(signs, ones, twos, int((large.astype(numpy.int64) ** 2).sum()), broken)


def _products_with_numpy(levels: Levels, ciphers: Sequence[bytes], nonce: bytes, start: int) -> list[int]:
    import numpy

    signs, ones, twos = (numpy.frombuffer(plane, numpy.uint64) for plane in (levels.signs, levels.ones, levels.twos))
    most = _ones_in(ones) + 2 * _ones_in(twos)
    found = []
    for cipher in ciphers:
        stream = numpy.frombuffer(sign_bytes(cipher, nonce, start, levels.chunks * CHUNK), numpy.uint64)
        against = stream ^ signs
        found.append(most - 2 * (_ones_in(against & ones) + 2 * _ones_in(against & twos)))
    return found


def _ones_in(words: "numpy.ndarray[Any, numpy.dtype[numpy.uint64]]") -> int:
    import numpy

    if hasattr(numpy, "bitwise_count"):
        return int(numpy.bitwise_count(words).sum(dtype=numpy.int64))
    return int(numpy.unpackbits(words.view(numpy.uint8)).sum(dtype=numpy.int64))  # numpy 1
