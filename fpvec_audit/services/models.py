"""Register, list and show checkpoints: a model is what its weights are, wherever and however they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.records import ModelRecord, ModelRole, StampRecord
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.errors import ArchitectureError, UnknownNameError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.digested import DigestedFiles, look_at

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.checkpoint import Checkpoint
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model as it is listed and shown.

    Attributes:
        record: what the registry knows.
        parent_name: name of the model it was made from, None when unknown.
        stamps: the stamps whose result it is.
    """

    record: ModelRecord
    parent_name: str | None = None
    stamps: tuple[StampRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "id": self.record.id,
            "name": self.record.name,
            "role": self.record.role.value,
            "architecture": self.record.architecture or None,
            "location": self.record.location,
            "parent": self.record.parent,
            "parent_name": self.parent_name,
            "parameters": self.record.parameters,
            "created_at": self.record.created_at.isoformat(),
            "stamps": [stamp_json(stamp) for stamp in self.stamps],
        }


@dataclass(frozen=True, slots=True)
class IdentifiedModel:
    """A model directory whose weights were digested.

    Attributes:
        checkpoint: what lies there.
        adapter: its architecture, None when unknown.
        manifest: its parameters, by digest.
        files: its files as they were before they were read; None where nobody looked.
    """

    checkpoint: "Checkpoint"
    adapter: "ArchitectureAdapter | None"
    manifest: Manifest
    files: DigestedFiles | None = None

    @property
    def digest(self) -> str:
        """Canonical digest."""
        return self.manifest.digest


def register_model(
    path: Path,
    *,
    registry: "Registry",
    catalog: "Catalog",
    name: str | None = None,
    role: ModelRole = ModelRole.DOWNSTREAM,
    parent: str | None = None,
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> ModelSummary:
    """Record a checkpoint by the canonical digest of its weights; one that is known already keeps its name.

    Args:
        path: checkpoint directory.
        registry: where to record it.
        catalog: plugins.
        name: unique name; the directory's, numbered where it is taken, when None.
        role: what it is to its owner.
        parent: name, id or directory of the registered model it was made from.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Raises:
        CheckpointError: it cannot be read.
        UsageError: name, parent or adapter cannot be used.
    """
    model = identify_model(path, catalog=catalog, architecture=architecture, progress=progress)
    ancestor = None
    if parent is not None:
        ancestor = _parent_digest(parent, registry=registry, catalog=catalog, progress=progress)
    with registry.unit_of_work() as uow:
        record = add_model(uow, model, name=name, role=role, parent=ancestor, registry=registry)
        if model.files is not None:
            model.files.remember(uow, model.digest)
        return _summary(uow, record)


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """What reading a model again found.

    Attributes:
        record: what the registry knows.
        path: where it was read.
        digest: canonical digest of what lies there now.
        difference: what the first tensor that differs is, by name; None when all are what was recorded.
        tensors: number of tensors that were read.
    """

    record: ModelRecord
    path: Path
    digest: str
    difference: str | None
    tensors: int

    @property
    def intact(self) -> bool:
        """Whether the weights are what was recorded."""
        return self.difference is None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "id": self.record.id,
            "name": self.record.name,
            "path": str(self.path),
            "intact": self.intact,
            "digest": self.digest,
            "difference": self.difference,
            "tensors": self.tensors,
        }


def verify_model(
    reference: str,
    *,
    registry: "Registry",
    catalog: "Catalog",
    path: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> VerifiedModel:
    """Read a registered model again and say whether it still is what was recorded.

    Args:
        reference: name or id, which may be shortened, or the directory where it was recorded.
        registry: where to look.
        catalog: plugins.
        path: where it lies now; where it was recorded when None.
        progress: where to report.

    Raises:
        UsageError: there is no such model, or several.
        CheckpointError: it cannot be read, or tensors are missing from its files.
    """
    from fpvec_audit.tensors.digest import read_manifest
    from fpvec_audit.tensors.index import read_checkpoint

    with registry.unit_of_work() as uow:
        record = _find(uow, reference)
        recorded = uow.models.manifest(record.id)
    place = path or Path(record.location)
    checkpoint = read_checkpoint(place)
    adapter = catalog.architecture(record.architecture) if record.architecture else None
    found = read_manifest(checkpoint, adapter, progress=progress)
    if found.digest == record.id:
        difference = None
    elif recorded is None:
        difference = "something (its single tensors were not recorded; register it again to be told which)"
    else:
        difference = recorded.first_difference(found)
    return VerifiedModel(record, place, found.digest, difference, len(found.tensors))


def list_models(
    *, registry: "Registry", role: ModelRole | None = None, selection: Selection = EVERYTHING
) -> Sequence[ModelSummary]:
    """Return registered models, oldest first if nothing else is asked for.

    Args:
        registry: where to look.
        role: what they are to their owner, anything when None.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    if role is not None:
        selection = replace(selection, where={**selection.where, "role": role.value})
    with registry.snapshot() as uow:
        records = uow.models.select(selection)
        parents = uow.models.known(record.parent for record in records if record.parent is not None)
        stamps = uow.stamps.of_models(record.id for record in records)
    names = {parent.id: parent.name for parent in parents.values()}
    return [ModelSummary(record, names.get(record.parent or ""), stamps.get(record.id, ())) for record in records]


def show_model(reference: str, *, registry: "Registry") -> ModelSummary:
    """Return a registered model.

    Args:
        reference: name or id; an id may be shortened.
        registry: where to look.

    Raises:
        UsageError: there is none, or several.
    """
    with registry.snapshot() as uow:
        return _summary(uow, uow.models.get(reference))


def identify_model(
    path: Path, *, catalog: "Catalog", architecture: str | None = None, progress: Progress = NO_PROGRESS
) -> IdentifiedModel:
    """Digest a model directory, of known or unknown architecture.

    Raises:
        CheckpointError: it cannot be read.
        UnknownNameError: the named adapter does not exist.
    """
    from fpvec_audit.tensors.digest import read_manifest
    from fpvec_audit.tensors.index import read_checkpoint

    checkpoint = read_checkpoint(path)
    try:
        adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    except ArchitectureError:
        adapter = None  # digested under stored names, as the definition of the digest has it
    files = None if adapter is None else look_at(checkpoint, adapter.name)
    return IdentifiedModel(checkpoint, adapter, read_manifest(checkpoint, adapter, progress=progress), files)


def add_model(
    uow: "UnitOfWork",
    model: IdentifiedModel,
    *,
    registry: "Registry",
    role: ModelRole,
    name: str | None = None,
    parent: str | None = None,
    location: Path | None = None,
) -> ModelRecord:
    """Add an identified model to a unit of work under way.

    Args:
        uow: the transaction.
        model: what to record.
        registry: gives the time.
        role: what it is to its owner.
        name: unique name; the directory's, numbered where it is taken, when None.
        parent: id of the model it was made from.
        location: where it will lie, if not where it was read.
    """
    place = (location or model.checkpoint.path).resolve()
    return uow.models.add(
        ModelRecord(
            id=model.digest,
            name=uow.models.free_name(place.name or "model") if name is None else name,
            role=role,
            architecture="" if model.adapter is None else model.adapter.name,
            location=str(place),
            parent=None if parent == model.digest else parent,
            parameters=model.checkpoint.parameters,
            created_at=registry.clock(),
        ),
        manifest=model.manifest,
    )


def _find(uow: "UnitOfWork", reference: str) -> ModelRecord:
    """Return a model by name, id, or the directory where it was recorded last."""
    try:
        return uow.models.get(reference)
    except UnknownNameError:
        lying = uow.models.lying_at(str(Path(reference).resolve()))
        if lying is None:
            raise
        return lying


def _parent_digest(reference: str, *, registry: "Registry", catalog: "Catalog", progress: Progress) -> str:
    """Return the id of a registered model given by name, id or directory."""
    try:
        with registry.unit_of_work() as uow:
            return uow.models.get(reference).id
    except UnknownNameError:
        if not Path(reference).is_dir():
            raise
    digest = identify_model(Path(reference), catalog=catalog, progress=progress).digest
    with registry.unit_of_work() as uow:
        found = uow.models.find(digest)
        return uow.models.get(reference).id if found is None else found.id  # which names those that are near


def _summary(uow: "UnitOfWork", record: ModelRecord) -> ModelSummary:
    parent = None if record.parent is None else uow.models.find(record.parent)
    return ModelSummary(record, None if parent is None else parent.name, uow.stamps.of_model(record.id))


def stamp_json(stamp: StampRecord) -> dict[str, Any]:
    """Return the JSON object of a stamp that scripts read."""
    return {
        "stamp_id": stamp.id,
        "downstream": stamp.downstream,
        "vectors": [{"vector": vector, "scale": scale} for vector, scale in stamp.vectors],
        "licensee": stamp.licensee or None,
        "location": stamp.location,
        "applied_ratio": stamp.applied_ratio,
        "cosine": stamp.cosine,
        "policies": dict(stamp.policies),
        "created_at": stamp.created_at.isoformat(),
    }
