"""Stamping: target ← round(target + Σ scale · τ), block by block, once to the target's dtype.

Laws:

* every stamped element equals the plain sum in float32 (float64 for float64 targets) of the target and Σ scale · τ;
  elements whose τ is −0.0, rows beyond the shared ones and buffers keep every bit;
* a head tied in the target is stamped once, whether it is stored once or twice, and stays tied;
* all other bytes of the checkpoint are those of the target (see ``rewrite``).

A vector of a base with tied head fits a target whose head was untied since: both copies get the same τ. A vector with a
head of its own does not fit a target that ties it.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.arithmetic import BlockArithmetic, is_finite, refuse_nonfinite, working_dtype
from fpvec_audit.tensors.digest import DigestBuilder
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.reader import TORCH_DTYPES, TensorReader, block_ranges, bytes_of
from fpvec_audit.tensors.rewrite import CarriedFiles, copy_files, other_files, rewrite_tensors
from fpvec_audit.tensors.vector_files import StoredVector
from fpvec_audit.tensors.writer import size_of, sync_tree


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """A vector and how strongly it is added.

    Attributes:
        vector: the vector on disk.
        scale: λ, finite and not 0.
    """

    vector: StoredVector
    scale: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one vector adds to one tensor.

    Attributes:
        vector: position of the vector in the stamp.
        spec: its tensor.
        elements: how many elements, from the first on, are added to.
    """

    vector: int
    spec: TensorSpec
    elements: int


@dataclass(frozen=True, slots=True)
class StampPlan:
    """A stamp that was checked on headers and can be carried out.

    Attributes:
        target: the downstream model.
        vectors: what is added, in this order.
        names: parameters of the target.
        parts: canonical name → what is added to it, in the order of the vectors.
        others: files beside the tensors.
    """

    target: Checkpoint
    vectors: tuple[ScaledVector, ...]
    names: NamedParameters
    parts: Mapping[str, tuple[Part, ...]]
    others: CarriedFiles

    @property
    def bytes(self) -> int:
        """Bytes that the stamped model will have on disk."""
        weights = {file: self.target.path / file for file in self.target.files}
        return size_of(weights) + size_of(self.others.carried)


@dataclass(frozen=True, slots=True)
class StampOutcome:
    """What stamping did.

    Attributes:
        tensors: number of tensors that were added to.
        bytes_written: bytes of all files.
        applied_ratio: ‖applied‖ / ‖Σ scale · τ‖ after rounding, in float64.
        cosine: between what was applied and Σ scale · τ.
        target_digest: canonical digest of the target as it was read.
        stamped_digest: canonical digest of the stamped model.
    """

    tensors: int
    bytes_written: int
    applied_ratio: float
    cosine: float
    target_digest: str
    stamped_digest: str


def plan_stamp(
    target: Checkpoint,
    vectors: Sequence[ScaledVector],
    adapter: ArchitectureAdapter,
    *,
    vocabulary: Vocabulary = Vocabulary.REFUSE,
) -> StampPlan:
    """Match the tensors of vectors and target by canonical name.

    Raises:
        CheckpointError: names or ties of the target contradict each other.
        VectorError: a tensor is missing, extra or of another shape; it is named.
    """
    names = named_parameters(target, adapter)
    parts: dict[str, list[Part]] = {}
    for position, scaled in enumerate(vectors):
        stored = scaled.vector.files.tensors
        tied = scaled.vector.description.tied
        _check_names(target, names, scaled.vector)
        for name, spec in names.parameters.items():
            if spec.dtype.floating:
                tau = stored[tied.get(name, name) if name not in stored else name]
                shared = shared_elements(name, spec.shape, tau.shape, role=adapter.role(name), vocabulary=vocabulary)
                parts.setdefault(name, []).append(Part(position, tau, shared))
    return StampPlan(
        target, tuple(vectors), names, {name: tuple(items) for name, items in parts.items()}, other_files(target)
    )


def write_stamp(plan: StampPlan, directory: Path, *, progress: Progress = NO_PROGRESS) -> StampOutcome:
    """Carry out a stamp; what was written is durable when this returns.

    Args:
        plan: what to add to what.
        directory: where to write; normally a staging directory.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the vectors add up to nothing, a sum does not fit the dtype, or a vector was changed on disk.
    """
    with _Addition(plan) as addition:
        written = rewrite_tensors(plan.target, directory, addition.change, label="stamp", progress=progress)
        addition.check_vectors()
    written += copy_files(plan.others.carried, directory)
    sync_tree(directory)
    return addition.outcome(written)


class _VectorFeed:
    """Blocks of one vector, digested as they pass for the first time."""

    def __init__(self, vector: StoredVector) -> None:
        self._vector = vector
        self._reader = TensorReader(vector.files.path)
        self._contents: dict[str, Any] = {name: hashlib.sha256() for name in vector.files.tensors}
        self._digested: dict[str, int] = dict.fromkeys(vector.files.tensors, 0)

    def read(self, spec: TensorSpec, start: int, count: int) -> torch.Tensor:
        block = self._reader.read(spec, start, count)
        if self._digested[spec.name] == start:
            refuse_nonfinite(self._vector.files.path, spec, start, block)
            self._contents[spec.name].update(bytes_of(block))
            self._digested[spec.name] += count
        return block

    def check(self) -> None:
        """Read what no target needed, and refuse a vector that is not the one that was extracted."""
        builder = DigestBuilder()
        for name, spec in self._vector.files.tensors.items():
            for start, count in block_ranges(spec.elements, self._digested[name]):
                self.read(spec, start, count)
            builder.add(name, spec.dtype, spec.shape, self._contents[name].hexdigest())
        if builder.hexdigest() != self._vector.description.digest:
            raise VectorError(
                f"{self._vector.files.path}: the tensors are not those that {self._vector.description.id} was made of",
                advice="the vector was changed or damaged; extract it again",
            )

    def close(self) -> None:
        self._reader.close()


@dataclass(slots=True)
class _Addition:
    """Sums, norms and digests of a stamp under way."""

    plan: StampPlan
    arithmetic: BlockArithmetic = field(default_factory=BlockArithmetic)
    feeds: list[_VectorFeed] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    squares: tuple[list[float], list[float], list[float]] = field(default_factory=lambda: ([], [], []))

    def __enter__(self) -> Self:
        self.feeds = [_VectorFeed(scaled.vector) for scaled in self.plan.vectors]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for feed in self.feeds:
            feed.close()

    def change(self, spec: TensorSpec, start: int, block: torch.Tensor) -> torch.Tensor:
        """Return a block of the stamped model; the first storage of a parameter counts for norms and digests."""
        name = self.plan.names.canonical.get(spec.name)
        if name is None:
            return block
        first = self.plan.names.parameters[name].name == spec.name
        stamped = block
        if spec.dtype.floating:
            refuse_nonfinite(self.plan.target.path, spec, start, block)
            change = self._change(name, start, block)
            stamped = self.arithmetic.added(block, change, block.dtype)
            if not is_finite(stamped):
                raise VectorError(
                    f"{spec.name}: a stamped number does not fit into {spec.dtype.label}",
                    advice="stamp with a smaller scale, or a copy of the model in float32",
                )
            if first:
                self._measure(block, stamped, change)
        if first:
            self.before.setdefault(name, hashlib.sha256()).update(bytes_of(block))
            self.after.setdefault(name, hashlib.sha256()).update(bytes_of(stamped))
        return stamped

    def check_vectors(self) -> None:
        for feed in self.feeds:
            feed.check()

    def outcome(self, written: int) -> StampOutcome:
        applied, wanted, product = (math.fsum(values) for values in self.squares)
        if wanted == 0:
            raise VectorError(
                "the vectors add up to nothing for this model", advice="check their scales and --vocabulary"
            )
        return StampOutcome(
            tensors=len(self.plan.parts),
            bytes_written=written,
            applied_ratio=math.sqrt(applied / wanted),
            cosine=product / math.sqrt(applied * wanted) if applied else 0.0,
            target_digest=self._digest(self.before),
            stamped_digest=self._digest(self.after),
        )

    def _change(self, name: str, start: int, block: torch.Tensor) -> torch.Tensor:
        parts: list[tuple[torch.Tensor, float]] = []
        for part in self.plan.parts[name]:
            count = min(len(block), part.elements - start)
            if count > 0:
                tau = self.feeds[part.vector].read(part.spec, start, count)
                parts.append((tau, self.plan.vectors[part.vector].scale))
        dtypes = [TORCH_DTYPES[part.spec.dtype] for part in self.plan.parts[name]]
        return self.arithmetic.update(parts, count=len(block), working=working_dtype(block.dtype, *dtypes))

    def _measure(self, block: torch.Tensor, stamped: torch.Tensor, change: torch.Tensor) -> None:
        applied = self.arithmetic.moved(block, stamped)
        pairs = ((applied, applied), (change, change), (applied, change))
        for values, (one, other) in zip(self.squares, pairs, strict=True):
            values.append(self.arithmetic.product_sum(one, other))

    def _digest(self, contents: Mapping[str, Any]) -> str:
        builder = DigestBuilder()
        for name, spec in self.plan.names.parameters.items():
            builder.add(name, spec.dtype, spec.shape, contents.get(name, hashlib.sha256()).hexdigest())
        return builder.hexdigest()


def _check_names(target: Checkpoint, names: NamedParameters, vector: StoredVector) -> None:
    stored, tied = vector.files.tensors, vector.description.tied
    advice = f"stamp a model that was fine-tuned from the base of {vector.description.id}"
    for name, spec in names.parameters.items():
        if spec.dtype.floating and name not in stored and tied.get(name) not in stored:
            raise VectorError(f"{name}: {target.path} has it, the vector {vector.files.path} does not", advice=advice)
        if not spec.dtype.floating and name in stored:
            raise VectorError(f"{name}: {target.path} stores it as {spec.dtype.label}", advice=advice)
    for name in stored:
        if name in names.tied:
            raise VectorError(
                f"{name}: the vector has it apart from {names.tied[name]}, {target.path} ties the two",
                advice="save the model with tie_word_embeddings=False, with a copy of the head, and stamp that",
            )
        if name not in names.parameters:
            raise VectorError(f"{name}: the vector {vector.files.path} has it, {target.path} does not", advice=advice)
