"""A few fixed tensors of a model, by which a part of it is recognised among a million.

Of the tensors with two dimensions or more, those count whose names have the smallest digests: the same ones in every
model of an architecture, whichever part of it is at hand. So a model of which only some files are left, or some layers
were trained again, shares with the original every counted tensor that is still there and unchanged. Vectors (norms,
biases) do not count: many models share them by chance.

Law: where a manifest holds a part of another's tensors, the counted tensors of the whole that are in the part are
counted in the part too (the smallest of a set are the smallest of every subset that holds them).
"""

import hashlib

from fpvec_audit.domain.manifest import Manifest, TensorDigest

COUNTED = 8


def sketch(manifest: Manifest) -> tuple[int, ...]:
    """Return the counted tensors of a model by content: signed 64-bit numbers, without repetition.

    A number follows from name, dtype, shape and bytes of its tensor, so that equal numbers mean equal tensors but for
    one chance in 2^64.
    """
    tensors = [tensor for tensor in manifest.tensors if len(tensor.shape) > 1]
    tensors.sort(key=lambda tensor: hashlib.sha256(tensor.name.encode()).digest())
    return tuple(dict.fromkeys(_number(tensor) for tensor in tensors[:COUNTED]))


def _number(tensor: TensorDigest) -> int:
    return int.from_bytes(hashlib.sha256(tensor.to_bytes()).digest()[:8], "big", signed=True)
