"""The fingerprint vector τ = θ_fp − θ_base, extracted tensor by tensor.

Laws (``x ⊕ τ`` is float32 addition rounded once to the dtype of x, see ``arithmetic``):

* base ⊕ τ equals the fingerprinted model bit for bit in every element that ``inexact_elements`` does not count;
* it counts none when the fingerprinted model is ``representable`` over the base, as fingerprint training saves it;
* the digests of base, fingerprinted model and vector are those that ``digest.canonical_digest`` gives for the files.

Tied tensors are taken once, buffers not at all.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import StoredDtype, VectorDescription
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.arithmetic import BlockArithmetic, is_finite, refuse_nonfinite
from fpvec_audit.tensors.digest import DigestBuilder
from fpvec_audit.tensors.header import header_bytes
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.reader import TORCH_DTYPES, TensorReader, block_ranges, bytes_of
from fpvec_audit.tensors.vector_files import METADATA, VectorLayout, lay_out, write_description
from fpvec_audit.tensors.writer import TensorWriter, sync_tree


@dataclass(frozen=True, slots=True)
class Extraction:
    """A subtraction that was checked on headers and can be carried out.

    Attributes:
        base: the model before fingerprint training.
        fingerprinted: the model after it.
        architecture: adapter name.
        dtype: how the vector is stored.
        pairs: canonical name → tensor of the base and tensor of the fingerprinted model.
        tied: alias → canonical name that shares its values in the base.
        layout: files of the vector.
    """

    base: Checkpoint
    fingerprinted: Checkpoint
    architecture: str
    dtype: StoredDtype
    pairs: Mapping[str, tuple[TensorSpec, TensorSpec]]
    tied: Mapping[str, str]
    layout: VectorLayout


def plan_extraction(
    base: Checkpoint, fingerprinted: Checkpoint, adapter: ArchitectureAdapter, *, dtype: StoredDtype = StoredDtype.SAME
) -> Extraction:
    """Pair the tensors of two models by canonical name.

    Raises:
        CheckpointError: names or ties of a model contradict each other.
        VectorError: a tensor is missing, extra, of another shape, or not comparable; it is named.
    """
    before, after = named_parameters(base, adapter), named_parameters(fingerprinted, adapter)
    _check_names(before, after)
    pairs = {name: (spec, after.parameters[name]) for name, spec in before.parameters.items()}
    stored = {}
    for name, (one, other) in pairs.items():
        _check_pair(name, one, other)
        if one.dtype.floating:
            stored[name] = (Dtype.F32 if dtype is StoredDtype.FLOAT32 else other.dtype, one.shape)
    return Extraction(base, fingerprinted, adapter.name, dtype, pairs, before.tied, lay_out(stored))


def write_vector(
    extraction: Extraction, directory: Path, *, tool_version: str, progress: Progress = NO_PROGRESS
) -> VectorDescription:
    """Carry out a subtraction and write the vector with its description; both are durable when this returns.

    Args:
        extraction: what to subtract.
        directory: where to write; normally a staging directory.
        tool_version: recorded in the description.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the models are alike, or a difference does not fit the dtype.
    """
    total = sum(one.bytes for one, _ in extraction.pairs.values())
    with (
        TensorReader(extraction.base.path) as base,
        TensorReader(extraction.fingerprinted.path) as fingerprinted,
        progress.step("vector", total, "bytes") as step,
    ):
        run = _Subtraction(extraction, base, fingerprinted)
        for file, tensors in extraction.layout.shards.items():
            with TensorWriter(directory / file, header_bytes(tensors, METADATA)) as writer:
                for name, (dtype, _) in tensors.items():
                    run.subtract(name, dtype, writer)
                    step.advance(extraction.pairs[name][0].bytes)
        for name, (one, _) in extraction.pairs.items():
            if not one.dtype.floating:
                run.compare(name)
                step.advance(one.bytes)
    description = run.description(tool_version)
    write_description(directory, extraction.layout, description)
    sync_tree(directory)
    return description


@dataclass(slots=True)
class _Subtraction:
    """Counts, norms and digests of a subtraction under way."""

    extraction: Extraction
    base: TensorReader
    fingerprinted: TensorReader
    digests: tuple[DigestBuilder, DigestBuilder, DigestBuilder] = field(
        default_factory=lambda: (DigestBuilder(), DigestBuilder(), DigestBuilder())
    )
    arithmetic: BlockArithmetic = field(default_factory=BlockArithmetic)
    squares: list[float] = field(default_factory=list)
    inexact: int = 0

    def subtract(self, name: str, dtype: Dtype, writer: TensorWriter) -> None:
        one, other = self.extraction.pairs[name]
        contents = (hashlib.sha256(), hashlib.sha256(), hashlib.sha256())
        for start, count in block_ranges(one.elements):
            base = self.base.read(one, start, count)
            fingerprinted = self.fingerprinted.read(other, start, count)
            refuse_nonfinite(self.extraction.base.path, one, start, base)
            refuse_nonfinite(self.extraction.fingerprinted.path, other, start, fingerprinted)
            tau = self.arithmetic.difference(base, fingerprinted, TORCH_DTYPES[dtype])
            if not is_finite(tau):
                raise VectorError(
                    f"{name}: a difference does not fit into {dtype.label}", advice="extract with --dtype float32"
                )
            rebuilt = self.arithmetic.added(base, tau, fingerprinted.dtype)
            self.inexact += self.arithmetic.count_different(rebuilt, fingerprinted)
            self.squares.append(self.arithmetic.product_sum(tau, tau))
            writer.append(tau)
            for content, block in zip(contents, (base, fingerprinted, tau), strict=True):
                content.update(bytes_of(block))
        formats = (one.dtype, other.dtype, dtype)
        for builder, format_, content in zip(self.digests, formats, contents, strict=True):
            builder.add(name, format_, one.shape, content.hexdigest())

    def compare(self, name: str) -> None:
        """Take a tensor of whole numbers into the digests; it must be the same in both models."""
        one, other = self.extraction.pairs[name]
        content = hashlib.sha256()
        for start, count in block_ranges(one.elements):
            base = self.base.read(one, start, count)
            if not torch.equal(base, self.fingerprinted.read(other, start, count)):
                raise VectorError(
                    f"{name}: whole numbers ({one.dtype.label}) differ between the two models",
                    advice="a fingerprinted model differs from its base in floating-point weights only",
                )
            content.update(bytes_of(base))
        for builder in self.digests[:2]:
            builder.add(name, one.dtype, one.shape, content.hexdigest())

    def description(self, tool_version: str) -> VectorDescription:
        norm = math.sqrt(math.fsum(self.squares))
        if norm == 0:
            raise VectorError(
                f"{self.extraction.fingerprinted.path} has the same weights as {self.extraction.base.path}",
                advice="give the base first and the fingerprinted model second",
            )
        shapes = [shape for tensors in self.extraction.layout.shards.values() for shape in tensors.items()]
        elements = [math.prod(shape) for _, (_, shape) in shapes]
        return VectorDescription(
            digest=self.digests[2].hexdigest(),
            architecture=self.extraction.architecture,
            dtype=self.extraction.dtype,
            base_digest=self.digests[0].hexdigest(),
            fingerprinted_digest=self.digests[1].hexdigest(),
            tied=self.extraction.tied,
            tensors=len(shapes),
            elements=sum(elements),
            bytes=sum(count * dtype.size for count, (_, (dtype, _)) in zip(elements, shapes, strict=True)),
            inexact_elements=self.inexact,
            norm=norm,
            tool_version=tool_version,
        )


def _check_names(before: NamedParameters, after: NamedParameters) -> None:
    tied = {**before.tied, **after.tied}
    missing = sorted(before.parameters.keys() - after.parameters.keys())
    if missing:
        _refuse_names(missing[0], "the base has it, the fingerprinted model does not", tied)
    extra = sorted(after.parameters.keys() - before.parameters.keys())
    if extra:
        _refuse_names(extra[0], "the fingerprinted model has it, the base does not", tied)


def _refuse_names(name: str, problem: str, tied: Mapping[str, str]) -> NoReturn:
    if name in tied:
        problem = f"{problem} of its own, but ties it to {tied[name]}"
        raise VectorError(f"{name}: {problem}", advice="save both models with the same tie_word_embeddings")
    raise VectorError(f"{name}: {problem}", advice="give a base and the model that was fingerprinted from it")


def _check_pair(name: str, one: TensorSpec, other: TensorSpec) -> None:
    if one.shape != other.shape:
        raise VectorError(
            f"{name}: the base has shape {list(one.shape)}, the fingerprinted model {list(other.shape)}",
            advice="give a base and the model that was fingerprinted from it",
        )
    comparable = one.dtype.floating and other.dtype.floating and min(one.dtype.size, other.dtype.size) > 1
    if not comparable and one.dtype is not other.dtype:
        raise VectorError(
            f"{name}: {one.dtype.label} and {other.dtype.label} cannot be subtracted",
            advice="save both models in float32, bfloat16 or float16",
        )
    if not comparable and one.dtype.floating:
        raise VectorError(
            f"{name}: {one.dtype.label} is too coarse to be subtracted", advice="use the model before it was quantised"
        )
