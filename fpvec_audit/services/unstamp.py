"""Use case: take a stamp out again, where the arithmetic gives the downstream model back bit for bit.

A stamped weight is round(w + Σ scale · τ). Subtracting gives round(stamped − Σ scale · τ), which is w unless rounding
lost what told w from its neighbour. Whether it did is not guessed: the result is computed and digested without writing,
and compared tensor by tensor with what the registry recorded of the downstream model. Only then is anything written.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import ModelRole, StampRecord
from fpvec_audit.domain.vector import Vocabulary
from fpvec_audit.errors import VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.models import IdentifiedModel, add_model
from fpvec_audit.services.stamp_orders import open_vector, skipped_roles

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.checkpoint import Checkpoint
    from fpvec_audit.domain.manifest import Manifest
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.tensors.stamp_plan import StampPlan


@dataclass(frozen=True, slots=True)
class UnstampedModel:
    """A downstream model that was given back.

    Attributes:
        out: its directory.
        stamp_id: the stamp that was taken out.
        tensors: number of tensors that were subtracted from.
        bytes_written: bytes of all files.
        digest: canonical digest, the downstream model's.
        seconds: wall time.
    """

    out: Path
    stamp_id: str
    tensors: int
    bytes_written: int
    digest: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "stamp_id": self.stamp_id,
            "tensors": self.tensors,
            "bytes_written": self.bytes_written,
            "digest": self.digest,
            "seconds": self.seconds,
        }


def unstamp_model(
    stamped: Path,
    *,
    stamp: str,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> UnstampedModel:
    """Give back the downstream model of a stamp, bit for bit, or say why that cannot be.

    Args:
        stamped: directory of the stamped model.
        stamp: id of the stamp, which may be shortened.
        out: directory to make.
        registry: where stamp, vectors and digests are recorded.
        catalog: plugins.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Raises:
        UsageError: no such stamp.
        CheckpointError: the model cannot be read.
        VectorError: the model is not the stamp's, or rounding lost something that cannot be given back.
        OutputError: ``out`` exists, or the disk is full.
    """
    from fpvec_audit.tensors.index import read_checkpoint
    from fpvec_audit.tensors.staging import refuse_existing, staged_directory
    from fpvec_audit.tensors.stamp import foresee_stamp, write_stamp

    started = time.perf_counter()
    refuse_existing(out)
    record, wanted = _recorded(stamp, registry=registry)
    checkpoint = read_checkpoint(stamped)
    adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    plan = _plan(checkpoint, record, adapter, registry=registry)
    detail = {"stamped": str(stamped), "stamp": record.id, "out": str(out)}
    with recorded_job(registry, "unstamp", detail):
        foreseen = foresee_stamp(plan, progress=progress)
        if foreseen.target_digest != record.stamped:
            raise VectorError(
                f"{stamped} is not the model of stamp {record.id}: its digest is {foreseen.target_digest[:16]}…, "
                f"recorded is {record.stamped[:16]}…",
                advice="`fpvec model show` tells which stamps a model carries",
            )
        _refuse_loss(stamped, foreseen.stamped, wanted)
        with staged_directory(out, plan.bytes, progress=progress) as staging:
            outcome = write_stamp(plan, staging, progress=progress)
            with registry.unit_of_work() as uow:
                model = IdentifiedModel(checkpoint, adapter, outcome.stamped)
                add_model(uow, model, registry=registry, role=ModelRole.DOWNSTREAM, location=out)
    return UnstampedModel(
        out, record.id, outcome.tensors, outcome.bytes_written, outcome.stamped_digest, time.perf_counter() - started
    )


def _recorded(stamp: str, *, registry: "Registry") -> "tuple[StampRecord, Manifest]":
    with registry.unit_of_work() as uow:
        record = uow.stamps.get(stamp)
        manifest = uow.models.manifest(record.downstream)
    if record.policies.get("adapter"):
        raise VectorError(
            f"stamp {record.id} was made of a base and an adapter: there is no model to give back",
            advice="the base and the adapter lie where they lay before",
        )
    if record.policies.get("carrier"):
        raise VectorError(
            f"stamp {record.id} has a carrier, which is added with rounding by chance and cannot be taken off again",
            advice="use the downstream model itself; `fpvec model show` says where it lay",
        )
    if manifest is None:
        raise VectorError(
            f"the tensors of the downstream model of {record.id} are not recorded, so that nothing can be checked",
            advice="register the downstream model again if you still have it: `fpvec model register PATH`",
        )
    return record, manifest


def _plan(
    checkpoint: "Checkpoint", record: StampRecord, adapter: "ArchitectureAdapter", *, registry: "Registry"
) -> "StampPlan":
    from fpvec_audit.tensors.stamp_plan import plan_stamp

    vectors = [open_vector(vector, registry=registry) for vector, _ in record.vectors]
    negated = [replace(item, scale=-scale) for item, (_, scale) in zip(vectors, record.vectors, strict=True)]
    return plan_stamp(
        checkpoint,
        negated,
        adapter,
        vocabulary=Vocabulary(record.policies.get("vocabulary", Vocabulary.REFUSE)),
        skip=skipped_roles(record.policies.get("skip", ())),
    )


def _refuse_loss(stamped: Path, found: "Manifest", wanted: "Manifest") -> None:
    """Refuse a result that is not the downstream model; how many tensors are lost is part of the answer."""
    difference = wanted.first_difference(found)
    if difference is None:
        return
    ours = {tensor.name: tensor.sha256 for tensor in found.tensors}
    lost = sum(ours.get(tensor.name) != tensor.sha256 for tensor in wanted.tensors)
    raise VectorError(
        f"{stamped} cannot be given back bit for bit: rounding lost something in {lost} of {len(wanted.tensors)} "
        f"tensors ({difference}); nothing was written",
        advice="use the downstream model itself; `fpvec model show` says where it lay",
    )
