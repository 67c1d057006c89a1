"""Stamping: target ← round(target + Σ scale · τ), block by block, once to the target's dtype.

Laws:

* every stamped element equals the plain sum in float32 (float64 for float64 targets) of the target and Σ scale · τ;
  elements whose τ is −0.0, rows beyond the shared ones, skipped tensors and buffers keep every bit;
* a head tied in the target is stamped once, whether it is stored once or twice, and stays tied;
* all other bytes of the checkpoint are those of the target (see ``rewrite``);
* where an adapter is merged, target stands for the target with the adapter's part, in float32 and not rounded between;
* of many targets and copies that are stamped together, each comes out as if it were stamped alone, and every block of a
  vector is read once for all of them.

A vector of a base with tied head fits a target whose head was untied since: both copies get the same τ. A vector with a
head of its own does not fit a target that ties it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpvec_audit.domain.checkpoint import Checkpoint, TensorSpec
from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.domain.vector import Vocabulary, shared_elements
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.adapter import PeftAdapter, TensorChange, adapter_changes
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.delta import refuse_nonfinite
from fpvec_audit.tensors.digest import tensor_digest
from fpvec_audit.tensors.kernels import BlockKernels, Sums
from fpvec_audit.tensors.naming import NamedParameters, named_parameters
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.rewrite import CarriedFiles, RewrittenFiles, copy_files, other_files, stored_order
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.staging import size_of, sync_tree
from fpvec_audit.tensors.stamp_journal import StampJournal, WrittenTensor
from fpvec_audit.tensors.stream import Scratch, TensorSink, TensorWork, run
from fpvec_audit.tensors.vector_files import StoredVector, TensorFormat, open_tensors, tensor_formats


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
        name: its tensor.
        elements: how many elements, from the first on, are added to.
    """

    vector: int
    name: str
    elements: int


@dataclass(frozen=True, slots=True)
class StampPlan:
    """A stamp that was checked on headers and can be carried out.

    Attributes:
        target: the downstream model.
        vectors: what is added, in this order.
        names: parameters of the target.
        parts: canonical name → what is added to it, in the order of the vectors.
        roles: canonical name → role, of what is added to.
        others: files beside the tensors.
        merged: LoRA adapter that is merged into the target before vectors are added, None without.
        changes: canonical name → what that adapter makes of it.
    """

    target: Checkpoint
    vectors: tuple[ScaledVector, ...]
    names: NamedParameters
    parts: Mapping[str, tuple[Part, ...]]
    roles: Mapping[str, TensorRole]
    others: CarriedFiles
    merged: PeftAdapter | None = None
    changes: Mapping[str, TensorChange] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes that the stamped model will have on disk."""
        weights = {file: self.target.path / file for file in self.target.files}
        return size_of(weights) + size_of(self.others.carried)


@dataclass(frozen=True, slots=True)
class Rounding:
    """What rounding left of Σ scale · τ.

    Attributes:
        applied_ratio: ‖applied‖ / ‖Σ scale · τ‖, in float64; 0 where nothing was to be applied.
        cosine: between what was applied and Σ scale · τ.
        tensors: number of tensors.
    """

    applied_ratio: float
    cosine: float
    tensors: int

    @classmethod
    def of(cls, sums: Sequence[Sums]) -> "Rounding":
        """Return what sums over blocks or tensors tell."""
        applied, wanted, product = (
            math.fsum(getattr(item, name) for item in sums) for name in ("applied", "wanted", "product")
        )
        ratio = math.sqrt(applied / wanted) if wanted else 0.0
        cosine = product / math.sqrt(applied) / math.sqrt(wanted) if applied and wanted else 0.0
        return cls(ratio, min(1.0, max(-1.0, cosine)), len(sums))


@dataclass(frozen=True, slots=True)
class StampOutcome:
    """What stamping did.

    Attributes:
        rounding: over all tensors that were added to.
        roles: role → the same for its tensors only.
        bytes_written: bytes of all files.
        target: tensors of the target as it was read, by digest.
        stamped: tensors of the stamped model, by digest.
        resumed: number of tensors that an interrupted run had written already.
    """

    rounding: Rounding
    roles: Mapping[TensorRole, Rounding]
    bytes_written: int
    target: Manifest
    stamped: Manifest
    resumed: int

    @property
    def tensors(self) -> int:
        """Number of tensors that were added to."""
        return self.rounding.tensors

    @property
    def applied_ratio(self) -> float:
        """Share of the vectors that survived rounding."""
        return self.rounding.applied_ratio

    @property
    def cosine(self) -> float:
        """Between what was applied and what was wanted."""
        return self.rounding.cosine

    @property
    def target_digest(self) -> str:
        """Canonical digest of the target."""
        return self.target.digest

    @property
    def stamped_digest(self) -> str:
        """Canonical digest of the stamped model."""
        return self.stamped.digest


@dataclass(frozen=True, slots=True)
class StampCopy:
    """A plan and where its result goes.

    Attributes:
        plan: what is added to what.
        directory: where to write; normally a staging directory.
        journal: keeps what is written, so that an interrupted run can go on; None without.
        known: digests of the target's tensors, if its files have not changed since they were taken; its bytes are then
            read but not hashed.
    """

    plan: StampPlan
    directory: Path
    journal: StampJournal | None = None
    known: Manifest | None = None


def plan_stamp(
    target: Checkpoint,
    vectors: Sequence[ScaledVector],
    adapter: ArchitectureAdapter,
    *,
    vocabulary: Vocabulary = Vocabulary.REFUSE,
    skip: frozenset[TensorRole] = frozenset(),
    merged: PeftAdapter | None = None,
) -> StampPlan:
    """Match the tensors of vectors and target by canonical name.

    Args:
        target: the downstream model.
        vectors: what to add.
        adapter: architecture of the target.
        vocabulary: what to do where the numbers of rows differ.
        skip: roles whose tensors no vector is added to.
        merged: LoRA adapter of the target to merge into it.

    Raises:
        CheckpointError: names or ties of the target contradict each other, or the LoRA adapter cannot be merged.
        VectorError: a tensor is missing, extra or of another shape; it is named. Or nothing is left to stamp.
    """
    names = named_parameters(target, adapter)
    roles = {name: adapter.role(name) for name in names.parameters}
    parts: dict[str, list[Part]] = {}
    for position, scaled in enumerate(vectors):
        stored = tensor_formats(scaled.vector)
        tied = scaled.vector.description.tied
        _check_names(target, names, scaled.vector, stored)
        for name, spec in names.parameters.items():
            if spec.dtype.floating and roles[name] not in skip:
                tau = tied.get(name, name) if name not in stored else name
                shared = shared_elements(name, spec.shape, stored[tau][1], role=roles[name], vocabulary=vocabulary)
                parts.setdefault(name, []).append(Part(position, tau, shared))
    if not parts:
        raise VectorError(
            f"{target.path}: nothing is left to stamp when {', '.join(sorted(skip))} are skipped",
            advice="skip fewer roles",
        )
    return StampPlan(
        target,
        tuple(vectors),
        names,
        {name: tuple(items) for name, items in parts.items()},
        {name: roles[name] for name in parts},
        other_files(target),
        merged,
        adapter_changes(merged, target, names, adapter) if merged is not None else {},
    )


def write_stamp(plan: StampPlan, directory: Path, *, progress: Progress = NO_PROGRESS) -> StampOutcome:
    """Carry out one stamp; see :func:`write_stamps`."""
    return write_stamps([StampCopy(plan, directory)], progress=progress)[0]


def write_stamps(
    copies: Sequence[StampCopy], *, checked: frozenset[str] = frozenset(), progress: Progress = NO_PROGRESS
) -> list[StampOutcome]:
    """Carry out stamps with the same vectors; what was written is durable when this returns.

    Args:
        copies: what to add to what, and where to write.
        checked: ids of vectors whose files have not changed since they were found to be what they say; their bytes are
            read but not hashed.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the vectors add up to nothing, a sum does not fit the dtype, or a vector was changed on disk.
        OSError: the disk is full, or something else that a staging directory translates.
    """
    with ExitStack() as stack:
        feeds = [
            _VectorFeed(scaled.vector, stack, checked=scaled.vector.description.id in checked)
            for scaled in copies[0].plan.vectors
        ]
        additions = [_Addition(item.plan, stack, item.journal, item.known) for item in copies]
        for addition, item in zip(additions, copies, strict=True):
            addition.open(item.directory, stack)
        run(_works(additions, feeds), label="stamp", progress=progress)
        for feed in feeds:
            feed.check()
    for item in copies:
        copy_files(item.plan.others.carried, item.directory)
        if item.journal is not None:
            item.journal.remove()
        sync_tree(item.directory)
    return [addition.outcome() for addition in additions]


def foresee_stamp(plan: StampPlan, *, progress: Progress = NO_PROGRESS) -> StampOutcome:
    """Compute everything that a stamp would give, digests and rounding, and write nothing.

    Raises:
        CheckpointError, VectorError: as :func:`write_stamps`.
    """
    with ExitStack() as stack:
        feeds = [_VectorFeed(scaled.vector, stack) for scaled in plan.vectors]
        addition = _Addition(plan, stack)
        run(_works([addition], feeds), label="foresee", progress=progress)
        for feed in feeds:
            feed.check()
    return addition.outcome()


class _VectorFeed:
    """The tensors of one vector: their elements, and, unless it was checked, their digests as they pass."""

    def __init__(self, vector: StoredVector, stack: ExitStack, *, checked: bool = False) -> None:
        self.vector = vector
        self._checked = checked
        self._sources = stack.enter_context(open_tensors(vector))
        self._files = stack.enter_context(OpenFiles(vector.files.path))
        self._stack = stack
        self._given: set[str] = set()
        self._digests: dict[str, str] = {}
        self._claimed: set[str] = set()

    def source(self, name: str) -> TensorSource:
        """Return the elements of a tensor; each call's own, since works that read them may be under way at once."""
        if name in self._given:
            with_others = self._stack.enter_context(open_tensors(self.vector))
            return with_others[name]
        self._given.add(name)
        return self._sources[name]

    def claim(self, name: str) -> bool:
        """Say whether a tensor is to be hashed by whoever asks first; what is stored in parts is hashed apart."""
        if self._checked or name in self._claimed or name not in self.vector.files.tensors:
            return False
        self._claimed.add(name)
        return True

    def stored(self, name: str) -> TensorSource:
        return self._files.source(self.vector.files.tensors[name])

    def unclaimed(self) -> list[str]:
        return [] if self._checked else [name for name in self.vector.files.tensors if name not in self._claimed]

    def digested(self, name: str, digest: str) -> None:
        self._digests[name] = digest

    def check(self) -> None:
        """Refuse a vector that is not the one that was extracted."""
        if self._checked:
            return
        manifest = Manifest.of(
            tensor_digest(name, spec.dtype, spec.shape, self._digests[name])
            for name, spec in self.vector.files.tensors.items()
        )
        if manifest.digest != self.vector.description.digest:
            raise VectorError(
                f"{self.vector.files.path}: the tensors are not those that {self.vector.description.id} was made of",
                advice="the vector was changed or damaged; extract it again",
            )


@dataclass(slots=True)
class _Target:
    """One stored tensor of one target within a unit of work.

    Attributes:
        addition: the stamp it belongs to.
        spec: where it is stored.
        name: canonical name, None for a buffer.
        parts: what vectors add to it.
        change: what a LoRA adapter makes of it, None where it has no say.
        addends: sources of that.
        first: whether it counts for digests and sums: a tied tensor may be stored twice.
        known: its digest, if that is known without hashing.
        sums: what the addition did, block by block.
    """

    addition: "_Addition"
    spec: TensorSpec
    name: str | None
    parts: tuple[Part, ...]
    change: TensorChange | None
    addends: tuple[TensorSource, ...]
    first: bool
    known: str | None
    sums: list[Sums] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.addition.plan.target.path


class _Addition:
    """Sums and digests of one stamp under way.

    Args:
        plan: what is added to what.
        stack: closes the files of the target.
        journal: what an interrupted run wrote, and where to note what is written now.
        known: digests of the target's tensors, if they are known.
    """

    def __init__(
        self,
        plan: StampPlan,
        stack: ExitStack,
        journal: StampJournal | None = None,
        known: Manifest | None = None,
    ) -> None:
        self.plan = plan
        self._known = {} if known is None else {tensor.name: tensor.sha256 for tensor in known.tensors}
        self._files = stack.enter_context(OpenFiles(plan.target.path))
        self._merged = stack.enter_context(OpenFiles(plan.merged.path)) if plan.merged is not None else None
        self._journal = journal
        self._written = {} if journal is None else dict(journal.written)
        self._resumed = len(self._written)
        self._rewritten: RewrittenFiles | None = None

    def open(self, directory: Path, stack: ExitStack) -> None:
        """Open the files to write; without this, the result is only computed."""
        done = frozenset((item.file, item.tensor) for item in self._written.values())
        again = done if self._journal is not None and self._journal.resumed else None
        self._rewritten = stack.enter_context(RewrittenFiles(self.plan.target, directory, again=again))

    def targets(self) -> Iterable[_Target]:
        """Yield the stored tensors that are not written yet, in the order of the files."""
        plan = self.plan
        for spec in stored_order(plan.target):
            if spec.name not in self._written:
                name = plan.names.canonical.get(spec.name)
                first = name is not None and plan.names.parameters[name].name == spec.name
                parts = plan.parts.get(name, ()) if name is not None and spec.dtype.floating else ()
                change = plan.changes.get(name) if name is not None else None
                known = self._known.get(name) if name is not None and first else None
                yield _Target(self, spec, name, parts, change, self._addends(change), first, known)

    def source(self, spec: TensorSpec) -> TensorSource:
        return self._files.source(spec)

    def _addends(self, change: TensorChange | None) -> tuple[TensorSource, ...]:
        return () if change is None or self._merged is None else change.sources(self._merged)

    def sink(self, spec: TensorSpec) -> TensorSink:
        return Scratch(spec.dtype) if self._rewritten is None else self._rewritten.sink(spec)

    def complete(self, target: _Target, before: str, after: str) -> None:
        """Take note that a tensor is written."""
        sums = Sums(*(math.fsum(getattr(item, name) for item in target.sums) for name in Sums.__slots__))
        written = WrittenTensor(target.spec.file, target.spec.name, before, after, sums)
        self._written[target.spec.name] = written
        if self._journal is not None:
            self._journal.add(written)

    def outcome(self) -> StampOutcome:
        plan = self.plan
        sums = {name: self._written[plan.names.parameters[name].name].sums for name in plan.parts}
        if not math.fsum(item.wanted for item in sums.values()):
            raise VectorError(
                "the vectors add up to nothing for this model", advice="check their scales and --vocabulary"
            )
        roles = sorted(set(plan.roles.values()), key=list(TensorRole).index)
        return StampOutcome(
            rounding=Rounding.of(list(sums.values())),
            roles={
                role: Rounding.of([item for name, item in sums.items() if plan.roles[name] is role]) for role in roles
            },
            bytes_written=plan.bytes,
            target=self._manifest("before"),
            stamped=self._manifest("after"),
            resumed=self._resumed,
        )

    def _manifest(self, side: str) -> Manifest:
        return Manifest.of(
            tensor_digest(name, spec.dtype, spec.shape, getattr(self._written[spec.name], side))
            for name, spec in self.plan.names.parameters.items()
        )


def _works(additions: Sequence[_Addition], feeds: Sequence[_VectorFeed]) -> list[TensorWork]:
    """Return the work: what gets the same τ together, what passes through each by itself."""
    units: dict[tuple[Any, ...], list[_Target]] = {}
    for addition in additions:
        for target in addition.targets():
            key: tuple[Any, ...] = tuple((part.vector, part.name) for part in target.parts)
            units.setdefault(key or (addition, target.spec.name), []).append(target)
    works = [_work(targets, feeds) for targets in units.values()]
    return works + [_digest_work(feed, name) for feed in feeds for name in feed.unclaimed()]


def _work(targets: Sequence[_Target], feeds: Sequence[_VectorFeed]) -> TensorWork:
    """Return the work on tensors that get the same τ, or on one that gets none.

    Streams: the targets as they are, then one τ per part, then what adapters make of each target, then the targets as
    they become.
    """
    parts = [(feeds[part.vector], part.name) for part in targets[0].parts]
    scales = [targets[0].addition.plan.vectors[part.vector].scale for part in targets[0].parts]
    sources = [target.addition.source(target.spec) for target in targets]
    taus = [feed.source(name) for feed, name in parts]
    addends = [source for target in targets for source in target.addends]
    digested = [place for place, (feed, name) in enumerate(parts) if feed.claim(name)]
    changed = bool(taus or addends)
    count, behind = len(targets), len(targets) + len(taus) + len(addends)
    unknown = [place for place, target in enumerate(targets) if target.known is None]
    hashed = (
        *unknown,
        *(count + place for place in digested),
        *(range(behind, behind + count) if changed else ()),
    )

    def compute(
        kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        if not changed:
            return inputs
        written = []
        merged = iter(inputs[count + len(taus) :])
        for place, target in enumerate(targets):
            block, out = inputs[place], outputs[place].first(inputs[place].count)
            lengths = [max(0, min(block.count, part.elements - start)) for part in target.parts]
            pieces = [
                (tau.first(length), scale)
                for tau, length, scale in zip(inputs[count : count + len(taus)], lengths, scales, strict=True)
                if length
            ]
            own = [next(merged) for _ in target.addends]
            sums = _added(kernels, target, block, own, pieces, out)
            if not math.isfinite(sums.applied) or not math.isfinite(sums.wanted):
                _refuse(target, start, block, own, list(zip(parts, (piece for piece, _ in pieces), strict=False)))
            target.sums.append(sums)
            written.append(out)
        return written

    def done(digests: Sequence[str]) -> None:
        found = iter(digests)
        before = [next(found) if target.known is None else target.known for target in targets]
        for place in digested:
            feed, name = parts[place]
            feed.digested(name, next(found))
        after = list(found) if changed else before
        for target, read, written in zip(targets, before, after, strict=True):
            target.addition.complete(target, read, written)

    elements = max([target.spec.elements for target in targets] + [_elements(tau) for tau in taus])
    sinks = tuple(target.addition.sink(target.spec) for target in targets)
    return TensorWork(elements, (*sources, *taus, *addends), sinks, compute, hashed, done)


def _added(
    kernels: BlockKernels,
    target: _Target,
    block: Block,
    addends: Sequence[Block],
    pieces: Sequence[tuple[Block, float]],
    out: Block,
) -> Sums:
    """Write the stamped block of a target to ``out``."""
    if target.change is None:
        return kernels.add(block, pieces, out)
    from fpvec_audit.tensors.merging import add_to_merged  # needs torch, which a plain stamp does without

    replaced = target.change.replacement is not None
    return add_to_merged(addends if replaced else (block, *addends), pieces, out)


def _digest_work(feed: _VectorFeed, name: str) -> TensorWork:
    """Return the work on what no target adds as it is stored: it is part of the vector's digest all the same."""

    def nothing(
        kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        return ()

    def done(digests: Sequence[str]) -> None:
        feed.digested(name, digests[0])

    source = feed.stored(name)
    feed.claim(name)
    return TensorWork(_elements(source), (source,), (), nothing, (0,), done)


def _refuse(
    target: _Target,
    start: int,
    block: Block,
    addends: Sequence[Block],
    taus: Sequence[tuple[tuple[_VectorFeed, str], Block]],
) -> None:
    """Say which number is not finite: one of the target, of its adapter, of a vector, or the sum."""
    refuse_nonfinite(target.path, target.spec.name, start, block)
    merged = target.addition.plan.merged
    for addend in addends:
        refuse_nonfinite(target.path if merged is None else merged.path, target.spec.name, start, addend)
    for (feed, name), tau in taus:
        refuse_nonfinite(feed.vector.files.path, name, start, tau)
    raise VectorError(
        f"{target.spec.name}: a stamped number does not fit into {target.spec.dtype.label}",
        advice="stamp with a smaller scale, or a copy of the model in float32",
    )


def _elements(source: TensorSource) -> int:
    return math.prod(source.shape)


def _check_names(
    target: Checkpoint, names: NamedParameters, vector: StoredVector, stored: Mapping[str, TensorFormat]
) -> None:
    tied = vector.description.tied
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
