"""Whether what lies at an output is the very stamp that is asked for: then nothing needs to be done again."""

import filecmp
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.errors import CheckpointError, OutputError
from fpvec_audit.progress import Progress
from fpvec_audit.services.stamp_orders import StampOrder
from fpvec_audit.services.stamped_model import StampedModel, adapter_fields, peak_memory

if TYPE_CHECKING:
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.tensors.stamp_plan import StampPlan


def recognised(order: StampOrder, *, registry: "Registry", progress: Progress) -> StampedModel:
    """Return the stamp that lies at the output already, whole and unchanged.

    Raises:
        OutputError: it is anything else.
    """
    from fpvec_audit.tensors.digest import canonical_digest

    started = time.perf_counter()
    downstream = canonical_digest(order.plan.target, order.adapter, progress=progress)
    with registry.unit_of_work() as uow:
        record = uow.stamps.find(order.stamp_id(downstream))
    there = _digest_there(order.out, order.adapter, progress=progress) if record is not None else ""
    if record is None or record.stamped != there or not _same_other_files(order.plan, order.out):
        raise OutputError(
            f"{order.out} exists already, and is not this stamp of {order.source}",
            advice="choose another --out, or remove it",
        )
    return StampedModel(
        out=order.out,
        vectors=order.vectors,
        licensee=order.licensee or None,
        tensors=len(order.plan.parts),
        bytes_written=0,
        applied_ratio=record.applied_ratio,
        cosine=record.cosine,
        roles={},
        file_digests=dict(record.policies.get("file_digests", {})),
        resumed=0,
        digest=record.stamped,
        downstream_digest=downstream,
        stamp_id=record.id,
        already=True,
        carrier=None if order.carrier is None else order.carrier.strength,
        warnings=(),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory(),
        **adapter_fields(order),
    )


def _same_other_files(plan: "StampPlan", copy: Path) -> bool:
    """Say whether a directory holds the files beside the tensors that the stamp would have, byte for byte."""
    there = {file.relative_to(copy).as_posix() for file in copy.rglob("*") if not file.is_dir()}
    if there != {*plan.others.carried, *plan.target.files}:
        return False
    return all(filecmp.cmp(source, copy / name, shallow=False) for name, source in plan.others.carried.items())


def _digest_there(path: Path, adapter: "ArchitectureAdapter", *, progress: Progress) -> str:
    """Return the digest of what lies at an output, or nothing if it is no whole model."""
    from fpvec_audit.tensors.digest import canonical_digest
    from fpvec_audit.tensors.index import read_checkpoint

    try:
        return canonical_digest(read_checkpoint(path), adapter, progress=progress)
    except CheckpointError:
        return ""
