"""Carriers as stamping adds them: ±ε of the spread of what the vectors add, without bias whatever the number format.

The spread is taken over chunks of 4,096 elements of a tensor, so that one pass over the weights is enough, rows that
the vectors leave alone stay as they are, and reading needs to know none of it. Half precision cannot hold so small a
number beside a weight; so a weight is moved to its neighbour with the probability that makes the carrier right on
average, decided by the carrier's key: the same stamp made again has the same bits.

Laws: an element of a chunk to which the vectors add nothing keeps every bit; elsewhere it becomes R(w + x), where w is
the weight as it is stamped without carriers, x = Σ ±amplitude in float32 (float64 for float64), and R rounds to nearest
in float32 and float64 and otherwise to one of the two neighbours, such that E[R(y)] = y.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fpvec_audit.domain.carrier import CarrierKey, tensor_nonce

if TYPE_CHECKING:
    import numpy
    import torch

    from fpvec_audit.tensors.blocks import Block

CHUNK = 4096
"""Elements that share one spread."""
MOST_CARRIERS = 8
_BLOCK = 128
"""Signs in a block of the cipher."""


@dataclass(frozen=True, slots=True)
class TensorCarriers:
    """The carriers of one tensor of one copy.

    Attributes:
        keys: (16 bytes of key, strength as a share of the vectors' spread) of each.
        nonce: tells this tensor from others.
        rounding: two numbers of 32 bits that decide how elements are rounded.
    """

    keys: tuple[tuple[bytes, float], ...] = field(repr=False)
    nonce: bytes
    rounding: tuple[int, int] = field(repr=False)


@dataclass(frozen=True)
class CopyCarriers:
    """The carriers of one copy.

    Attributes:
        keys: one of the owner's own, and one of the licensee's.
        strength: ε of each, a share of the vectors' spread.
    """

    keys: tuple[CarrierKey, ...]
    strength: float

    @cached_property
    def _ciphers(self) -> tuple[tuple[bytes, float], ...]:
        return tuple((key.cipher, self.strength) for key in self.keys)

    def of(self, name: str) -> TensorCarriers:
        """Return those of a tensor, by its canonical name."""
        return TensorCarriers(self._ciphers, tensor_nonce(name), self.keys[-1].rounding(name))


def sign_bytes(cipher: bytes, nonce: bytes, start: int, count: int) -> bytes:
    """Return the signs of consecutive elements, one bit for each, lowest first; 1 is a minus.

    Args:
        cipher: 16 bytes of key.
        nonce: 12 bytes, see :func:`fpvec_audit.domain.carrier.tensor_nonce`.
        start: flat position of the first element, a multiple of 128.
        count: number of elements.
    """
    assert not start % _BLOCK
    stream = Cipher(AES(cipher), CTR(nonce + struct.pack(">I", start // _BLOCK))).encryptor()
    return stream.update(bytes(-(-count // _BLOCK) * (_BLOCK // 8)))[: -(-count // 8)]


def rounded_amplitude(value: float) -> float:
    """Return a number rounded to eight significant bits, so that the order in which it was summed does not show."""
    import numpy

    with numpy.errstate(over="ignore"):
        bits = numpy.array([value], numpy.float64).astype(numpy.float32).view(numpy.uint32)
    bits += numpy.uint32(0x7FFF) + ((bits >> numpy.uint32(16)) & numpy.uint32(1))
    bits &= numpy.uint32(0xFFFF0000)
    return float(bits.view(numpy.float32)[0])


def carry(parts: Sequence[tuple["Block", float]], values: "Block", start: int, carriers: TensorCarriers) -> float:
    """Add carriers to elements that were stamped, in place; the counterpart of the compiled loop.

    Args:
        parts: blocks of τ with their scales, as they were added.
        values: the stamped elements.
        start: flat position of the first.
        carriers: what to add.

    Returns:
        Σ (after − before)².
    """
    import torch

    from fpvec_audit.tensors.arithmetic import BlockArithmetic, working_dtype

    numbers = values.torch()
    taus = [(block.torch(), scale) for block, scale in parts]
    working = working_dtype(numbers.dtype, *(tau.dtype for tau, _ in taus))
    change = BlockArithmetic().update(taus, count=values.count, working=working)
    square = 0.0
    for first in range(0, values.count, CHUNK):
        piece, own = change[first : first + CHUNK], numbers[first : first + CHUNK]
        total = float(piece.double().square().sum())
        if total > 0:
            spread = math.sqrt(total / len(piece))
            addend = torch.zeros(len(piece), dtype=working)
            for cipher, strength in carriers.keys:
                signs = _signs(cipher, carriers.nonce, start + first, len(piece)).to(working)
                addend += signs * rounded_amplitude(strength * spread)
            before = own.to(working)
            after = round_by_chance(before + addend, own.dtype, start + first, carriers.rounding)
            square += float((after.double() - before.double()).square().sum())
            own.copy_(after)
    return square


def _signs(cipher: bytes, nonce: bytes, start: int, count: int) -> "torch.Tensor":
    """Return the signs of elements, (count,), +1 or −1 in int8."""
    import numpy
    import torch

    bits = numpy.unpackbits(
        numpy.frombuffer(sign_bytes(cipher, nonce, start, count), numpy.uint8), count=count, bitorder="little"
    )
    return torch.from_numpy(1 - 2 * bits.astype(numpy.int8))


def round_by_chance(
    values: "torch.Tensor", dtype: "torch.dtype", start: int, rounding: tuple[int, int]
) -> "torch.Tensor":
    """Round to one of the two neighbours in a format, the nearer one the likelier; to nearest where it is wide.

    Args:
        values: (count,), float32 or float64.
        dtype: format to round to.
        start: flat position of the first number in its tensor, which with the key decides.
        rounding: key of the tensor.
    """
    import torch

    if dtype in (torch.float32, torch.float64):
        return values.to(dtype)
    single = values.float()
    chance = _chances(start, len(values), rounding)
    if dtype is torch.bfloat16:
        wide = single.numpy().view("uint32")
        up = ((chance >> 16) < (wide & 0xFFFF)).astype("uint32") << 16
        return torch.from_numpy(((wide & 0xFFFF0000) + up).view("float32")).to(dtype)
    bits = torch.int16 if dtype.itemsize == 2 else torch.int8
    inner = single.to(dtype).clone()
    inner.view(bits).sub_((inner.float().abs() > single.abs()).to(bits))  # towards zero
    outer = (inner.view(bits) + 1).view(dtype)
    share = (single.abs() - inner.float().abs()) / (outer.float().abs() - inner.float().abs())
    chosen = torch.from_numpy((chance >> 8).astype("float32")) * 2.0**-24 < share
    return torch.where(chosen, outer, inner)


def _chances(start: int, count: int, rounding: tuple[int, int]) -> "numpy.ndarray[Any, numpy.dtype[numpy.uint32]]":
    """Return 32 even bits for each element: twice the finalizer of MurmurHash3, over key and position."""
    import numpy

    place = numpy.arange(count, dtype=numpy.uint32) + numpy.uint32(start & 0xFFFFFFFF)
    key = (rounding[0] + (start >> 32) * 0x9E3779B9) & 0xFFFFFFFF
    mixed = _mixed(place ^ numpy.uint32(key))
    return _mixed(mixed + numpy.uint32(rounding[1]))


def _mixed(
    numbers: "numpy.ndarray[Any, numpy.dtype[numpy.uint32]]",
) -> "numpy.ndarray[Any, numpy.dtype[numpy.uint32]]":
    import numpy

    numbers = numbers ^ (numbers >> numpy.uint32(16))
    numbers = numbers * numpy.uint32(0x85EBCA6B)
    numbers = numbers ^ (numbers >> numpy.uint32(13))
    numbers = numbers * numpy.uint32(0xC2B2AE35)
    return numbers ^ (numbers >> numpy.uint32(16))
