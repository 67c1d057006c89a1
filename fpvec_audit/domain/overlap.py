"""What two models have in common, tensor by tensor, from their manifests alone.

Tensors are matched by what they are (dtype, shape, bytes) and not by what they are called, so that a model under other
names is still the same; names serve to say what differs. Law: an overlap of a manifest with itself is everything.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.sketch import in_order

SHOWN = 5
_SIZES = {dtype.label: dtype.size for dtype in Dtype}


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of a model.

    Attributes:
        tensors: number of tensors.
        parameters: number of their elements.
        bytes: number of their bytes.
    """

    tensors: int
    parameters: int
    bytes: int

    @classmethod
    def of(cls, tensors: Iterable[TensorDigest]) -> "Amount":
        """Return how much some tensors are."""
        sizes = [(prod(tensor.shape), _SIZES.get(tensor.dtype, 1)) for tensor in tensors]
        return cls(len(sizes), sum(size for size, _ in sizes), sum(size * width for size, width in sizes))


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a checkpoint at hand and a recorded model have in common.

    Attributes:
        shared: tensors of both.
        at_hand: the whole checkpoint at hand.
        recorded: the whole recorded model.
        renamed: how many shared tensors have another name here than there.
        changed: names of tensors of both whose content differs, as they follow each other in the model.
        added: names of tensors that only the checkpoint at hand has.
        missing: names of tensors that only the recorded model has.
    """

    shared: Amount
    at_hand: Amount
    recorded: Amount
    renamed: int
    changed: tuple[str, ...]
    added: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Fraction in [0, 1] of the bytes at hand that are the recorded model's."""
        return self.shared.bytes / self.at_hand.bytes if self.at_hand.bytes else 0.0

    @property
    def share_of_model(self) -> float:
        """Fraction in [0, 1] of the recorded model's bytes that are at hand."""
        return self.shared.bytes / self.recorded.bytes if self.recorded.bytes else 0.0


def overlap(at_hand: Manifest, recorded: Manifest) -> Overlap:
    """Return what a checkpoint at hand shares with a recorded model."""
    theirs = {tensor.name: tensor for tensor in recorded.tensors}
    left = Counter(map(_content, recorded.tensors))
    # Those that kept their name come first, so that equal tensors (zeros) do not count as renamed ones.
    kept = [tensor for tensor in at_hand.tensors if theirs.get(tensor.name) == tensor]
    left.subtract(map(_content, kept))
    names = {tensor.name for tensor in kept}
    renamed: list[TensorDigest] = []
    others: list[TensorDigest] = []
    for tensor in at_hand.tensors:
        if tensor.name in names:
            continue
        found = left[_content(tensor)] > 0
        left[_content(tensor)] -= found
        (renamed if found else others).append(tensor)
    names |= {tensor.name for tensor in others}
    missing = []
    for tensor in recorded.tensors:
        if tensor.name not in names and left[_content(tensor)] > 0:
            left[_content(tensor)] -= 1
            missing.append(tensor)
    return Overlap(
        shared=Amount.of([*kept, *renamed]),
        at_hand=Amount.of(at_hand.tensors),
        recorded=Amount.of(recorded.tensors),
        renamed=len(renamed),
        changed=_names(tensor for tensor in others if tensor.name in theirs),
        added=_names(tensor for tensor in others if tensor.name not in theirs),
        missing=_names(missing),
    )


def _content(tensor: TensorDigest) -> tuple[str, tuple[int, ...], str]:
    return tensor.dtype, tensor.shape, tensor.sha256


def _names(tensors: Iterable[TensorDigest]) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in sorted(tensors, key=in_order))
