"""What every extraction does: plan a subtraction, write one vector with what is known of both models, record them.

A vector is recorded as its mark's of a family where its model was trained as one, and alone otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit import __version__
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import ModelRole, VectorRecord
from fpvec_audit.domain.vector import StoredDtype, VectorDescription
from fpvec_audit.errors import KeySetError, UsageError, VectorError
from fpvec_audit.progress import Progress
from fpvec_audit.services.digested import VECTOR, DigestedFiles, known_tensors, look_at
from fpvec_audit.services.family import family_of_model, refuse_short_marks
from fpvec_audit.services.key_life import refuse_ended
from fpvec_audit.services.models import IdentifiedModel, add_model

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.tensors.delta import Extraction, WrittenVector


@dataclass(frozen=True, slots=True)
class Subtracted:
    """A vector that was written and is not recorded yet.

    Attributes:
        extraction: what was subtracted.
        written: what came out.
        sides: files of the base and of the fingerprinted model, as they were before they were read.
        bytes: bytes of the files that were written.
    """

    extraction: "Extraction"
    written: "WrittenVector"
    sides: Sequence[DigestedFiles]
    bytes: int


def stored_dtype(dtype: str) -> StoredDtype:
    """Return how a vector is to be stored.

    Raises:
        UsageError: it is called by no such name.
    """
    if dtype not in list(StoredDtype):
        raise UsageError(f"unknown vector dtype {dtype!r}", advice=f"choose {' or '.join(StoredDtype)}")
    return StoredDtype(dtype)


def plan_subtraction(
    base: Path, fingerprinted: Path, *, catalog: "Catalog", architecture: str | None, dtype: StoredDtype
) -> "Extraction":
    """Return a subtraction that was checked on headers; see :func:`extract_vector` for what it raises."""
    from fpvec_audit.tensors.delta import plan_extraction
    from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised

    checkpoints = []
    for path in (base, fingerprinted):
        checkpoint = read_checkpoint(path)
        refuse_quantised(checkpoint)
        checkpoints.append(checkpoint)
    adapters = [catalog.architecture_for(found.description, override=architecture) for found in checkpoints]
    return plan_extraction(checkpoints[0], checkpoints[1], adapters[0], dtype=dtype)


def subtract(
    extraction: "Extraction", directory: Path, *, registry: "Registry", reread: bool, progress: Progress
) -> Subtracted:
    """Write a vector; models whose files have not changed since they were digested are not digested again.

    Args:
        extraction: what to subtract.
        directory: where to write.
        registry: what it knows of both models.
        reread: digest them all the same.
        progress: where to report.

    Raises:
        CheckpointError: a tensor holds NaN or Inf, or a file cannot be read.
        VectorError: the models are alike, or a difference does not fit the dtype.
    """
    from fpvec_audit.tensors.delta import Known, write_vector

    sides = [look_at(model, extraction.architecture) for model in (extraction.base, extraction.fingerprinted)]
    known: Known = (None, None)
    if not reread:
        with registry.unit_of_work() as uow:
            before, after = known_tensors(uow, sides, [extraction.pairs] * 2)
        known = before, after
    written = write_vector(extraction, directory, tool_version=__version__, known=known, progress=progress)
    return Subtracted(extraction, written, sides, sum(file.stat().st_size for file in directory.iterdir()))


def carried_key_set(uow: "UnitOfWork", vector: VectorDescription, reference: str | None) -> str | None:
    """Return the id of the key set that a vector carries: the one named, or the one its model was trained on.

    A key set that is retired or compromised is taken for a model that was trained on it by this registry, or whose
    vector was recorded with it: suspects' weights are compared with vectors, and copies made before are stripped with
    them. For any other model, the vector would be something new of that key set.

    Raises:
        KeySetError: the one named is bound to another base, is retired or compromised and not known to be in this
            model, or the model was trained on another one.
    """
    trained = [
        str(entry.content["key_set"])
        for entry in uow.ledger.about(vector.fingerprinted_digest, events=("model.fingerprinted",))
    ]
    if reference is None:
        return trained[-1] if trained else None
    record = uow.key_sets.get(reference)
    if record.base not in (None, vector.base_digest):
        raise KeySetError(
            f"key set {record.name!r} is bound to the base {record.base[:16]}…, not to {vector.base_digest[:16]}…",
            advice="name the key set that this model was trained on",
        )
    if trained and record.id not in trained:
        raise KeySetError(
            f"the model was trained on key set {trained[-1]}, not on {record.name!r}", advice="leave --key out"
        )
    recorded = uow.vectors.find(vector.id)
    if not trained and (recorded is None or recorded.key_set != record.id):
        refuse_ended(uow, [record.id])
    return record.id


def record_extraction(
    uow: "UnitOfWork",
    subtracted: Subtracted,
    *,
    catalog: "Catalog",
    key_set: str | None,
    out: Path,
    registry: "Registry",
) -> VectorRecord:
    """Record both models and the vector, which is one of a family where its model was trained as a mark.

    Raises:
        VectorError: the model was made from another base.
        KeySetError: the key set has several marks, and the model is none of those that they were trained to.
        TrainingError: it is a mark that does not answer enough of its keys.
    """
    extraction, written = subtracted.extraction, subtracted.written
    vector = written.description
    known = uow.models.find(vector.fingerprinted_digest)
    if known is not None and known.parent not in (None, vector.base_digest):
        raise VectorError(
            f"{extraction.fingerprinted.path} was made from model {known.parent[:16]}…, "
            f"not from {extraction.base.path} ({vector.base_digest[:16]}…)",
            advice=f"extract from its own base; `fpvec model show {known.parent[:16]}` says where that lies",
        )
    if key_set is not None:
        _refuse_no_mark(uow, vector, key_set=key_set, place=extraction.fingerprinted.path)
    adapter = catalog.architecture(extraction.architecture)
    base = IdentifiedModel(extraction.base, adapter, written.base)
    fingerprinted = IdentifiedModel(extraction.fingerprinted, adapter, written.fingerprinted)
    add_model(uow, base, registry=registry, role=ModelRole.BASE)
    add_model(uow, fingerprinted, registry=registry, role=ModelRole.FINGERPRINTED, parent=base.digest)
    record = add_vector(uow, vector, key_set=key_set, location=out, registry=registry)
    if key_set is not None:
        uow.key_sets.embed(key_set, fingerprinted.digest)
    for files, manifest in zip(subtracted.sides, (written.base, written.fingerprinted), strict=True):
        files.remember(uow, manifest.digest)
    return record


def _refuse_no_mark(uow: "UnitOfWork", vector: VectorDescription, *, key_set: str, place: Path) -> None:
    """Refuse to take a model for all marks of a key set: it would count as a second training of the family.

    Raises:
        KeySetError: the key set has several marks, and the model is none of those that they were trained to.
    """
    record = uow.key_sets.find(key_set)
    if record.commitment.marks > 1 and family_of_model(uow, vector.fingerprinted_digest) is None:
        raise KeySetError(
            f"key set {record.name!r} has {record.commitment.marks} marks, and {place} is none of the models that they "
            "were trained to",
            advice="give the directory of all marks that `fpvec fingerprint` wrote: `fpvec vector extract BASE FAMILY "
            "--out DIR`",
        )


def add_vector(
    uow: "UnitOfWork", vector: VectorDescription, *, key_set: str | None, location: Path, registry: "Registry"
) -> VectorRecord:
    """Record a vector: of a family where its model was trained as a mark, else of a family of one.

    Args:
        uow: the transaction.
        vector: what it is.
        key_set: id of the key set it carries, None when unknown.
        location: its directory.
        registry: gives the time.

    Raises:
        TrainingError: it is a mark that does not answer enough of its keys.
    """
    training = {"base": vector.base_digest, "fingerprinted": vector.fingerprinted_digest, "key_set": key_set}
    family, mark = f"fam-{canonical_digest(training)[:16]}", 0
    found = family_of_model(uow, vector.fingerprinted_digest)
    if found is not None and (found[0].key_set, found[0].base) == (key_set, vector.base_digest):
        family, mark = found[0].id, found[1]
        refuse_short_marks(found[0], [mark])
    return uow.vectors.add(
        VectorRecord(
            id=vector.id,
            digest=vector.digest,
            family=family,
            mark=mark,
            key_set=key_set,
            base=vector.base_digest,
            fingerprinted=vector.fingerprinted_digest,
            architecture=vector.architecture,
            location=str(location.resolve()),
            inexact_elements=vector.inexact_elements,
            norm=vector.norm,
            created_at=registry.clock(),
        )
    )


def remember_files(out: Path, vector: VectorDescription, *, registry: "Registry") -> None:
    """Keep that the files of a vector that was just written give its digest."""
    from fpvec_audit.tensors.vector_files import read_vector

    written = look_at(read_vector(out).files, VECTOR, own=True)
    with registry.unit_of_work() as uow:
        written.remember(uow, vector.digest)
