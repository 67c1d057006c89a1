"""Use case: extract the vectors of a family of marks, all of them or none.

Refused before anything is read: a family with a mark that does not answer enough of its keys.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import UsageError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.extract import ExtractedVector
from fpvec_audit.services.family import KnownFamily, family_of_model, mark_directories, refuse_short_marks
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.subtraction import (
    carried_key_set,
    plan_subtraction,
    record_extraction,
    remember_files,
    stored_dtype,
    subtract,
)

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class ExtractedFamily:
    """The vectors of a family that were just extracted and recorded.

    Attributes:
        out: directory that holds one of each mark.
        family: what they belong to.
        vectors: by mark.
        seconds: wall time.
    """

    out: Path
    family: KnownFamily
    vectors: tuple[ExtractedVector, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "family": self.family.id,
            "key_set": self.family.key_set,
            "base_digest": self.family.base,
            "marks": [{"mark": mark, **vector.to_json()} for mark, vector in enumerate(self.vectors)],
            "bytes": sum(vector.bytes for vector in self.vectors),
            "seconds": self.seconds,
        }


def extract_family(
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
) -> ExtractedFamily:
    """Subtract the base from every mark of a family, write the vectors to directories of a new one, and record them.

    Args:
        base: checkpoint directory of the base.
        fingerprinted: directory of the family, as ``fpvec fingerprint`` wrote it.
        out: directory of the vectors; must not exist.
        registry: where to record.
        catalog: plugins.
        key_set: name or id of the key set they carry; as registered when None.
        dtype: ``same`` as the checkpoint, or ``float32``.
        architecture: adapter to use instead of the detected one.
        reread: digest the models although their files have not changed since they were digested.
        progress: where to report.

    Raises:
        TrainingError: a mark does not answer enough of its keys; it is named.
        UsageError: the directory is no family that this registry knows, or an unknown dtype or key set.
        CheckpointError: a model cannot be read, is quantised, or holds NaN or Inf.
        VectorError: a mark is not what was trained, or of another base.
        KeySetError: the key set is bound to another base, or none of this family.
        OutputError: ``out`` exists, or the disk is full.
    """
    from fpvec_audit.tensors.staging import refuse_existing, sole_finisher, staged_directory

    started = time.perf_counter()
    refuse_existing(out)
    places = mark_directories(fingerprinted)
    family = _known(fingerprinted, places, registry)
    refuse_short_marks(family, range(len(places)))
    plans = [
        plan_subtraction(base, place, catalog=catalog, architecture=architecture, dtype=stored_dtype(dtype))
        for place in places
    ]
    detail = {"base": str(base), "fingerprinted": str(fingerprinted), "out": str(out)}
    needed = sum(plan.layout.bytes for plan in plans)
    with (
        recorded_job(registry, "extract", detail),
        sole_finisher() as claim,
        staged_directory(out, needed, progress=progress) as staging,
    ):
        written = []
        for place, plan in zip(places, plans, strict=True):
            target = staging / place.name
            target.mkdir()
            written.append(subtract(plan, target, registry=registry, reread=reread, progress=progress))
        claim([out])
        with registry.unit_of_work() as uow:
            for mark, (place, vector) in enumerate(zip(places, written, strict=True)):
                description = vector.written.description
                _check(place, description.fingerprinted_digest, family.marks[mark])
                carried = carried_key_set(uow, description, key_set)
                record_extraction(
                    uow, vector, catalog=catalog, key_set=carried, out=out / place.name, registry=registry
                )
    vectors = []
    for place, vector in zip(places, written, strict=True):
        description = vector.written.description
        remember_files(out / place.name, description, registry=registry)
        vectors.append(ExtractedVector(out / place.name, description, family.key_set, vector.bytes, (), 0.0))
    return ExtractedFamily(out, family, tuple(vectors), time.perf_counter() - started)


def _known(fingerprinted: Path, places: tuple[Path, ...], registry: "Registry") -> KnownFamily:
    """Return the family that lies in a directory, by where its models were registered."""
    with registry.snapshot() as uow:
        models = [uow.models.lying_at(str(place.resolve())) for place in places]
        found = [None if model is None else family_of_model(uow, model.id) for model in models]
    families = {item[0].id: item[0] for item in found if item is not None}
    if len(families) != 1 or None in found:
        raise UsageError(
            f"{fingerprinted} holds {len(places)} marks, but this registry knows no family there",
            advice="give the --out of `fpvec fingerprint` as it wrote it, and the --home that it used",
        )
    (family,) = families.values()
    if len(places) != len(family.marks):
        raise UsageError(
            f"{fingerprinted} holds {len(places)} of the {len(family.marks)} marks of family {family.id}",
            advice="give the --out of `fpvec fingerprint` as it wrote it",
        )
    return family


def _check(place: Path, found: str, trained: str) -> None:
    if found != trained:
        raise VectorError(
            f"{place} is model {found[:16]}…, and the mark was trained to {trained[:16]}…",
            advice="give the --out of the family's last training as `fpvec fingerprint` wrote it",
        )
