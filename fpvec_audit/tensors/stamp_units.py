"""The work of stamping, tensor by tensor: what gets the same τ is computed together, in one reading of it."""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpvec_audit.domain.checkpoint import TensorSpec
from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.adapter import TensorChange
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.delta import refuse_nonfinite
from fpvec_audit.tensors.digest import tensor_digest
from fpvec_audit.tensors.kernels import BlockKernels, Sums
from fpvec_audit.tensors.reader import OpenFiles
from fpvec_audit.tensors.rewrite import RewrittenFiles, stored_order
from fpvec_audit.tensors.sink import Scratch, TensorSink
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stamp_journal import StampJournal, WrittenTensor
from fpvec_audit.tensors.stamp_outcome import Rounding, StampOutcome
from fpvec_audit.tensors.stamp_plan import Part, StampPlan
from fpvec_audit.tensors.stream import TensorWork
from fpvec_audit.tensors.vector_files import StoredVector, open_tensors


class VectorFeed:
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
        """Return the elements of what is stored under a name: a tensor, or a part of a compressed one."""
        return self._files.source(self.vector.files.tensors[name])

    def unclaimed(self) -> list[str]:
        """Return what nobody hashes yet."""
        return [] if self._checked else [name for name in self.vector.files.tensors if name not in self._claimed]

    def digested(self, name: str, digest: str) -> None:
        """Take in a digest."""
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

    addition: "Addition"
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


class Addition:
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
        """Return the elements of a tensor of the target."""
        return self._files.source(spec)

    def _addends(self, change: TensorChange | None) -> tuple[TensorSource, ...]:
        return () if change is None or self._merged is None else change.sources(self._merged)

    def sink(self, spec: TensorSpec) -> TensorSink:
        """Return the place of a tensor of the result."""
        return Scratch(spec.dtype) if self._rewritten is None else self._rewritten.sink(spec)

    def complete(self, target: _Target, before: str, after: str) -> None:
        """Take note that a tensor is written."""
        sums = Sums(*(math.fsum(getattr(item, name) for item in target.sums) for name in Sums.__slots__))
        written = WrittenTensor(target.spec.file, target.spec.name, before, after, sums)
        self._written[target.spec.name] = written
        if self._journal is not None:
            self._journal.add(written)

    def outcome(self) -> StampOutcome:
        """Return what was done, when everything is.

        Raises:
            VectorError: the vectors added up to nothing.
        """
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


def stamp_works(additions: Sequence[Addition], feeds: Sequence[VectorFeed]) -> list[TensorWork]:
    """Return the work: what gets the same τ together, what passes through each by itself."""
    units: dict[tuple[Any, ...], list[_Target]] = {}
    for addition in additions:
        for target in addition.targets():
            key: tuple[Any, ...] = tuple((part.vector, part.name) for part in target.parts)
            units.setdefault(key or (addition, target.spec.name), []).append(target)
    works = [_work(targets, feeds) for targets in units.values()]
    return works + [_digest_work(feed, name) for feed in feeds for name in feed.unclaimed()]


def _work(targets: Sequence[_Target], feeds: Sequence[VectorFeed]) -> TensorWork:
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


def _digest_work(feed: VectorFeed, name: str) -> TensorWork:
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
    taus: Sequence[tuple[tuple[VectorFeed, str], Block]],
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
