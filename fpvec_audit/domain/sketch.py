"""A few fixed tensors of a model, by which it is recognised among a million when only a part of it is at hand.

Of every registered model eight tensors count. Whoever asks, asks for all the tensors at hand: so a counted tensor is
found wherever it turns up, whole and under any name. The eight are spread so that what is done to a model at once does
not take them all: up to two large matrices that belong to no layer (embedding and head, which adapters leave alone),
the others from equal stretches of the layers, each of another kind (attention, MLP), as a file or a range of layers is
a stretch, and retraining often takes a kind. Vectors (norms, biases) count only where there is nothing else: many
models share them by chance.

Law: a part that holds a counted tensor of a model unchanged has its number among :func:`numbers`.
"""

import hashlib
import re
from collections.abc import Sequence
from math import prod

from fpvec_audit.domain.manifest import Manifest, TensorDigest

COUNTED = 8
OUTSIDE_LAYERS = 2

_NUMBER = re.compile(r"\d+")


def sketch(manifest: Manifest) -> tuple[int, ...]:
    """Return the counted tensors of a model by content: signed 64-bit numbers, without repetition."""
    matrices = [tensor for tensor in manifest.tensors if len(tensor.shape) > 1]
    tensors = matrices if len(matrices) >= COUNTED else list(manifest.tensors)
    outside = [tensor for tensor in tensors if not _NUMBER.search(tensor.name)]
    outside.sort(key=lambda tensor: (-prod(tensor.shape), tensor.name))
    chosen = outside[:OUTSIDE_LAYERS]
    names = {tensor.name for tensor in chosen}
    others = sorted((tensor for tensor in tensors if tensor.name not in names), key=in_order)
    return tuple(dict.fromkeys(number(tensor) for tensor in [*chosen, *_spread(others, COUNTED - len(chosen))]))


def numbers(manifest: Manifest) -> tuple[int, ...]:
    """Return all tensors at hand as :func:`sketch` would count them, without repetition."""
    return tuple(dict.fromkeys(map(number, manifest.tensors)))


def number(tensor: TensorDigest) -> int:
    """Return the number by which a tensor's content counts: what its bytes are, whatever it is called."""
    return int.from_bytes(bytes.fromhex(tensor.sha256)[:8], "big", signed=True)


def in_order(tensor: TensorDigest) -> tuple[tuple[int, int | str], ...]:
    """Return the key that sorts tensors as they follow each other in a model: layer 2 before layer 10."""
    parts = re.split(r"(\d+)", tensor.name)
    return tuple((0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts))


def _spread(tensors: Sequence[TensorDigest], count: int) -> list[TensorDigest]:
    """Return one tensor of each of so many equal stretches, each of another kind as far as there are kinds."""
    if len(tensors) <= count:
        return list(tensors)
    kind_of = {tensor.name: _kind(tensor) for tensor in tensors}
    kinds = sorted(set(kind_of.values()), key=_shuffled)
    chosen = []
    for place in range(count):
        stretch = tensors[place * len(tensors) // count : (place + 1) * len(tensors) // count]
        wanted = [tensor for tensor in stretch if kind_of[tensor.name] == kinds[place % len(kinds)]]
        found = wanted if wanted and len(stretch) > len(kinds) else stretch
        chosen.append(found[len(found) // 2])  # from the middle, so that no gap is much longer than a stretch
    return chosen


def _kind(tensor: TensorDigest) -> str:
    return _NUMBER.sub("#", tensor.name)


def _shuffled(kind: str) -> bytes:
    return hashlib.sha256(kind.encode()).digest()
