"""Use case: extract the fingerprint vector of a fingerprinted model, and list and show vectors.

The vector's key set is the one given, or the one that the registry says the model was trained on.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.family import MarkStanding
from fpvec_audit.domain.records import ModelRecord, ModelRole, StampRecord, VectorRecord
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.domain.vector import VectorDescription
from fpvec_audit.errors import UnknownNameError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.family import family_of_model
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.models import stamp_json
from fpvec_audit.services.subtraction import (
    add_vector,
    carried_key_set,
    plan_subtraction,
    record_extraction,
    remember_files,
    stored_dtype,
    subtract,
)

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.tensors.vector_files import StoredVector

LATEST_STAMPS = 20
"""Copies that a vector is shown with, the newest."""


@dataclass(frozen=True, slots=True)
class ExtractedVector:
    """A vector that was just extracted and recorded.

    Attributes:
        out: its directory.
        vector: what it is.
        key_set: id of the key set it carries, None when unknown.
        bytes: bytes of the files that were written.
        warnings: what the owner should know, in sentences.
        seconds: wall time.
    """

    out: Path
    vector: VectorDescription
    key_set: str | None
    bytes: int
    warnings: tuple[str, ...]
    seconds: float

    @property
    def vector_id(self) -> str:
        """Identifier in the registry."""
        return self.vector.id

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "vector_id": self.vector.id,
            "key_set": self.key_set,
            "architecture": self.vector.architecture,
            "dtype": self.vector.dtype.value,
            "tensors": self.vector.tensors,
            "elements": self.vector.elements,
            "bytes": self.bytes,
            "norm": self.vector.norm,
            "inexact_elements": self.vector.inexact_elements,
            "base_digest": self.vector.base_digest,
            "fingerprinted_digest": self.vector.fingerprinted_digest,
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class VectorSummary:
    """A recorded vector as it is listed and shown.

    Attributes:
        record: what the registry knows.
        base: model it was subtracted from.
        fingerprinted: model it was subtracted of.
        key_set: name of the key set it carries, None when unknown.
        stamps: how many copies were stamped with it; None where they were not counted.
        latest: the newest of them, newest first; None where they were not asked for.
        standing: how well its mark was learnt; None where it is of no family of several, or that was not asked for.
    """

    record: VectorRecord
    base: ModelRecord
    fingerprinted: ModelRecord
    key_set: str | None
    stamps: int | None = None
    latest: tuple[StampRecord, ...] | None = None
    standing: MarkStanding | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "vector_id": self.record.id,
            "digest": self.record.digest,
            "family": self.record.family,
            "mark": self.record.mark,
            "key_set": self.key_set,
            "base": self.base.name,
            "base_digest": self.base.id,
            "fingerprinted": self.fingerprinted.name,
            "fingerprinted_digest": self.fingerprinted.id,
            "architecture": self.record.architecture,
            "norm": self.record.norm,
            "inexact_elements": self.record.inexact_elements,
            "location": self.record.location,
            "created_at": self.record.created_at.isoformat(),
            **self._answered(),
            **({} if self.stamps is None else {"stamps": self.stamps}),
            **({} if self.latest is None else {"latest_stamps": [stamp_json(stamp) for stamp in self.latest]}),
        }

    def _answered(self) -> dict[str, Any]:
        if self.standing is None:
            return {}
        return {"answered_alone": self.standing.alone, "answered_within_words": self.standing.within_words}


def begin_to_read(base: Path, fingerprinted: Path) -> None:
    """Let the disk begin to read two models that are about to be subtracted, while the registry is being opened."""
    from fpvec_audit.tensors.reader import ask_in_advance

    ask_in_advance([place for place in (base, fingerprinted) if place.is_dir()])


def extract_vector(
    base: Path,
    fingerprinted: Path,
    *,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    key_set: str | None = None,
    dtype: str = "same",
    architecture: str | None = None,
    reread: bool = False,
    progress: Progress = NO_PROGRESS,
) -> ExtractedVector:
    """Subtract the base from the fingerprinted model, write the vector, and record models and vector.

    Args:
        base: checkpoint directory of the base.
        fingerprinted: checkpoint directory of the fingerprinted model.
        out: directory of the vector; must not exist.
        registry: where to record.
        catalog: plugins.
        key_set: name or id of the key set it carries; as registered when None.
        dtype: ``same`` as the checkpoint, or ``float32``.
        architecture: adapter to use instead of the detected one.
        reread: digest the two models although their files have not changed since they were digested.
        progress: where to report.

    Raises:
        UsageError: an unknown dtype or key set, or no adapter for one of the models.
        CheckpointError: a model cannot be read, is quantised, or holds NaN or Inf.
        VectorError: the two models do not fit each other.
        KeySetError: the key set is bound to another base, is retired or compromised and not known to be in this model,
            or has several marks of which the model is none.
        OutputError: ``out`` exists, or the disk is full.
    """
    from fpvec_audit.tensors.staging import refuse_existing, sole_finisher, staged_directory

    started = time.perf_counter()
    refuse_existing(out)
    stored = stored_dtype(dtype)
    if key_set is not None:
        with registry.unit_of_work() as uow:
            uow.key_sets.get(key_set)
    extraction = plan_subtraction(base, fingerprinted, catalog=catalog, architecture=architecture, dtype=stored)
    detail = {"base": str(base), "fingerprinted": str(fingerprinted), "out": str(out)}
    with (
        recorded_job(registry, "extract", detail),
        sole_finisher() as claim,
        staged_directory(out, extraction.layout.bytes, progress=progress) as staging,
    ):
        subtracted = subtract(extraction, staging, registry=registry, reread=reread, progress=progress)
        vector = subtracted.written.description
        claim([out])
        with registry.unit_of_work() as uow:
            carried = carried_key_set(uow, vector, key_set)
            record_extraction(uow, subtracted, catalog=catalog, key_set=carried, out=out, registry=registry)
    remember_files(out, vector, registry=registry)
    warnings = () if carried else ("no key set is recorded for this model: name it with --key",)
    return ExtractedVector(out, vector, carried, subtracted.bytes, warnings, time.perf_counter() - started)


def list_vectors(*, registry: "Registry", selection: Selection = EVERYTHING) -> Sequence[VectorSummary]:
    """Return recorded vectors, oldest first if nothing else is asked for.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        return _summaries(uow, uow.vectors.select(selection))


def show_vector(reference: str, *, registry: "Registry") -> VectorSummary:
    """Return a recorded vector.

    Args:
        reference: id, which may be shortened, or directory.
        registry: where to look.

    Raises:
        UsageError: there is none, or several.
        VectorError: the directory is no vector.
    """
    with registry.snapshot() as uow:
        summary = _summary(uow, find_vector(uow, reference))
        vector = summary.record.id
        found = family_of_model(uow, summary.record.fingerprinted)
        return replace(
            summary,
            standing=None if found is None else found[0].report.standings[found[1]],
            stamps=uow.stamps.count_with(vector),
            latest=uow.stamps.latest_with(vector, most=LATEST_STAMPS),
        )


def find_vector(uow: "UnitOfWork", reference: str) -> VectorRecord:
    """Return a recorded vector by id, by the beginning of one, or by its directory.

    Raises:
        UsageError: there is none, or several.
        VectorError: the directory is no vector.
    """
    from fpvec_audit.tensors.vector_files import read_vector

    try:
        return uow.vectors.get(reference)
    except UnknownNameError:
        if not Path(reference).is_dir():
            raise
    found = uow.vectors.find(read_vector(Path(reference)).description.id)
    if found is None:
        known = [record.id for record in uow.vectors.list()]
        raise UnknownNameError("vector", reference, known, listing="fpvec vector list")
    return found


def adopt_vector(uow: "UnitOfWork", vector: "StoredVector", *, registry: "Registry") -> VectorRecord:
    """Return the record of a vector; one that another registry made is recorded with what it says of itself.

    Args:
        uow: the transaction.
        vector: vector on disk, whose tensors were checked against its digest.
        registry: gives the time.
    """
    description = vector.description
    found = uow.vectors.find(description.id)
    if found is not None:
        return found
    origins = (
        (description.base_digest, ModelRole.BASE, None),
        (description.fingerprinted_digest, ModelRole.FINGERPRINTED, description.base_digest),
    )
    for digest, role, parent in origins:
        if uow.models.find(digest) is None:
            name = uow.models.free_name(f"{role.value}-{digest[:12]}")
            elements, created = description.elements, registry.clock()
            uow.models.add(ModelRecord(digest, name, role, description.architecture, "", parent, elements, created))
    return add_vector(uow, description, key_set=None, location=vector.files.path, registry=registry)


def _summary(uow: "UnitOfWork", record: VectorRecord) -> VectorSummary:
    return _summaries(uow, [record])[0]


def _summaries(uow: "UnitOfWork", records: Sequence[VectorRecord]) -> list[VectorSummary]:
    models = uow.models.known(model for record in records for model in (record.base, record.fingerprinted))
    names = uow.key_sets.names(record.key_set for record in records if record.key_set is not None)
    summaries = []
    for record in records:
        base, fingerprinted = models.get(record.base), models.get(record.fingerprinted)
        if base is None or fingerprinted is None:
            raise VectorError(f"{record.id}: its models are not in the registry", advice="run `fpvec registry check`")
        summaries.append(VectorSummary(record, base, fingerprinted, names.get(record.key_set or "")))
    return summaries
