"""Use case: compress a fingerprint vector, which is otherwise as large as its model, and say what that cost.

The result is a vector of the same family and mark: recorded, shown and stamped like any other.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit import __version__
from fpvec_audit.domain.vector import Compression, CompressionKind, CompressionMethod, VectorDescription
from fpvec_audit.errors import UsageError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.extract import adopt_vector, find_vector
from fpvec_audit.services.jobs import recorded_job

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.tensors.compression_loss import Loss
    from fpvec_audit.tensors.vector_files import StoredVector

MUCH_LOST = 0.1
"""Relative error from which the owner is told to audit a stamped copy first.

On the demo's Llama 2 family copies lost at most one key of 32 below 0.1. At 0.18 a vector of its largest elements
carried 10 to 13 keys of 32, one cut to rank 32 carried 23 to 31.
"""


@dataclass(frozen=True, slots=True)
class CompressedVector:
    """A vector that was just compressed and recorded.

    Attributes:
        out: its directory.
        vector: what it is.
        compression: how it was made, and how near it is to its source.
        bytes: bytes of the files that were written.
        share_of_bytes: bytes of its tensor files by those of the source's, headers included.
        roles: what was lost, by what the tensors do.
        seconds: wall time.
    """

    out: Path
    vector: VectorDescription
    compression: Compression
    bytes: int
    share_of_bytes: float
    roles: "tuple[Loss, ...]"
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the owner should know, in sentences."""
        if self.compression.relative_error < MUCH_LOST:
            return ()
        return (
            f"{100 * self.compression.relative_error:.2g} % of the vector is lost, and with it keys may be: stamp a "
            "model with it and audit that before you rely on it",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "vector_id": self.vector.id,
            "source": self.compression.source,
            "kind": self.compression.kind.value,
            "parameters": dict(self.compression.parameters),
            "bytes": self.bytes,
            "share_of_bytes": self.share_of_bytes,
            "relative_error": self.compression.relative_error,
            "cosine": self.compression.cosine,
            "norm": self.vector.norm,
            "inexact_elements": self.vector.inexact_elements,
            "roles": [loss.to_json() for loss in self.roles],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


def compress_vector(
    reference: str,
    *,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    keep: float | None = None,
    rank: int | None = None,
    dtype: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> CompressedVector:
    """Store a vector in fewer bytes, measure what was lost, and record the result beside its source.

    Args:
        reference: id, which may be shortened, or directory of the vector.
        out: directory of the result; must not exist.
        registry: where to record.
        catalog: plugins.
        keep: share of the elements to keep, the largest ones, in (0, 1).
        rank: rank that matrices are cut to, at least 1.
        dtype: ``fp8``, eight bits an element.
        progress: where to report.

    Raises:
        UsageError: none or several of ``keep``, ``rank`` and ``dtype``, a value that is none, no such vector, or one
            that would not get smaller.
        VectorError: the vector is compressed already or damaged.
        CheckpointError: its files cannot be read.
        OutputError: ``out`` exists, or the disk is full.
    """
    from fpvec_audit.tensors.compress import plan_compression, write_compressed
    from fpvec_audit.tensors.staging import refuse_existing, staged_directory

    started = time.perf_counter()
    method = compression_method(keep=keep, rank=rank, dtype=dtype)
    refuse_existing(out)
    source = _open(reference, registry)
    adapter = catalog.architecture(source.description.architecture)
    detail = {"vector": source.description.id, method.kind.value: str(method.value), "out": str(out)}
    with recorded_job(registry, "compress", detail):
        plan = plan_compression(source, method, progress=progress)
        dense = sum((source.files.path / file).stat().st_size for file in source.files.files)
        if plan.layout.bytes >= dense:
            raise UsageError(
                f"{source.files.path} has {dense} bytes and would have {plan.layout.bytes} when compressed",
                advice=f"give a smaller --{method.kind.value}" if method.kind is not CompressionKind.FP8 else "keep it",
            )
        with staged_directory(out, plan.layout.bytes) as staging:
            vector, roles = write_compressed(
                plan, staging, role=adapter.role, tool_version=__version__, progress=progress
            )
            written = sum(file.stat().st_size for file in staging.iterdir())
            _record(source, vector, out=out, registry=registry)
    assert vector.compression is not None
    return CompressedVector(
        out=out,
        vector=vector,
        compression=vector.compression,
        bytes=written,
        share_of_bytes=plan.layout.bytes / dense,
        roles=roles,
        seconds=time.perf_counter() - started,
    )


def compression_method(*, keep: float | None, rank: int | None, dtype: str | None) -> CompressionMethod:
    """Return what the options ask for.

    Raises:
        UsageError: none or several of them are given, or the value is none.
    """
    given = [name for name, value in (("--keep", keep), ("--rank", rank), ("--dtype", dtype)) if value is not None]
    if len(given) != 1:
        problem = f"{' and '.join(given)} exclude each other" if given else "nothing says how to compress"
        raise UsageError(problem, advice="give one of --keep 0.1, --rank 16 and --dtype fp8")
    if keep is not None:
        if not (math.isfinite(keep) and 0 < keep < 1):
            raise UsageError(f"--keep {keep:g} is no share of the elements", advice="give a number between 0 and 1")
        return CompressionMethod(CompressionKind.KEEP, keep)
    if rank is not None:
        if rank < 1:
            raise UsageError(f"--rank {rank} leaves nothing", advice="give a whole number from 1 on")
        return CompressionMethod(CompressionKind.RANK, rank)
    if dtype != CompressionKind.FP8.value:
        raise UsageError(f"unknown dtype {dtype!r} of a compressed vector", advice="give --dtype fp8")
    return CompressionMethod(CompressionKind.FP8, dtype)


def _open(reference: str, registry: "Registry") -> "StoredVector":
    """Open a vector by directory or id."""
    from fpvec_audit.tensors.vector_files import read_vector

    if Path(reference).is_dir():
        return read_vector(Path(reference))
    with registry.unit_of_work() as uow:
        record = find_vector(uow, reference)
    vector = read_vector(Path(record.location))
    if vector.description.id != record.id:
        raise VectorError(
            f"{record.location} holds {vector.description.id}, not {record.id}", advice="give the vector's directory"
        )
    return vector


def _record(source: "StoredVector", vector: VectorDescription, *, out: Path, registry: "Registry") -> None:
    compression = vector.compression
    assert compression is not None
    with registry.unit_of_work() as uow:
        record = replace(
            adopt_vector(uow, source, registry=registry),
            id=vector.id,
            digest=vector.digest,
            location=str(out.resolve()),
            inexact_elements=vector.inexact_elements,
            norm=vector.norm,
            created_at=registry.clock(),
        )
        uow.vectors.add(record)
        settings = {name: str(value) for name, value in compression.parameters.items()}
        uow.ledger.append("vector.compressed", vector.id, {"source": compression.source, **settings})
