"""The fingerprint vector τ = θ_fp − θ_base, extracted tensor by tensor.

Laws (``x ⊕ τ`` is float32 addition rounded once to the dtype of x, see ``arithmetic``):

* base ⊕ τ equals the fingerprinted model bit for bit in every element that ``inexact_elements`` does not count;
* it counts none when the fingerprinted model is ``representable`` over the base, as fingerprint training saves it;
* the digests of base, fingerprinted model and vector are those that ``digest.canonical_digest`` gives for the files.

Tied tensors are taken once, buffers not at all.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fpvec_audit.domain.checkpoint import Checkpoint, Dtype, TensorSpec
from fpvec_audit.domain.manifest import Manifest, TensorDigest
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import StoredDtype, VectorDescription
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.digest import tensor_digest
from fpvec_audit.tensors.header import header_bytes
from fpvec_audit.tensors.kernels import BlockKernels
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.staging import sync_tree
from fpvec_audit.tensors.stream import TensorWork, run
from fpvec_audit.tensors.vector_files import METADATA, VectorLayout, lay_out, write_description
from fpvec_audit.tensors.writer import FileSink, OutputFile


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


@dataclass(frozen=True, slots=True)
class WrittenVector:
    """A vector that was just written.

    Attributes:
        description: what it is.
        base: tensors of the base, by digest.
        fingerprinted: tensors of the fingerprinted model, by digest.
    """

    description: VectorDescription
    base: Manifest
    fingerprinted: Manifest


Known = tuple[Manifest | None, Manifest | None]
"""Tensors of base and fingerprinted model by digest, where their files are known to give them."""


def write_vector(
    extraction: Extraction,
    directory: Path,
    *,
    tool_version: str,
    known: Known = (None, None),
    progress: Progress = NO_PROGRESS,
) -> WrittenVector:
    """Carry out a subtraction and write the vector with its description; both are durable when this returns.

    Args:
        extraction: what to subtract.
        directory: where to write; normally a staging directory.
        tool_version: recorded in the description.
        known: tensors of the two models that need not be hashed; every tensor of the model or none.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the models are alike, or a difference does not fit the dtype.
    """
    with ExitStack() as stack:
        base = stack.enter_context(OpenFiles(extraction.base.path, once=True))
        fingerprinted = stack.enter_context(OpenFiles(extraction.fingerprinted.path, once=True))
        sinks = _open_sinks(extraction.layout, directory, stack)
        digests = [_by_name(manifest) for manifest in known]
        subtractions = [
            _Subtraction(
                extraction,
                name,
                base=base,
                fingerprinted=fingerprinted,
                sink=sinks.get(name),
                known=[side.get(name) for side in digests],
            )
            for name in sorted(extraction.pairs, key=lambda name: _place(extraction.pairs[name][0]))
        ]
        run([subtraction.work() for subtraction in subtractions], label="vector", progress=progress)
    written = _summed(extraction, subtractions, tool_version)
    write_description(directory, extraction.layout, written.description)
    sync_tree(directory)
    return written


def _open_sinks(layout: VectorLayout, directory: Path, stack: ExitStack) -> dict[str, FileSink]:
    sinks = {}
    for name, tensors in layout.shards.items():
        header = header_bytes(tensors, METADATA)
        places = {}
        end = len(header)
        for tensor, (dtype, shape) in tensors.items():
            start, end = end, end + math.prod(shape) * dtype.size
            places[tensor] = (start, end, dtype)
        file = stack.enter_context(OutputFile(directory / name, header, size=end, tensors=len(tensors)))
        for tensor, (start, stop, dtype) in places.items():
            sinks[tensor] = FileSink(file, start=start, end=stop, dtype=dtype)
    return sinks


def _by_name(manifest: Manifest | None) -> Mapping[str, str]:
    return {} if manifest is None else {tensor.name: tensor.sha256 for tensor in manifest.tensors}


class _Subtraction:
    """One tensor of a subtraction: what is done with its blocks, and what came out."""

    def __init__(
        self,
        extraction: Extraction,
        name: str,
        *,
        base: OpenFiles,
        fingerprinted: OpenFiles,
        sink: FileSink | None,
        known: Sequence[str | None],
    ) -> None:
        self.name = name
        self.pair = extraction.pairs[name]
        self.sink = sink
        self.inexact = 0
        self.square = 0.0
        self._digests: list[str | None] = [*known, *([] if sink is None else [None])]
        self._paths = (extraction.base.path, extraction.fingerprinted.path)
        self._sources = (base.source(self.pair[0]), fingerprinted.source(self.pair[1]))

    def work(self) -> TensorWork:
        outputs, compute = ((), self._compare) if self.sink is None else ((self.sink,), self._subtract)
        hashed = tuple(number for number, digest in enumerate(self._digests) if digest is None)
        return TensorWork(self.pair[0].elements, self._sources, outputs, compute, hashed, self._done)

    def entries(self) -> list[TensorDigest]:
        """Return the tensor's digests in base, fingerprinted model and, for floating-point tensors, vector."""
        formats = [spec.dtype for spec in self.pair] + ([] if self.sink is None else [self.sink.dtype])
        return [
            tensor_digest(self.name, dtype, self.pair[0].shape, digest)
            for dtype, digest in zip(formats, self._digests, strict=True)
            if digest is not None
        ]

    def _subtract(
        self, kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        (base, fingerprinted), (tau,) = inputs, outputs
        found = kernels.subtract(base, fingerprinted, tau)
        for path, spec, block, count in zip(
            self._paths, self.pair, inputs, (found.base_nonfinite, found.other_nonfinite), strict=True
        ):
            if count:
                refuse_nonfinite(path, spec.name, start, block)
        if found.tau_nonfinite:
            raise VectorError(
                f"{self.name}: a difference does not fit into {tau.dtype.label}",
                advice="extract with --dtype float32",
            )
        self.inexact += found.inexact
        self.square += found.square
        return outputs

    def _compare(
        self, kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        """Refuse whole numbers that are not the same in both models."""
        if inputs[0].memory != inputs[1].memory:
            raise VectorError(
                f"{self.name}: whole numbers ({self.pair[0].dtype.label}) differ between the two models",
                advice="a fingerprinted model differs from its base in floating-point weights only",
            )
        return ()

    def _done(self, digests: Sequence[str]) -> None:
        found = iter(digests)
        self._digests = [digest or next(found) for digest in self._digests]


def refuse_nonfinite(path: Path, name: str, start: int, block: Block) -> None:
    """Refuse a block that holds NaN or Inf, and name the first; the way to the message, not the check of every block.

    Args:
        path: checkpoint directory, for the message.
        name: tensor the block is from.
        start: flat position of its first element.
        block: floating-point numbers.

    Raises:
        CheckpointError: a number is not finite.
    """
    numbers = block.torch()
    places = (~numbers.isfinite()).nonzero()
    if len(places):
        place = int(places[0])
        raise CheckpointError(
            f"{path}: {name}: element {start + place} is {float(numbers[place])}",
            advice="the model is broken; take a checkpoint from before it diverged",
        )


def _summed(extraction: Extraction, subtractions: Sequence[_Subtraction], tool_version: str) -> WrittenVector:
    norm = math.sqrt(math.fsum(subtraction.square for subtraction in subtractions))
    if norm == 0:
        raise VectorError(
            f"{extraction.fingerprinted.path} has the same weights as {extraction.base.path}",
            advice="give the base first and the fingerprinted model second",
        )
    entries = [subtraction.entries() for subtraction in subtractions]
    base, fingerprinted = (Manifest.of(entry[side] for entry in entries) for side in (0, 1))
    elements = sum(subtraction.pair[0].elements for subtraction in subtractions if subtraction.sink is not None)
    description = VectorDescription(
        digest=Manifest.of(entry[2] for entry in entries if len(entry) > 2).digest,
        architecture=extraction.architecture,
        dtype=extraction.dtype,
        base_digest=base.digest,
        fingerprinted_digest=fingerprinted.digest,
        tied=extraction.tied,
        tensors=sum(subtraction.sink is not None for subtraction in subtractions),
        elements=elements,
        bytes=sum(
            subtraction.pair[0].elements * subtraction.sink.dtype.size
            for subtraction in subtractions
            if subtraction.sink is not None
        ),
        inexact_elements=sum(subtraction.inexact for subtraction in subtractions),
        norm=norm,
        tool_version=tool_version,
    )
    return WrittenVector(description, base, fingerprinted)


def _place(spec: TensorSpec) -> tuple[str, int]:
    return spec.file, spec.start


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
