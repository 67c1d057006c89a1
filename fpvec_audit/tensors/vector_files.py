"""A fingerprint vector on disk: safetensors under canonical names, and ``fpvec_vector.json`` that says what it is.

Law: what :func:`read_vector` describes is what :class:`VectorLayout` laid out.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype
from fpvec_audit.domain.ports import ModelDescription
from fpvec_audit.domain.vector import VectorDescription
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.header import header_bytes
from fpvec_audit.tensors.index import read_json, read_tensors
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource

STEM = "vector"
DESCRIPTION = "fpvec_vector.json"
LARGEST_SHARD = 4_000_000_000
"""Bytes per file; a larger vector is split."""
METADATA = {"format": "pt"}
PART = ":"
"""Stands between the canonical name of a tensor of a compressed vector and the part that is stored."""


TensorFormat = tuple[Dtype, tuple[int, ...]]
"""(dtype, shape) of a tensor."""


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A fingerprint vector on disk.

    Attributes:
        files: its directory and tensors, under canonical names; those of a compressed vector are parts of tensors, see
            ``compressed``.
        description: what it is.
    """

    files: Checkpoint
    description: VectorDescription


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """Which tensors go into which file of a vector.

    Attributes:
        shards: file name → canonical name → dtype and shape, in the order of the bytes.
    """

    shards: Mapping[str, Mapping[str, tuple[Dtype, tuple[int, ...]]]]

    @property
    def bytes(self) -> int:
        """Bytes of all files, descriptions not counted."""
        headers = sum(len(header_bytes(tensors, METADATA)) for tensors in self.shards.values())
        return headers + sum(
            tensor_bytes(dtype, shape) for tensors in self.shards.values() for dtype, shape in tensors.values()
        )


def tensor_bytes(dtype: Dtype, shape: tuple[int, ...]) -> int:
    """Return the number of bytes of a tensor."""
    count = dtype.size
    for size in shape:
        count *= size
    return count


def lay_out(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]]) -> VectorLayout:
    """Divide tensors into files: widest dtype first, so that all are aligned, then by name."""
    groups: list[dict[str, tuple[Dtype, tuple[int, ...]]]] = [{}]
    filled = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].size, item[0])):
        size = tensor_bytes(dtype, shape)
        if groups[-1] and filled + size > LARGEST_SHARD:
            groups.append({})
            filled = 0
        groups[-1][name] = (dtype, shape)
        filled += size
    if len(groups) == 1:
        return VectorLayout({f"{STEM}.safetensors": groups[0]})
    names = [f"{STEM}-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    return VectorLayout(dict(zip(names, groups, strict=True)))


def write_description(directory: Path, layout: VectorLayout, description: VectorDescription) -> None:
    """Write what a vector is, and the index that ties several shards together."""
    (directory / DESCRIPTION).write_text(
        json.dumps(description.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    if len(layout.shards) > 1:
        weight_map = {name: file for file, tensors in layout.shards.items() for name in tensors}
        content = {"metadata": {"total_size": description.bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / f"{STEM}.safetensors.index.json").write_text(
            json.dumps(content, indent=2) + "\n", encoding="utf-8"
        )


def read_vector(path: Path) -> StoredVector:
    """Read what a vector directory holds, without its numbers.

    Raises:
        VectorError: it is no vector, or its description is wrong.
        CheckpointError: its files are damaged.
    """
    if not (path / DESCRIPTION).is_file():
        problem = "is not a fingerprint vector" if path.is_dir() else "does not exist"
        raise VectorError(f"{path} {problem} (no {DESCRIPTION})", advice="make one with `fpvec vector extract`")
    description = VectorDescription.from_json(read_json(path, DESCRIPTION), where=str(path / DESCRIPTION))
    tensors, files, sharded = read_tensors(path, STEM)
    names = set(tensors)
    if description.compression is not None:
        names = {name.rpartition(PART)[0] for name in tensors}
    else:
        for name, spec in tensors.items():
            if not spec.dtype.floating or spec.dtype.size == 1:
                raise VectorError(f"{path}: {name} is stored as {spec.dtype.label}", advice="extract the vector again")
    if len(names) != description.tensors:
        raise VectorError(
            f"{path} holds {len(names)} tensors, {DESCRIPTION} says {description.tensors}",
            advice="extract the vector again",
        )
    checkpoint = Checkpoint(path, tensors, files, sharded, ModelDescription({}, {}, path.name))
    return StoredVector(checkpoint, description)


def tensor_formats(vector: StoredVector) -> Mapping[str, TensorFormat]:
    """Return canonical name → dtype and shape of the tensors that a vector gives, compressed or not.

    Raises:
        VectorError: the parts of a compressed vector do not fit each other.
        CheckpointError: a file is missing.
    """
    if vector.description.compression is None:
        return {name: (spec.dtype, spec.shape) for name, spec in vector.files.tensors.items()}
    from fpvec_audit.tensors import compressed  # needs torch, which a plain vector does without

    return compressed.tensor_formats(vector.files)


@contextmanager
def open_tensors(vector: StoredVector) -> Iterator[Mapping[str, TensorSource]]:
    """Give the tensors of a vector, compressed or not: canonical name → source; its files are closed at the end.

    Raises:
        VectorError: the parts of a compressed vector do not fit each other.
        CheckpointError: a file is missing.
    """
    if vector.description.compression is None:
        with OpenFiles(vector.files.path) as files:
            yield {name: files.source(spec) for name, spec in vector.files.tensors.items()}
        return
    from fpvec_audit.tensors import compressed

    with compressed.open_compressed(vector.files) as sources:
        yield sources
