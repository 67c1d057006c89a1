"""Families of marks whose vectors are noise: what stamping and tracing them needs, without a training."""

from pathlib import Path

from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import ModelRecord, ModelRole, VectorRecord
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint
from tests.tiny import perturb


def make_family(place: Path, base: Path, *, marks: int, registry, catalog, name="acme", architecture="gpt2", size=1e-3):
    """Issue keys of several marks, and record a vector of noise for each mark; return the key set's id."""
    adapter = catalog.architectures[architecture]
    issued = issue_key_set(
        name, registry=registry, specification=KeySetSpecification(issued=6 * marks, decoys=112, marks=marks)
    )
    for mark in range(marks):
        fingerprinted = perturb(base, place / f"fp-{mark}", seed=100 + mark, size=size, exact=True)
        plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter)
        vector = place / f"mark-{mark:02}"
        vector.mkdir()
        description = write_vector(plan, vector, tool_version="0").description
        record_mark(description, vector, mark, key_set=issued.record.id, registry=registry)
    return issued.record.id


def record_mark(description, vector: Path, mark: int, *, key_set: str, registry) -> None:
    """Record a vector as that of a mark of a family, and the models it says it comes from."""
    with registry.unit_of_work() as uow:
        for digest, role, parent in (
            (description.base_digest, ModelRole.BASE, None),
            (description.fingerprinted_digest, ModelRole.FINGERPRINTED, description.base_digest),
        ):
            if uow.models.find(digest) is None:
                known = (description.architecture, "", parent, description.elements, registry.clock())
                uow.models.add(ModelRecord(digest, uow.models.free_name(f"{role.value}-{digest[:12]}"), role, *known))
        uow.vectors.add(
            VectorRecord(
                id=description.id,
                digest=description.digest,
                family=f"fam-{key_set[3:]}",
                mark=mark,
                key_set=key_set,
                base=description.base_digest,
                fingerprinted=description.fingerprinted_digest,
                architecture=description.architecture,
                location=str(vector),
                inexact_elements=description.inexact_elements,
                norm=description.norm,
                created_at=registry.clock(),
            )
        )
