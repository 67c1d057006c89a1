"""Stamping: target ← round(target + Σ scale · τ), block by block, once to the target's dtype.

Laws:

* every stamped element equals the plain sum in float32 (float64 for float64 targets) of the target and Σ scale · τ;
  elements whose τ is −0.0, rows beyond the shared ones, skipped tensors and buffers keep every bit;
* a head tied in the target is stamped once, whether it is stored once or twice, and stays tied;
* all other bytes of the checkpoint are those of the target (see ``rewrite``);
* where an adapter is merged, target stands for the target with the adapter's part, in float32 and not rounded between;
* of many targets and copies that are stamped together, each comes out as if it were stamped alone, whichever vectors it
  gets, and every block of a target or vector is read once for ``AT_ONCE`` of them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.carrier import CopyCarriers
from fpvec_audit.tensors.rewrite import copy_files
from fpvec_audit.tensors.staging import sync_tree
from fpvec_audit.tensors.stamp_addition import Addition
from fpvec_audit.tensors.stamp_journal import StampJournal
from fpvec_audit.tensors.stamp_outcome import StampOutcome
from fpvec_audit.tensors.stamp_plan import StampPlan
from fpvec_audit.tensors.stamp_units import stamp_works
from fpvec_audit.tensors.stream import run
from fpvec_audit.tensors.vector_feed import StampSources

AT_ONCE = 16
"""Copies that are made in one reading: as many as messages are hashed side by side, and few enough open files."""


@dataclass(frozen=True, slots=True)
class StampCopy:
    """A plan and where its result goes.

    Attributes:
        plan: what is added to what.
        directory: where to write; normally a staging directory.
        journal: keeps what is written, so that an interrupted run can go on; None without.
        known: digests of the target's tensors, if its files have not changed since they were taken; its bytes are then
            read but not hashed.
        carriers: what is added beside vectors, None for nothing.
    """

    plan: StampPlan
    directory: Path
    journal: StampJournal | None = None
    known: Manifest | None = None
    carriers: CopyCarriers | None = None


def write_stamp(plan: StampPlan, directory: Path, *, progress: Progress = NO_PROGRESS) -> StampOutcome:
    """Carry out one stamp; see :func:`write_stamps`."""
    return write_stamps([StampCopy(plan, directory)], progress=progress)[0]


def write_stamps(
    copies: Sequence[StampCopy], *, checked: frozenset[str] = frozenset(), progress: Progress = NO_PROGRESS
) -> list[StampOutcome]:
    """Carry out stamps; what was written is durable when this returns.

    Args:
        copies: what to add to what, and where to write; each may have vectors of its own.
        checked: ids of vectors whose files have not changed since they were found to be what they say; their bytes are
            read but not hashed.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the vectors add up to nothing, a sum does not fit the dtype, or a vector was changed on disk.
        OSError: the disk is full, or something else that a staging directory translates.
    """
    outcomes: list[StampOutcome] = []
    with ExitStack() as stack:
        sources = StampSources(stack, checked=checked)
        for first in range(0, len(copies), AT_ONCE):
            outcomes += _write_together(copies[first : first + AT_ONCE], sources, progress=progress)
        sources.check()
    return outcomes


def _write_together(copies: Sequence[StampCopy], sources: StampSources, *, progress: Progress) -> list[StampOutcome]:
    with ExitStack() as stack:
        additions = [
            Addition(item.plan, sources, journal=item.journal, known=item.known, carriers=item.carriers)
            for item in copies
        ]
        for addition, item in zip(additions, copies, strict=True):
            addition.open(item.directory, stack)
        run(stamp_works(additions, sources), label="stamp", progress=progress)
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
        sources = StampSources(stack)
        addition = Addition(plan, sources)
        run(stamp_works([addition], sources), label="foresee", progress=progress)
        sources.check()
    return addition.outcome()
