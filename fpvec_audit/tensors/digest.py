"""The identity of a model: the canonical digest, version 1, as ``domain/manifest.py`` defines it.

Law: the digest does not depend on sharding, order, header metadata, the body's name prefix, stored buffers, or whether
a tied tensor is stored once or twice; it changes with any bit of any parameter. For an unknown architecture the
canonical name is the stored name and every stored tensor counts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.stream import TensorWork, nothing_to_compute, run

EMPTY = hashlib.sha256().hexdigest()


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
    return read_manifest(checkpoint, adapter, progress=progress).digest


def read_manifest(
    checkpoint: Checkpoint, adapter: ArchitectureAdapter | None, *, progress: Progress = NO_PROGRESS
) -> Manifest:
    """Return the digests of all parameters of a model; every byte of them is read once.

    Raises:
        CheckpointError: see :func:`canonical_digest`.
    """
    return tensors_manifest(checkpoint, named_parameters(checkpoint, adapter).parameters, progress=progress)


def tensors_manifest(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorSpec], *, progress: Progress = NO_PROGRESS
) -> Manifest:
    """Return the digests of chosen tensors, given by canonical name."""
    specs = dict(tensors)
    found = tensor_digests(checkpoint.path, list(specs.values()), progress=progress)
    return Manifest.of(
        tensor_digest(name, spec.dtype, spec.shape, content)
        for (name, spec), content in zip(specs.items(), found, strict=True)
    )


def tensor_digests(directory: Path, specs: Sequence[TensorSpec], *, progress: Progress = NO_PROGRESS) -> list[str]:
    """Return the hexadecimal SHA-256 of the bytes of tensors of one directory, in the order given."""
    found = [""] * len(specs)

    def work(place: int, files: OpenFiles) -> TensorWork:
        def done(digests: Sequence[str]) -> None:
            (found[place],) = digests

        spec = specs[place]
        return TensorWork(spec.elements, (files.source(spec),), (), nothing_to_compute, (0,), done)

    with OpenFiles(directory) as files:
        order = sorted(range(len(specs)), key=lambda place: (specs[place].file, specs[place].start))
        run([work(place, files) for place in order], label="digest", progress=progress)
    return found


def file_digests(directory: Path, names: Sequence[str], *, progress: Progress = NO_PROGRESS) -> dict[str, str]:
    """Return the hexadecimal SHA-256 of whole files, as ``sha256sum`` prints it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    sizes = [(directory / name).stat().st_size for name in names]
    whole = [TensorSpec(name, Dtype.U8, (size,), name, 0, size) for name, size in zip(names, sizes, strict=True)]
    return dict(zip(names, tensor_digests(directory, whole, progress=progress), strict=True))


def tensor_digest(name: str, dtype: Dtype, shape: tuple[int, ...], content: str) -> TensorDigest:
    """Return a manifest's entry."""
    return TensorDigest(name, dtype.label, shape, content)
