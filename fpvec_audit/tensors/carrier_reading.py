"""All carriers of a suspect read in one pass over its weights and those of a model that has no carrier.

The two are read side by side through the streaming engine; each block of their difference is packed into bits once
(:mod:`~fpvec_audit.tensors.carrier_levels`) and multiplied with the signs of every carrier while it is in the
processor's cache. Memory depends neither on the size of the model nor, but for some bytes each, on how many carriers.

Law: which elements count is settled before any sign is looked at, so that the bound on p (``domain/carrier_test.py``)
holds for what was counted.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.domain.carrier import tensor_nonce
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors import native
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.carrier_levels import levels_of, products_of
from fpvec_audit.tensors.delta import refuse_nonfinite
from fpvec_audit.tensors.difference import ModelDifference
from fpvec_audit.tensors.kernels import BlockKernels
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stream import TensorWork, run

SPAN = 1 << 19
"""Elements that are read, or left out, together."""
MOST_PRODUCTS = 1 << 43
"""Products of an element and a sign up to which a reading takes a minute or two on two cores."""
_SLOWER = 1 << 4
"""How many times slower they are where the loops are not compiled."""

Chosen = Callable[[str, int], bool]
"""(canonical name, number of a span) → whether it counts."""


@dataclass(frozen=True, slots=True)
class CarrierProducts:
    """What one pass over a difference found.

    Attributes:
        products: Σ level · sign of each carrier, in the order asked for.
        square: Σ level².
        elements: how many elements were looked at.
        shared: how many the two models share.
        remarks: what does not count, in sentences.
    """

    products: tuple[int, ...]
    square: int
    elements: int
    shared: int
    remarks: tuple[str, ...]


def most_products() -> int:
    """Return how many products a reading may take here before elements are left out."""
    return MOST_PRODUCTS if native.carrier_library() is not None else MOST_PRODUCTS // _SLOWER


def shared_elements_of(reference: Path, suspect: Path, adapter: ArchitectureAdapter | None) -> int:
    """Return how many elements two models share.

    Raises:
        CheckpointError: a model cannot be read, or they are of different shapes.
    """
    with ModelDifference(reference, suspect, adapter) as difference:
        return sum(pair.shared for pair in difference.pairs.values())


def read_carriers(
    reference: Path,
    suspect: Path,
    adapter: ArchitectureAdapter | None,
    ciphers: Sequence[bytes],
    *,
    chosen: Chosen | None = None,
    progress: Progress = NO_PROGRESS,
) -> CarrierProducts:
    """Multiply a suspect's difference from a model with the signs of carriers.

    Args:
        reference: checkpoint directory of a model without carriers that the suspect may come from: the downstream
            model that was stamped, or the base.
        suspect: checkpoint directory.
        adapter: architecture of both.
        ciphers: 16 bytes of key for each carrier.
        chosen: which spans count; all when None. It must not depend on the signs.
        progress: where to report.

    Raises:
        CheckpointError: a model cannot be read, holds NaN or Inf, or the two are of different shapes.
    """
    with ModelDifference(reference, suspect, adapter) as difference:
        reading = _Reading(difference, ciphers)
        spans = list(_spans(difference, chosen))
        run([reading.work(*span) for span in spans], label="carriers", progress=progress)
        shared = sum(pair.shared for pair in difference.pairs.values())
        elements = sum(count for _, _, count in spans)
        return CarrierProducts(tuple(reading.products), reading.square, elements, shared, difference.remarks)


def _spans(difference: ModelDifference, chosen: Chosen | None) -> Iterator[tuple[str, int, int]]:
    """Yield (canonical name, flat position, elements) of what counts, as it lies in the files."""
    for name, pair in difference.pairs.items():
        for start in range(0, pair.shared, SPAN):
            if chosen is None or chosen(name, start // SPAN):
                yield name, start, min(SPAN, pair.shared - start)


class _Reading:
    """Sums over the spans so far."""

    def __init__(self, difference: ModelDifference, ciphers: Sequence[bytes]) -> None:
        self.products = [0] * len(ciphers)
        self.square = 0
        self._difference = difference
        self._ciphers = ciphers
        self._lock = threading.Lock()

    def work(self, name: str, start: int, count: int) -> TensorWork:
        """Return the work on one span."""
        nonce = tensor_nonce(name)

        def compute(
            kernels: BlockKernels, place: int, inputs: Sequence[Block], outputs: Sequence[Block]
        ) -> Sequence[Block]:
            levels = levels_of(*inputs)
            if levels.broken:
                self._refuse(name, start + place, inputs)
            found = products_of(levels, self._ciphers, nonce, start + place)
            with self._lock:
                self.square += levels.square
                self.products = [one + other for one, other in zip(self.products, found, strict=True)]
            return ()

        inputs: tuple[TensorSource, ...] = self._difference.sources(name, start, count)
        return TensorWork(count, inputs, (), compute, (), _nothing_hashed)

    def _refuse(self, name: str, start: int, inputs: Sequence[Block]) -> None:
        for directory, block in zip(self._difference.directories, inputs, strict=True):
            refuse_nonfinite(directory, name, start, block)
        raise CheckpointError(
            f"{name}: the difference between {' and '.join(map(str, self._difference.directories))} is not finite",
            advice="give the downstream model or the base that the suspect may come from",
        )


def _nothing_hashed(digests: Sequence[str]) -> None:
    """Nothing was hashed."""
