"""Where the copies of a stamp are written until all are whole: new directories, or what an interrupted run left."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.progress import Progress
from fpvec_audit.services.digested import Inputs
from fpvec_audit.services.stamp_orders import StampOrder

if TYPE_CHECKING:
    from fpvec_audit.tensors.stamp import StampCopy
    from fpvec_audit.tensors.stamp_journal import WrittenTensor


@dataclass(frozen=True, slots=True)
class _Begun:
    """What an interrupted run did of a copy.

    Attributes:
        asked: digest of what is asked and of what it is read from.
        leftover: its staging directory; None where there is none to go on with.
        written: stored tensor → what was written and is right.
    """

    asked: str
    leftover: Path | None
    written: "Mapping[str, WrittenTensor]"


def staged_copies(
    orders: Sequence[StampOrder], inputs: Inputs, stack: ExitStack, *, resume: bool, progress: Progress
) -> "list[StampCopy]":
    """Open a staging directory for each copy: a new one, or one that an interrupted run left.

    The copies share a disk. So what earlier runs left of any of them is removed before the room for all is checked, and
    what is gone on with has its room already.

    Args:
        orders: the copies.
        inputs: what they are read from.
        stack: what happens to the directories when it closes is ``tensors/staging``'s.
        resume: go on with what an interrupted run left.
        progress: where to report.

    Raises:
        OutputError: there is no room.
    """
    from fpvec_audit.tensors.staging import remove_leftovers, staged_directory, written_bytes
    from fpvec_audit.tensors.stamp import StampCopy
    from fpvec_audit.tensors.stamp_journal import StampJournal

    begun = [_begun(order, resume=resume, progress=progress) for order in orders]
    for order, found in zip(orders, begun, strict=True):
        remove_leftovers(order.out, but=found.leftover, progress=progress)
    needed = sum(order.plan.bytes for order in orders)
    needed -= sum(written_bytes(found.leftover) for found in begun if found.leftover is not None)
    places = []
    for order, found, known in zip(orders, begun, inputs.manifests, strict=True):
        context = staged_directory(order.out, needed, resumed=found.leftover, progress=progress)
        staging = stack.enter_context(context)
        journal = StampJournal(staging, found.asked, found.written, resumed=found.leftover is not None)
        carriers = None if order.carrier is None else order.carrier.keys
        places.append(StampCopy(order.plan, staging, journal, known, carriers))
    return places


def _begun(order: StampOrder, *, resume: bool, progress: Progress) -> _Begun:
    """Look for what an interrupted run wrote of a copy, and check it."""
    from fpvec_audit.tensors.staging import leftovers
    from fpvec_audit.tensors.stamp_journal import order_digest, reread

    inputs = {f"vector {place}": item.vector.files for place, item in enumerate(order.plan.vectors)}
    if order.adapted is not None:
        inputs["adapter"] = order.adapted.adapter.files
    asked = order_digest(order.asked(""), {"target": order.plan.target, **inputs})
    for leftover in leftovers(order.out) if resume else ():
        written = reread(leftover, asked, order.plan.target, progress=progress)
        if written is not None:
            return _Begun(asked, leftover, written)
    return _Begun(asked, None, {})
