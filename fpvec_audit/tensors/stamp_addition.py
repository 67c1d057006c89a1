"""One stamp under way: which tensors are still to be written, where they go, and what the additions so far did."""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fpvec_audit.domain.checkpoint import TensorSpec
from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import VectorError
from fpvec_audit.tensors.adapter import TensorChange
from fpvec_audit.tensors.carrier import CopyCarriers, TensorCarriers
from fpvec_audit.tensors.digest import tensor_digest
from fpvec_audit.tensors.kernels import Sums
from fpvec_audit.tensors.rewrite import RewrittenFiles, stored_order
from fpvec_audit.tensors.sink import Scratch, TensorSink
from fpvec_audit.tensors.source import TensorSource
from fpvec_audit.tensors.stamp_journal import StampJournal, WrittenTensor
from fpvec_audit.tensors.stamp_outcome import Rounding, StampOutcome
from fpvec_audit.tensors.stamp_plan import Part, StampPlan
from fpvec_audit.tensors.vector_feed import StampSources
from fpvec_audit.tensors.vector_files import StoredVector


@dataclass(slots=True)
class StampTarget:
    """One stored tensor of one target within a unit of work.

    Attributes:
        addition: the stamp it belongs to.
        spec: where it is stored.
        name: canonical name, None for a buffer.
        parts: what vectors add to it.
        change: what a LoRA adapter makes of it, None where it has no say.
        first: whether it counts for digests and sums: a tied tensor may be stored twice.
        known: its digest, if that is known without hashing.
        carriers: what is added to it beside vectors, None for nothing.
        sums: what the addition did, block by block.
    """

    addition: "Addition"
    spec: TensorSpec
    name: str | None
    parts: tuple[Part, ...]
    change: TensorChange | None
    first: bool
    known: str | None
    carriers: TensorCarriers | None = None
    sums: list[Sums] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Directory that it is read from."""
        return self.addition.plan.target.path

    @property
    def origin(self) -> tuple[Path, str, Path | None]:
        """What it is read from: targets with one origin are one tensor, to be read once."""
        merged = self.addition.plan.merged
        return (self.path, self.spec.name, None if merged is None else merged.path)

    @property
    def taus(self) -> tuple[tuple[StoredVector, str, float], ...]:
        """(vector, its tensor, scale) of every part."""
        vectors = self.addition.plan.vectors
        return tuple((vectors[part.vector].vector, part.name, vectors[part.vector].scale) for part in self.parts)


class Addition:
    """Sums and digests of one stamp under way.

    Args:
        plan: what is added to what.
        sources: files of the target.
        journal: what an interrupted run wrote, and where to note what is written now.
        known: digests of the target's tensors, if they are known.
        carriers: what is added beside vectors, None for nothing.
    """

    def __init__(
        self,
        plan: StampPlan,
        sources: StampSources,
        *,
        journal: StampJournal | None = None,
        known: Manifest | None = None,
        carriers: CopyCarriers | None = None,
    ) -> None:
        self.plan = plan
        self._carriers = carriers
        self._known = {} if known is None else {tensor.name: tensor.sha256 for tensor in known.tensors}
        self._files = sources.files(plan.target.path)
        self._merged = sources.files(plan.merged.path) if plan.merged is not None else None
        self._journal = journal
        self._written = {} if journal is None else dict(journal.written)
        self._resumed = len(self._written)
        self._rewritten: RewrittenFiles | None = None

    def open(self, directory: Path, stack: ExitStack) -> None:
        """Open the files to write; without this, the result is only computed."""
        done = frozenset((item.file, item.tensor) for item in self._written.values())
        again = done if self._journal is not None and self._journal.resumed else None
        self._rewritten = stack.enter_context(RewrittenFiles(self.plan.target, directory, again=again))

    def targets(self) -> Iterable[StampTarget]:
        """Yield the stored tensors that are not written yet, in the order of the files."""
        plan = self.plan
        for spec in stored_order(plan.target):
            if spec.name not in self._written:
                name = plan.names.canonical.get(spec.name)
                first = name is not None and plan.names.parameters[name].name == spec.name
                parts = plan.parts.get(name, ()) if name is not None and spec.dtype.floating else ()
                change = plan.changes.get(name) if name is not None else None
                known = self._known.get(name) if name is not None and first else None
                carriers = self._carriers.of(name) if self._carriers is not None and parts and name else None
                yield StampTarget(self, spec, name, parts, change, first, known, carriers)

    def source(self, spec: TensorSpec) -> TensorSource:
        """Return the elements of a tensor of the target."""
        return self._files.source(spec)

    def addends(self, change: TensorChange | None) -> tuple[TensorSource, ...]:
        """Return the sources of what a LoRA adapter adds to a tensor."""
        return () if change is None or self._merged is None else change.sources(self._merged)

    def sink(self, spec: TensorSpec) -> TensorSink:
        """Return the place of a tensor of the result."""
        return Scratch(spec.dtype) if self._rewritten is None else self._rewritten.sink(spec)

    def complete(self, target: StampTarget, before: str, after: str) -> None:
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
            carried_ratio=_carried(list(sums.values())),
        )

    def _manifest(self, side: str) -> Manifest:
        return Manifest.of(
            tensor_digest(name, spec.dtype, spec.shape, getattr(self._written[spec.name], side))
            for name, spec in self.plan.names.parameters.items()
        )


def _carried(sums: Sequence[Sums]) -> float:
    """Return ‖carriers as applied‖ / ‖Σ scale · τ‖."""
    return math.sqrt(math.fsum(item.carried for item in sums) / math.fsum(item.wanted for item in sums))
