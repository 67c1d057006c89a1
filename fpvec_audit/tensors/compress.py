"""Compressing a fingerprint vector: which parts to store, writing them, and measuring what was lost.

Laws:

* the loss is measured on what was written, decoded as a stamp decodes it, and never on what was meant to be written;
* one tensor at a time is in memory, and for anything but low rank only a stretch of it;
* the source's bytes are checked against the digest of its description on the way.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import Compression, CompressionKind, CompressionMethod, VectorDescription
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.tensors import scaled
from fpvec_audit.tensors.blocks import torch_dtype
from fpvec_audit.tensors.compressed import DENSE, LEFT, RIGHT, open_compressed, stored_name
from fpvec_audit.tensors.compression_loss import Comparison, Loss, TensorSizes
from fpvec_audit.tensors.index import read_tensors
from fpvec_audit.tensors.low_rank import is_thinner, truncated_factors
from fpvec_audit.tensors.part_files import PartFiles
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.sparse import COUNTS, GAPS, VALUES, KeptTensor, keep, kept_blocks, limit_of
from fpvec_audit.tensors.stored import read_elements, spans
from fpvec_audit.tensors.vector_files import (
    STEM,
    StoredVector,
    VectorLayout,
    lay_out,
    tensor_bytes,
    write_description,
)

Formats = Mapping[str, tuple[Dtype, tuple[int, ...]]]
Append = Callable[[str, torch.Tensor], None]
"""Takes a part's name and a flat stretch of it that comes after what it took before."""


LARGEST = torch.finfo(torch.float32).max


class Encoding(Protocol):
    """One tensor in the form in which it will be stored."""

    @property
    def parts(self) -> Formats:
        """Part → dtype and shape."""
        ...

    def write(self, source: TensorSource, append: Append) -> None:
        """Hand out every part, from front to back."""
        ...


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """A compression whose sizes are known and that can be carried out.

    Attributes:
        vector: the vector to compress.
        method: how.
        encodings: canonical name → form.
        layout: files of the result.
    """

    vector: StoredVector
    method: CompressionMethod
    encodings: Mapping[str, Encoding]
    layout: VectorLayout


def plan_compression(
    vector: StoredVector, method: CompressionMethod, *, seed: int = 0, progress: Progress = NO_PROGRESS
) -> CompressionPlan:
    """Settle what is stored of every tensor; for ``keep`` the whole vector is read two or three times.

    Args:
        vector: what to compress.
        method: how.
        seed: of the random subspaces in which large matrices are decomposed.
        progress: where to report.

    Raises:
        VectorError: the vector is compressed already, or a number is not finite.
        CheckpointError: its files cannot be read.
    """
    if vector.description.compression is not None:
        raise VectorError(
            f"{vector.files.path} is compressed already ({vector.description.compression.kind.value})",
            advice=f"compress the vector it was made from, {vector.description.compression.source}",
        )
    encodings: dict[str, Encoding]
    if method.kind is CompressionKind.KEEP:
        encodings = dict(_largest(vector.files, float(method.value), progress))
    elif method.kind is CompressionKind.RANK:
        encodings = dict(_low_rank(vector.files, int(method.value), seed))
    else:
        encodings = dict(_float8(vector.files))
    stored = {
        stored_name(name, part): kind for name, encoding in encodings.items() for part, kind in encoding.parts.items()
    }
    return CompressionPlan(vector, method, encodings, lay_out(stored))


def write_compressed(
    plan: CompressionPlan,
    directory: Path,
    *,
    role: Callable[[str], TensorRole],
    tool_version: str,
    progress: Progress = NO_PROGRESS,
) -> tuple[VectorDescription, tuple[Loss, ...]]:
    """Carry out a compression, measure it, and describe it.

    Args:
        plan: what to store.
        directory: where to write; normally a staging directory.
        role: canonical name → role.
        tool_version: recorded in the description.
        progress: where to report.

    Returns:
        The description and the loss by role, in the order of the roles.

    Raises:
        VectorError: a number is not finite, nothing of the vector is left, or its tensors do not have its digest.
        CheckpointError: a file cannot be read.
    """
    files = plan.vector.files
    with PartFiles(directory, plan.layout) as parts:
        with _sources(files, progress, "compress") as sources:
            for name, encoding in plan.encodings.items():
                encoding.write(sources[name], _appending(parts, name))
        digest = parts.hexdigest()
    tensors, names, sharded = read_tensors(directory, STEM)
    written = Checkpoint(directory, tensors, names, sharded, files.description)
    comparison = Comparison()
    with _sources(files, progress, "measure") as sources, open_compressed(written) as decoded:
        for name, source in sources.items():
            comparison.take(name, source, decoded[name])
    if comparison.digest != plan.vector.description.digest:
        raise VectorError(
            f"{files.path}: the tensors are not those of its description ({plan.vector.description.id})",
            advice="extract the vector again",
        )
    description = _description(plan, comparison, digest=digest, tool_version=tool_version)
    write_description(directory, plan.layout, description)
    sizes = {
        name: TensorSizes(spec.elements, spec.bytes, _bytes(plan.encodings[name].parts))
        for name, spec in files.tensors.items()
    }
    return description, comparison.losses(sizes, role)


@dataclass(frozen=True, slots=True)
class _Dense:
    """Stored as it is."""

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def parts(self) -> Formats:
        return {DENSE: (self.dtype, self.shape)}

    def write(self, source: TensorSource, append: Append) -> None:
        for start, count in spans(math.prod(self.shape)):
            append(DENSE, read_elements(source, start, count))


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Its largest elements."""

    dtype: Dtype
    shape: tuple[int, ...]
    kept: KeptTensor

    @property
    def parts(self) -> Formats:
        return self.kept.parts(self.dtype, self.shape)

    def write(self, source: TensorSource, append: Append) -> None:
        append(COUNTS, self.kept.counts.view(-1))
        for gaps, values, _ in kept_blocks(source, self.kept.limit, self.kept.before):
            append(GAPS, gaps)
            append(VALUES, values)


@dataclass(frozen=True, slots=True)
class _LowRank:
    """Two thin matrices in the tensor's own number format, float32 for float64."""

    dtype: Dtype
    shape: tuple[int, ...]
    rank: int
    seed: int

    @property
    def parts(self) -> Formats:
        dtype = Dtype.F32 if self.dtype is Dtype.F64 else self.dtype
        return {LEFT: (dtype, (self.shape[0], self.rank)), RIGHT: (dtype, (self.rank, self.shape[1]))}

    def write(self, source: TensorSource, append: Append) -> None:
        matrix = torch.empty(math.prod(self.shape))
        for start, count in spans(len(matrix)):
            matrix[start : start + count] = read_elements(source, start, count)
        generator = torch.Generator().manual_seed(self.seed)
        factors = truncated_factors(matrix.view(self.shape), self.rank, generator)
        for part, factor in zip((LEFT, RIGHT), factors, strict=True):
            append(part, factor.to(torch_dtype(self.parts[part][0])).contiguous().view(-1))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Float8 numbers with a scale per row."""

    shape: tuple[int, ...]

    @property
    def parts(self) -> Formats:
        return scaled.scaled_parts(self.shape)

    def write(self, source: TensorSource, append: Append) -> None:
        scales = scaled.row_scales(source)
        append(scaled.SCALES, scales)
        for start, count in spans(math.prod(self.shape)):
            block = read_elements(source, start, count)
            append(scaled.CODES, scaled.encoded(block, scales, start, row=self.shape[-1]))


def _largest(files: Checkpoint, share: float, progress: Progress) -> Iterator[tuple[str, Encoding]]:
    elements = sum(spec.elements for spec in files.tensors.values())
    with _sources(files, progress, "rank elements") as sources:
        limit = limit_of(list(sources.values()), max(1, round(share * elements)))
        before = 0
        for name, source in sources.items():
            kept = keep(source, limit, before)
            before = kept.after
            yield name, _Sparse(source.dtype, source.shape, kept)


def _low_rank(files: Checkpoint, rank: int, seed: int) -> Iterator[tuple[str, Encoding]]:
    for name, spec in sorted(files.tensors.items()):
        thinner = is_thinner(spec.shape, rank)
        yield name, _LowRank(spec.dtype, spec.shape, rank, seed) if thinner else _Dense(spec.dtype, spec.shape)


def _float8(files: Checkpoint) -> Iterator[tuple[str, Encoding]]:
    for name, spec in sorted(files.tensors.items()):
        yield name, _Scaled(spec.shape) if scaled.is_scalable(spec.shape) else _Dense(spec.dtype, spec.shape)


@contextmanager
def _sources(files: Checkpoint, progress: Progress, label: str) -> Iterator[dict[str, "_Checked"]]:
    """Give the tensors of a dense vector, by name, in the order of the names."""
    with OpenFiles(files.path) as opened, progress.step(label, None, "bytes") as step:
        yield {
            name: _Checked(opened.source(spec), files.path / name, step) for name, spec in sorted(files.tensors.items())
        }


@dataclass(frozen=True, slots=True)
class _Checked:
    """A source that refuses numbers that float32 cannot hold, and reports how much was read."""

    source: TensorSource
    name: Path
    step: Step

    @property
    def dtype(self) -> Dtype:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def read_into(self, start: int, count: int, block: memoryview) -> None:
        self.source.read_into(start, count, block)
        least, most = torch.frombuffer(block, dtype=torch_dtype(self.dtype), count=count).aminmax()
        for bound in (float(least), float(most)):  # NaN comes through
            if not abs(bound) <= LARGEST:
                raise VectorError(f"{self.name}: an element is {bound}", advice="extract the vector again")
        self.step.advance(count * self.dtype.size)


def _description(plan: CompressionPlan, comparison: Comparison, *, digest: str, tool_version: str) -> VectorDescription:
    source, total = plan.vector.description, comparison.total(comparison.sums)
    if total.cosine is None:
        raise VectorError(
            f"nothing is left of {plan.vector.files.path}: every element is zero", advice="compress it another way"
        )
    return replace(
        source,
        digest=digest,
        bytes=sum(_bytes(encoding.parts) for encoding in plan.encodings.values()),
        inexact_elements=total.different,
        norm=math.sqrt(total.decoded),
        tool_version=tool_version,
        compression=Compression(
            kind=plan.method.kind,
            parameters=plan.method.parameters,
            source=source.id,
            relative_error=total.relative_error,
            cosine=total.cosine,
        ),
    )


def _appending(parts: PartFiles, name: str) -> Append:
    return lambda part, block: parts.append(stored_name(name, part), block)


def _bytes(parts: Formats) -> int:
    return sum(tensor_bytes(dtype, shape) for dtype, shape in parts.values())
