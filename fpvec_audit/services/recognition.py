"""Say whether a checkpoint, or what is left of one, is a recorded model: `fpvec model identify`.

Recognising is reading: nothing is run, nothing is recorded, and what is found is no verdict. A whole model is known by
its canonical digest; a part by a few tensors of each model (``domain/sketch.py``), and how much of it is there then
follows from the recorded manifest, so that no share is ever estimated.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.overlap import SHOWN, Amount, Overlap, overlap
from fpvec_audit.domain.records import ModelRecord, StampRecord
from fpvec_audit.errors import ArchitectureError, CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.lineage import ancestry
from fpvec_audit.services.models import stamp_json

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.checkpoint import Checkpoint
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

COMPARED = 32
"""Most recorded manifests that one checkpoint is compared with."""

NOTHING_FOUND = (
    "no recorded model shares a counted tensor with it; one that was fine-tuned or quantised throughout shares none, "
    "and is for `fpvec audit` or `fpvec trace`"
)


@dataclass(frozen=True, slots=True)
class Match:
    """A recorded model that a checkpoint is, or shares tensors with.

    Attributes:
        record: the model.
        exact: whether the checkpoint is this model, tensor by tensor and name by name.
        overlap: what they have in common.
        stamps: the stamps that it carries.
        line: the model and what it was made from, as far as is known, nearest first.
    """

    record: ModelRecord
    exact: bool
    overlap: Overlap
    stamps: tuple[StampRecord, ...]
    line: tuple[ModelRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        names = {model.id: model.name for model in self.line}
        base = self.line[-1]
        return {
            "id": self.record.id,
            "name": self.record.name,
            "role": self.record.role.value,
            "exact": self.exact,
            **_overlap_json(self.overlap),
            "base": {"id": base.id, "name": base.name, "role": base.role.value},
            "lineage": [{"id": model.id, "name": model.name, "role": model.role.value} for model in self.line],
            "stamps": [stamp_json(stamp) | {"downstream_name": names.get(stamp.downstream)} for stamp in self.stamps],
            "location": self.record.location,
        }


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was recognised in a checkpoint.

    Attributes:
        path: as it was given.
        digest: canonical digest of what is there.
        amount: how much is there.
        matches: recorded models, the nearest first; empty where nothing was recognised.
        warnings: what was not there or not read, and where looking ended, in sentences.
    """

    path: Path
    digest: str
    amount: Amount
    matches: tuple[Match, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "path": str(self.path),
            "digest": self.digest,
            "tensors": self.amount.tensors,
            "parameters": self.amount.parameters,
            "bytes": self.amount.bytes,
            "recognised": bool(self.matches),
            "matches": [match.to_json() for match in self.matches],
            "warnings": list(self.warnings),
        }


def recognise_model(
    path: Path,
    *,
    registry: "Registry",
    catalog: "Catalog",
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> Recognition:
    """Digest what is there of a checkpoint, and find the recorded models that it is or shares tensors with.

    Args:
        path: checkpoint directory, complete or not, or one of its safetensors files.
        registry: where to look.
        catalog: plugins.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Raises:
        CheckpointError: nothing is there that can be read.
        UnknownNameError: the named adapter does not exist.
    """
    from fpvec_audit.tensors.present import read_present

    checkpoint, notes = read_present(path)
    manifest, named = _manifest(checkpoint, catalog, architecture, progress)
    matches, cut = look_up(manifest, registry=registry)
    warnings = [*notes, *named, *cut, *([] if matches else [NOTHING_FOUND])]
    return Recognition(path, manifest.digest, Amount.of(manifest.tensors), matches, tuple(warnings))


def look_up(manifest: Manifest, *, registry: "Registry") -> tuple[tuple[Match, ...], tuple[str, ...]]:
    """Return the recorded models that tensors are of, the nearest first, and notes on where looking ended.

    Args:
        manifest: the tensors at hand.
        registry: where to look.
    """
    with registry.snapshot() as uow:
        whole = uow.models.find(manifest.digest)
        if whole is not None:
            return (_match(uow, whole, overlap(manifest, manifest), exact=True),), ()
        records, common = uow.models.sharing(manifest, at_most=COMPARED)
        recorded = uow.models.manifests(record.id for record in records)
        overlaps = {identifier: overlap(manifest, theirs) for identifier, theirs in recorded.items()}
        # Among equals the older comes first: what was made from it shares what it did not change.
        shared = [record for record in records if record.id in overlaps and overlaps[record.id].shared.tensors]
        shared.sort(key=lambda record: (*_distance(overlaps[record.id]), record.created_at, record.id))
        matches = tuple(_match(uow, record, overlaps[record.id], exact=False) for record in shared)
    notes = []
    if len(records) == COMPARED:
        notes.append(f"more models may share tensors with it: it was compared with the {COMPARED} nearest")
    if common:
        notes.append(f"so many models share {common} of its tensors that not all of these were looked at")
    return matches, tuple(notes)


def _manifest(
    checkpoint: "Checkpoint", catalog: "Catalog", architecture: str | None, progress: Progress
) -> tuple[Manifest, list[str]]:
    """Return the digests of all tensors, under canonical names where the architecture is known and fits."""
    from fpvec_audit.tensors.digest import read_manifest

    try:
        adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    except ArchitectureError:
        adapter = None
    try:
        return read_manifest(checkpoint, adapter, progress=progress), []
    except CheckpointError as error:
        if adapter is None:
            raise
        # Tied tensors that differ, or two of one name: no model as it stands, but its tensors tell where it is from.
        note = f"tensors keep the names they are stored under: {error.problem}"
        return read_manifest(checkpoint, None, progress=progress), [note]


def _distance(found: Overlap) -> tuple[float, float]:
    return -found.share, -found.share_of_model


def _match(uow: "UnitOfWork", record: ModelRecord, found: Overlap, *, exact: bool) -> Match:
    return Match(record, exact, found, uow.stamps.of_model(record.id), ancestry(uow, record.id))


def _overlap_json(found: Overlap) -> dict[str, Any]:
    return {
        "share": found.share,
        "share_of_model": found.share_of_model,
        "shared_tensors": found.shared.tensors,
        "shared_parameters": found.shared.parameters,
        "shared_bytes": found.shared.bytes,
        "model_tensors": found.recorded.tensors,
        "renamed": found.renamed,
        "changed": len(found.changed),
        "added": len(found.added),
        "missing": len(found.missing),
        "first_changed": list(found.changed[:SHOWN]),
        "first_added": list(found.added[:SHOWN]),
        "first_missing": list(found.missing[:SHOWN]),
    }
