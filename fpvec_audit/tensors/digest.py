"""The identity of a model: the canonical digest, version 1. This definition stays as it is for ever.

For every parameter, one entry: the JSON array ``[name, dtype, shape, sha256]`` with the canonical name, the dtype's
safetensors label ("F32", "BF16", …), the shape as a list of integers, and the lower-case hexadecimal SHA-256 of the
tensor's row-major little-endian bytes. Each entry is written as canonical JSON (``domain/canonical_json.py``: no white
space, UTF-8 without escapes beyond JSON's own) followed by a line feed; entries are sorted by name, by code point. The
digest is the lower-case hexadecimal SHA-256 of the ASCII line ``fpvec canonical digest v1`` with its line feed,
followed by all entries.

Law: the digest does not depend on sharding, order, header metadata, the body's name prefix, stored buffers, or whether
a tied tensor is stored once or twice; it changes with any bit of any parameter. For an unknown architecture the
canonical name is the stored name and every stored tensor counts.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import TensorReader, bytes_of

HEADING = b"fpvec canonical digest v1\n"


@dataclass(slots=True)
class DigestBuilder:
    """Collects tensors, in any order, for a canonical digest."""

    _entries: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, dtype: Dtype, shape: tuple[int, ...], content: str) -> None:
        """Take in a tensor.

        Args:
            name: canonical name, new to this digest.
            dtype: number format.
            shape: its shape.
            content: hexadecimal SHA-256 of its bytes.
        """
        assert name not in self._entries, f"{name} was digested before"
        self._entries[name] = canonical_bytes([name, dtype.label, list(shape), content]) + b"\n"

    def hexdigest(self) -> str:
        """Return the digest of everything taken in so far."""
        digest = hashlib.sha256(HEADING)
        for name in sorted(self._entries):
            digest.update(self._entries[name])
        return digest.hexdigest()


def canonical_digest(
    checkpoint: Checkpoint, adapter: ArchitectureAdapter | None, *, progress: Progress = NO_PROGRESS
) -> str:
    """Return the canonical digest of a model; every byte of its parameters is read once.

    Args:
        checkpoint: the model.
        adapter: its architecture, None when unknown.
        progress: where to report.

    Raises:
        CheckpointError: the files cannot be read, or names or ties contradict each other.
    """
    return tensors_digest(checkpoint, named_parameters(checkpoint, adapter).parameters, progress=progress)


def tensors_digest(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorSpec], *, progress: Progress = NO_PROGRESS
) -> str:
    """Return the canonical digest over chosen tensors, given by canonical name."""
    builder = DigestBuilder()
    total = sum(spec.bytes for spec in tensors.values())
    with TensorReader(checkpoint.path) as reader, progress.step("digest", total, "bytes") as step:
        for name, spec in tensors.items():
            content = hashlib.sha256()
            for _, block in reader.blocks(spec):
                content.update(bytes_of(block))
            builder.add(name, spec.dtype, spec.shape, content.hexdigest())
            step.advance(spec.bytes)
    return builder.hexdigest()
