"""The largest elements of a vector, each with its place and every bit of its value.

Which ones are kept is settled over the whole vector at once: no other choice of as many elements comes closer to it.
The limit is found with flat memory, from two histograms of the bits of |τ| as float32. Of elements that are exactly at
the limit, as many as are wanted are taken at even distances, so that no tensor is favoured. Zeros are never kept.

Places are stored as gaps within blocks of 65,536 elements: a byte below 255 skips that many elements and keeps the next
one, 255 skips 255 elements and keeps none. That takes one byte per kept element, where no element needs 255 to be
skipped, and at most one more per 255 elements of the tensor; a flat position would take four.

Laws:

* kept elements are given back bit for bit, all others as −0.0, which leaves every bit of what it is added to;
* every kept |τ| is at least as large as every |τ| that was not kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.blocks import torch_dtype
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stored import Tiles, read_elements, spans

GAPS, VALUES, COUNTS, SHAPE = "gaps", "values", "counts", "shape"
BLOCK = 1 << 16
"""Elements of a block; part of the format."""
SKIP = 255

_LOW_BITS = 15
_BINS = 1 << 16  # float32 without its sign has 31 bits: 16 in the first histogram, 15 in the second


class Sparse:
    """Kept elements as a source of the whole tensor, in their own number format.

    Args:
        gaps: bytes that say where elements are kept, block after block.
        values: the kept elements.
        counts: (bytes, kept elements) of every block.
        shape: shape of the tensor.
        name: what it is called in messages.
    """

    def __init__(
        self, gaps: TensorSource, values: TensorSource, counts: TensorSource, *, shape: tuple[int, ...], name: str
    ) -> None:
        self._gaps, self._values, self._counts = gaps, values, counts
        self._shape = shape
        self._name = name
        self._starts: torch.Tensor | None = None
        self._tiles = Tiles(elements=prod(shape), size=BLOCK, decode=self._decode, release=self._release)

    @property
    def dtype(self) -> Dtype:
        """Number format of the kept elements."""
        return self._values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        """Write the ``count`` elements from flat position ``start`` on into ``block``.

        Raises:
            CheckpointError: a file ends too early or cannot be read.
            VectorError: the gaps do not fit the tensor.
        """
        self._tiles.read_into(start, count, block)

    def _decode(self, start: int, count: int) -> torch.Tensor:
        if self._starts is None:
            self._starts = self._block_starts()
        number = start // BLOCK
        (gap, value), (gap_end, value_end) = self._starts[number : number + 2].tolist()
        block = torch.full((count,), -0.0, dtype=torch_dtype(self.dtype))
        if gap == gap_end:
            return block
        places = places_of(read_elements(self._gaps, gap, gap_end - gap))
        if len(places) != value_end - value or (len(places) and int(places[-1]) >= count):
            self._refuse(f"block {number} does not hold the elements that it says")
        block[places] = read_elements(self._values, value, value_end - value)
        return block

    def _block_starts(self) -> torch.Tensor:
        """Return where every block begins among gaps and values, and where the last one ends."""
        counts = read_elements(self._counts, 0, prod(self._counts.shape)).view(-1, 2).long()
        starts = torch.cat([torch.zeros(1, 2, dtype=torch.int64), counts.cumsum(0)])
        ends = (prod(self._gaps.shape), prod(self._values.shape))
        if (counts < 0).any() or tuple(starts[-1].tolist()) != ends:
            self._refuse("the blocks do not add up")
        return starts

    def _refuse(self, problem: str) -> None:
        raise VectorError(f"{self._name}: {problem}", advice="the vector is damaged; compress it again")

    def _release(self) -> None:
        self._starts = None


@dataclass(frozen=True, slots=True)
class Limit:
    """Which elements are large enough.

    Attributes:
        bits: bits of the least |τ| that is kept, as float32; 0 when there are fewer elements than wanted.
        wanted: how many elements of exactly that size are kept.
        there: how many there are.
    """

    bits: int
    wanted: int
    there: int


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """What is kept of one tensor.

    Attributes:
        limit: which elements are large enough.
        before: how many elements of exactly the limit's size come in tensors before this one.
        after: the same, this one included.
        counts: (bytes, kept elements) of every block, int32.
    """

    limit: Limit
    before: int
    after: int
    counts: torch.Tensor

    def parts(self, dtype: Dtype, shape: tuple[int, ...]) -> Mapping[str, tuple[Dtype, tuple[int, ...]]]:
        """Return what a tensor of this format and shape is stored as; its shape is that of a part without elements."""
        gaps, kept = self.counts.long().sum(0).tolist()
        return {
            GAPS: (Dtype.U8, (gaps,)),
            VALUES: (dtype, (kept,)),
            COUNTS: (Dtype.I32, tuple(self.counts.shape)),
            SHAPE: (Dtype.U8, (0, *shape)),
        }


def counts_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of the counts of a tensor of this shape."""
    return -(-prod(shape) // BLOCK), 2


def limit_of(sources: Sequence[TensorSource], kept: int) -> Limit:
    """Return the limit above which the given number of elements lies; every source is read once or twice.

    Args:
        sources: the tensors of the vector, finite.
        kept: how many elements are wanted, at least 1.
    """
    high = torch.zeros(_BINS, dtype=torch.int64)
    for bits in _bits(sources):
        high += torch.bincount(bits >> _LOW_BITS, minlength=_BINS)
    bin_, wanted = _bin_of(high, kept)
    low = torch.zeros(1 << _LOW_BITS, dtype=torch.int64)
    if all(source.dtype is Dtype.BF16 for source in sources):
        low[0] = high[bin_]  # the bits of a bfloat16 are all in the first histogram
    else:
        for bits in _bits(sources):
            inside = bits[bits >> _LOW_BITS == bin_] & ((1 << _LOW_BITS) - 1)
            low += torch.bincount(inside, minlength=1 << _LOW_BITS)
    rest, wanted = _bin_of(low, wanted)
    limit = bin_ << _LOW_BITS | rest
    return Limit(limit, wanted, int(low[rest])) if limit else Limit(0, 0, 0)


def kept_blocks(source: TensorSource, limit: Limit, before: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Yield (gaps, values, elements at the limit) of every block of a tensor.

    Args:
        source: the tensor.
        limit: which elements are large enough.
        before: how many elements of exactly the limit's size come in tensors before this one.
    """
    for start, count in spans(prod(source.shape), BLOCK):
        block = read_elements(source, start, count)
        bits = _bits_of(block)
        mask = bits > limit.bits
        ties = (bits == limit.bits).nonzero().view(-1) if limit.there else torch.empty(0, dtype=torch.int64)
        mask[ties[_evenly(len(ties), before, limit)]] = True
        before += len(ties)
        places = mask.nonzero().view(-1)
        yield gaps_of(places), block[places], len(ties)


def keep(source: TensorSource, limit: Limit, before: int) -> KeptTensor:
    """Count what is kept of a tensor; see :func:`kept_blocks`."""
    counts, after = [], before
    for gaps, values, ties in kept_blocks(source, limit, before):
        counts.append((len(gaps), len(values)))
        after += ties
    return KeptTensor(limit, before, after, torch.tensor(counts, dtype=torch.int32).view(-1, 2))


def gaps_of(places: torch.Tensor) -> torch.Tensor:
    """Return the bytes that stand for ascending places within a block."""
    gaps = places.diff(prepend=torch.tensor([-1])) - 1
    ends = (gaps // SKIP + 1).cumsum(0)  # every place ends its bytes, those before are all 255
    bytes_ = torch.full((int(ends[-1]) if len(ends) else 0,), SKIP, dtype=torch.uint8)
    bytes_[ends - 1] = (gaps % SKIP).to(torch.uint8)
    return bytes_


def places_of(gaps: torch.Tensor) -> torch.Tensor:
    """Return the ascending places that bytes stand for."""
    keeps = gaps != SKIP
    return (gaps.long() + keeps).cumsum(0)[keeps] - 1


def _bits_of(block: torch.Tensor) -> torch.Tensor:
    """Return the bits of |τ| as float32: whole numbers in the order of the absolute values."""
    return block.float().abs().view(torch.int32)


def _bits(sources: Sequence[TensorSource]) -> Iterator[torch.Tensor]:
    for source in sources:
        for start, count in spans(prod(source.shape)):
            yield _bits_of(read_elements(source, start, count))


def _bin_of(histogram: torch.Tensor, wanted: int) -> tuple[int, int]:
    """Return the bin that holds the wanted-th largest element, and how many are wanted of that bin."""
    above = histogram.flip(0).cumsum(0)
    place = min(int(torch.searchsorted(above, wanted)), len(histogram) - 1)
    bin_ = len(histogram) - 1 - place
    return bin_, wanted - int(above[place] - histogram[bin_])


def _evenly(count: int, before: int, limit: Limit) -> torch.Tensor:
    """Say which of the next ``count`` elements at the limit are kept, ``before`` of which have passed already."""
    first = before * limit.wanted % max(1, limit.there)
    steps = (first + torch.arange(count + 1) * limit.wanted) // max(1, limit.there)
    return steps.diff() > 0
