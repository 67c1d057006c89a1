"""Which tensors a model is made of, each by its digest; the digest of all of them is the model's identity.

The canonical digest, version 1, stays as it is for ever. For every parameter, one entry: the JSON array
``[name, dtype, shape, sha256]`` with the canonical name, the dtype's safetensors label ("F32", "BF16", …), the shape as
a list of integers, and the lower-case hexadecimal SHA-256 of the tensor's row-major little-endian bytes. Each entry is
written as canonical JSON (``domain/canonical_json.py``: no white space, UTF-8 without escapes beyond JSON's own)
followed by a line feed; entries are sorted by name, by code point. The digest is the lower-case hexadecimal SHA-256 of
the ASCII line ``fpvec canonical digest v1`` with its line feed, followed by all entries.

Law: ``Manifest.from_bytes(manifest.to_bytes()) == manifest``.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from json.encoder import encode_basestring

HEADING = b"fpvec canonical digest v1\n"


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """One tensor of a manifest.

    Attributes:
        name: canonical name.
        dtype: safetensors label.
        shape: row-major shape.
        sha256: hexadecimal digest of its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def to_bytes(self) -> bytes:
        """Return the entry as it is digested."""
        # What canonical_bytes([name, dtype, [*shape], sha256]) gives, in a quarter of its time: a model has hundreds.
        name, dtype, sha256 = map(encode_basestring, (self.name, self.dtype, self.sha256))
        return f"[{name},{dtype},[{','.join(map(str, self.shape))}],{sha256}]\n".encode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The tensors of a model, sorted by name.

    Attributes:
        tensors: one entry per parameter; no name twice.
    """

    tensors: tuple[TensorDigest, ...]

    @classmethod
    def of(cls, tensors: Iterable[TensorDigest]) -> "Manifest":
        """Return the manifest of tensors given in any order."""
        ordered = tuple(sorted(tensors, key=lambda tensor: tensor.name))
        assert len({tensor.name for tensor in ordered}) == len(ordered), "a tensor was digested twice"
        return cls(ordered)

    @property
    def digest(self) -> str:
        """The canonical digest, version 1."""
        content = hashlib.sha256(HEADING)
        for tensor in self.tensors:
            content.update(tensor.to_bytes())
        return content.hexdigest()

    def first_difference(self, other: "Manifest") -> str | None:
        """Return what the first tensor is, by name, that another manifest has not, lacks, or has with other content."""
        ours = {tensor.name: tensor for tensor in self.tensors}
        theirs = {tensor.name: tensor for tensor in other.tensors}
        for name in sorted(ours.keys() | theirs.keys()):
            one, two = ours.get(name), theirs.get(name)
            if one is None or two is None:
                return f"{name} is {'new' if one is None else 'missing'}"
            if (one.dtype, one.shape) != (two.dtype, two.shape):
                return f"{name} is {two.dtype} {list(two.shape)}, it was {one.dtype} {list(one.shape)}"
            if one.sha256 != two.sha256:
                return f"{name} has other numbers"
        return None

    def to_bytes(self) -> bytes:
        """Return the manifest in the form in which the registry keeps it."""
        # Half of it are digests, which no level makes smaller than the first does.
        return zlib.compress(b"".join(tensor.to_bytes() for tensor in self.tensors), 1)

    @staticmethod
    def digest_of(content: bytes) -> str:
        """Return the canonical digest of what :meth:`to_bytes` gave, which holds the entries as they are digested.

        Raises:
            ValueError: the bytes are not what it gave.
        """
        try:
            return hashlib.sha256(HEADING + zlib.decompress(content)).hexdigest()
        except zlib.error as error:
            raise ValueError(f"not a manifest: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """Rebuild a manifest.

        Raises:
            ValueError: the bytes are not what :meth:`to_bytes` gave.
        """
        try:
            entries = json.loads(b"[" + b",".join(zlib.decompress(content).splitlines()) + b"]")
            return cls(tuple(TensorDigest(name, dtype, tuple(shape), sha) for name, dtype, shape, sha in entries))
        except (zlib.error, TypeError) as error:
            raise ValueError(f"not a manifest: {error}") from error
