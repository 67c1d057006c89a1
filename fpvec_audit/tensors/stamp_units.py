"""The work of stamping, tensor by tensor: copies of one are computed together, in one reading of it and of each τ.

Copies may differ in the vectors that they get. What several of them want is read once, and what only one wants, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.blocks import Block
from fpvec_audit.tensors.delta import refuse_nonfinite
from fpvec_audit.tensors.kernels import BlockKernels, Sums
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stamp_addition import Addition, StampTarget
from fpvec_audit.tensors.stream import TensorWork, nothing_to_compute
from fpvec_audit.tensors.vector_feed import StampSources, VectorFeed


def stamp_works(additions: Sequence[Addition], sources: StampSources) -> list[TensorWork]:
    """Return the work: what gets parts of the same τ together, what passes through each by itself."""
    units: dict[tuple[Any, ...], list[StampTarget]] = {}
    for addition in additions:
        for scaled in addition.plan.vectors:
            sources.feed(scaled.vector)
        for target in addition.targets():
            key: tuple[Any, ...] = (target.parts[0].name,) if target.parts else target.origin
            units.setdefault(key, []).append(target)
    works = [_Unit.of(targets, sources).work() for targets in units.values()]
    return works + [_digest_work(feed, name) for feed in sources.feeds for name in feed.unclaimed()]


@dataclass(frozen=True, slots=True)
class _Tau:
    """A tensor of a vector that targets of a unit want.

    Attributes:
        feed: its vector.
        name: its name there.
        digested: whether it is hashed here.
    """

    feed: VectorFeed
    name: str
    digested: bool


@dataclass(frozen=True, slots=True)
class _Unit:
    """Tensors that are computed together.

    Streams: what targets are read from, then τ, then what adapters make of the former, then the targets as they become.

    Attributes:
        targets: what is written.
        origins: one target of each tensor that is read.
        places: per target, which of these it is read from.
        taus: what is added.
        wanted: per target, (which of these, elements, scale) of its parts.
        addends: per origin, what an adapter adds to it.
    """

    targets: tuple[StampTarget, ...]
    origins: tuple[StampTarget, ...]
    places: tuple[int, ...]
    taus: tuple[_Tau, ...]
    wanted: tuple[tuple[tuple[int, int, float], ...], ...]
    addends: tuple[tuple[TensorSource, ...], ...]

    @classmethod
    def of(cls, targets: Sequence[StampTarget], sources: StampSources) -> "_Unit":
        """Find out what targets have in common."""
        origins: dict[tuple[Any, ...], tuple[int, StampTarget]] = {}
        taus: dict[tuple[Any, ...], tuple[int, _Tau]] = {}
        places, wanted = [], []
        for target in targets:
            places.append(origins.setdefault(target.origin, (len(origins), target))[0])
            own = []
            for part, (vector, name, scale) in zip(target.parts, target.taus, strict=True):
                key = (vector.files.path, name)
                if key not in taus:
                    feed = sources.feed(vector)
                    taus[key] = (len(taus), _Tau(feed, name, feed.claim(name)))
                own.append((taus[key][0], part.elements, scale))
            wanted.append(tuple(own))
        first = tuple(target for _, target in origins.values())
        addends = tuple(target.addition.addends(target.change) for target in first)
        return cls(tuple(targets), first, tuple(places), tuple(tau for _, tau in taus.values()), tuple(wanted), addends)

    @property
    def _changed(self) -> bool:
        return bool(self.taus or any(self.addends))

    def work(self) -> TensorWork:
        """Return the work for the engine."""
        sources = [target.addition.source(target.spec) for target in self.origins]
        taus = [tau.feed.source(tau.name) for tau in self.taus]
        addends = [source for sources in self.addends for source in sources]
        behind = len(sources) + len(taus) + len(addends)
        hashed = (
            *(place for place, origin in enumerate(self.origins) if origin.known is None),
            *(len(sources) + place for place, tau in enumerate(self.taus) if tau.digested),
            *(range(behind, behind + len(self.targets)) if self._changed else ()),
        )
        elements = max([target.spec.elements for target in self.targets] + [_elements(tau) for tau in taus])
        sinks = tuple(target.addition.sink(target.spec) for target in self.targets)
        return TensorWork(elements, (*sources, *taus, *addends), sinks, self._compute, hashed, self._done)

    def _compute(
        self, kernels: BlockKernels, start: int, inputs: Sequence[Block], outputs: Sequence[Block]
    ) -> Sequence[Block]:
        if not self._changed:
            return [inputs[place] for place in self.places]
        taus = inputs[len(self.origins) :][: len(self.taus)]
        merged = iter(inputs[len(self.origins) + len(self.taus) :])
        own = [[next(merged) for _ in sources] for sources in self.addends]
        written = []
        for target, place, wanted, out in zip(self.targets, self.places, self.wanted, outputs, strict=False):
            block = inputs[place]
            out = out.first(block.count)
            lengths = [max(0, min(block.count, elements - start)) for _, elements, _ in wanted]
            pieces = [
                (taus[tau].first(length), scale)
                for (tau, _, scale), length in zip(wanted, lengths, strict=True)
                if length
            ]
            sums = _added(kernels, target, block, own[place], pieces, out)
            if not math.isfinite(sums.applied) or not math.isfinite(sums.wanted):
                self._refuse(target, start, block, own[place], [taus[tau] for tau, _, _ in wanted])
            if target.carriers is not None and pieces:
                sums = replace(sums, carried=kernels.carry(out, pieces, start, target.carriers))
            target.sums.append(sums)
            written.append(out)
        return written

    def _done(self, digests: Sequence[str]) -> None:
        found = iter(digests)
        before = [next(found) if origin.known is None else origin.known for origin in self.origins]
        for tau in self.taus:
            if tau.digested:
                tau.feed.digested(tau.name, next(found))
        read = [before[place] for place in self.places]
        for target, was, became in zip(self.targets, read, list(found) if self._changed else read, strict=True):
            target.addition.complete(target, was, became)

    def _refuse(
        self, target: StampTarget, start: int, block: Block, addends: Sequence[Block], taus: Sequence[Block]
    ) -> None:
        """Say which number is not finite: one of the target, of its adapter, of a vector, or the sum."""
        refuse_nonfinite(target.path, target.spec.name, start, block)
        merged = target.addition.plan.merged
        for addend in addends:
            refuse_nonfinite(target.path if merged is None else merged.path, target.spec.name, start, addend)
        for (vector, name, _), tau in zip(target.taus, taus, strict=True):
            refuse_nonfinite(vector.files.path, name, start, tau)
        raise VectorError(
            f"{target.spec.name}: a stamped number does not fit into {target.spec.dtype.label}",
            advice="stamp with a smaller scale, or a copy of the model in float32",
        )


def _added(
    kernels: BlockKernels,
    target: StampTarget,
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

    def done(digests: Sequence[str]) -> None:
        feed.digested(name, digests[0])

    source = feed.stored(name)
    feed.claim(name)
    return TensorWork(_elements(source), (source,), (), nothing_to_compute, (0,), done)


def _elements(source: TensorSource) -> int:
    return math.prod(source.shape)
