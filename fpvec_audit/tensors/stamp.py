"""Stamping: target ← round(target + Σ scale · τ), block by block, once to the target's dtype.

Laws:

* every stamped element equals the plain sum in float32 (float64 for float64 targets) of the target and Σ scale · τ;
  elements whose τ is −0.0, rows beyond the shared ones, skipped tensors and buffers keep every bit;
* a head tied in the target is stamped once, whether it is stored once or twice, and stays tied;
* all other bytes of the checkpoint are those of the target (see ``rewrite``);
* where an adapter is merged, target stands for the target with the adapter's part, in float32 and not rounded between;
* of many targets and copies that are stamped together, each comes out as if it were stamped alone, and every block of a
  vector is read once for all of them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.rewrite import copy_files
from fpvec_audit.tensors.staging import sync_tree
from fpvec_audit.tensors.stamp_journal import StampJournal
from fpvec_audit.tensors.stamp_outcome import StampOutcome
from fpvec_audit.tensors.stamp_plan import StampPlan
from fpvec_audit.tensors.stamp_units import Addition, VectorFeed, stamp_works
from fpvec_audit.tensors.stream import run


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
            VectorFeed(scaled.vector, stack, checked=scaled.vector.description.id in checked)
            for scaled in copies[0].plan.vectors
        ]
        additions = [Addition(item.plan, stack, item.journal, item.known) for item in copies]
        for addition, item in zip(additions, copies, strict=True):
            addition.open(item.directory, stack)
        run(stamp_works(additions, feeds), label="stamp", progress=progress)
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
        feeds = [VectorFeed(scaled.vector, stack) for scaled in plan.vectors]
        addition = Addition(plan, stack)
        run(stamp_works([addition], feeds), label="foresee", progress=progress)
        for feed in feeds:
            feed.check()
    return addition.outcome()
