"""What a stamp command asks for: which copies of which models, with which vectors, into which directories.

All of it is settled on headers and names, before the first byte is written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import Vocabulary, checked_scale
from fpvec_audit.errors import UsageError, VectorError
from fpvec_audit.services.extract import find_vector
from fpvec_audit.services.models import IdentifiedModel

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.tensors.stamp import ScaledVector, StampPlan


@dataclass(frozen=True, slots=True)
class StampOrder:
    """One copy to make.

    Attributes:
        plan: what is added to what.
        adapter: architecture of the downstream.
        out: directory to make.
        licensee: for whom, empty for nobody in particular.
        vocabulary: policy on added rows.
        skip: roles that are left as they are.
        again: whether a model that carries the fingerprint may be stamped again.
        base: base that the downstream was compared with, None if it was not.
    """

    plan: "StampPlan"
    adapter: "ArchitectureAdapter"
    out: Path
    licensee: str
    vocabulary: Vocabulary
    skip: frozenset[TensorRole]
    again: bool
    base: IdentifiedModel | None = None

    @property
    def vectors(self) -> tuple[tuple[str, float], ...]:
        """(vector id, scale) in the order given."""
        return tuple((item.vector.description.id, item.scale) for item in self.plan.vectors)

    @property
    def policies(self) -> dict[str, Any]:
        """What the registry remembers of how it was done."""
        return {"vocabulary": self.vocabulary.value, "again": self.again, "skip": sorted(self.skip)}

    def stamp_id(self, downstream: str) -> str:
        """Return the identifier of what was asked."""
        return f"st-{canonical_digest(self.asked(downstream))[:16]}"

    def asked(self, downstream: str) -> dict[str, Any]:
        """Return everything that decides what a copy becomes; a role that is not skipped leaves no trace in it."""
        asked: dict[str, Any] = {
            "downstream": downstream,
            "vectors": [[vector, repr(scale)] for vector, scale in self.vectors],
            "licensee": self.licensee,
            "vocabulary": self.vocabulary.value,
        }
        return asked | ({"skip": sorted(self.skip)} if self.skip else {})


def vocabulary_policy(vocabulary: str) -> Vocabulary:
    """Return the policy of this name.

    Raises:
        UsageError: there is none.
    """
    if vocabulary not in list(Vocabulary):
        raise UsageError(f"unknown vocabulary policy {vocabulary!r}", advice=f"choose {' or '.join(Vocabulary)}")
    return Vocabulary(vocabulary)


def skipped_roles(names: Sequence[str]) -> frozenset[TensorRole]:
    """Return the tensor roles of these names.

    Raises:
        UsageError: there is no such role.
    """
    for name in names:
        if name not in list(TensorRole):
            raise UsageError(f"unknown tensor role {name!r}", advice=f"choose of {', '.join(TensorRole)}")
    return frozenset(TensorRole(name) for name in names)


def open_vector(text: str, *, registry: "Registry") -> "ScaledVector":
    """Open a vector given by id or directory, with or without a scale.

    Raises:
        UsageError: no such vector, or a scale that is none.
        VectorError: its directory holds something else.
    """
    from fpvec_audit.tensors.stamp import ScaledVector
    from fpvec_audit.tensors.vector_files import read_vector

    reference, scale = _split_scale(text)
    directory = Path(reference)
    if directory.is_dir():
        return ScaledVector(read_vector(directory), scale)
    with registry.unit_of_work() as uow:
        record = find_vector(uow, reference)
    vector = read_vector(Path(record.location))
    if vector.description.id != record.id:
        raise VectorError(
            f"{record.location} holds {vector.description.id}, not {record.id}", advice="give the vector's directory"
        )
    return ScaledVector(vector, scale)


def _split_scale(text: str) -> tuple[str, float]:
    reference, colon, ending = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return text, 1.0
    try:
        return reference, checked_scale(float(ending))
    except ValueError as error:
        raise UsageError(
            f"--vector {text}: {ending!r} is no scale", advice="write V or V:SCALE, such as 0.5"
        ) from error


def plan_order(
    path: Path,
    vectors: Sequence["ScaledVector"],
    *,
    catalog: "Catalog",
    architecture: str | None,
    vocabulary: Vocabulary,
    skip: frozenset[TensorRole],
    again: bool,
) -> StampOrder:
    """Check on headers that vectors fit a model; output and licensee come later.

    Raises:
        UsageError: no adapter for the model.
        CheckpointError: the model cannot be read or is quantised.
        VectorError: a vector does not fit.
    """
    from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised
    from fpvec_audit.tensors.stamp import plan_stamp

    checkpoint = read_checkpoint(path)
    refuse_quantised(checkpoint)
    adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    plan = plan_stamp(checkpoint, vectors, adapter, vocabulary=vocabulary, skip=skip)
    return StampOrder(plan, adapter, path, "", vocabulary, skip, again)


def copies(orders: Sequence[StampOrder], *, out: Path, licensees: Sequence[str]) -> list[StampOrder]:
    """Return one order per copy: DIR itself for one, DIR/<downstream name>[-<licensee>] for several.

    Raises:
        UsageError: two copies would have one directory.
    """
    pairs = [(order, licensee) for order in orders for licensee in (licensees or [""])]
    if len(pairs) == 1:
        return [replace(pairs[0][0], out=out, licensee=pairs[0][1])]
    taken: dict[str, str] = {}
    named = []
    for order, licensee in pairs:
        source = order.plan.target.path
        name = source.resolve().name + (f"-{_file_name(licensee)}" if licensee else "")
        asked = f"{source} for {licensee}" if licensee else str(source)
        if name in taken:
            raise UsageError(
                f"{taken[name]} and {asked} would both become {out / name}", advice="stamp them in two commands"
            )
        taken[name] = asked
        named.append(replace(order, out=out / name, licensee=licensee))
    return named


def _file_name(licensee: str) -> str:
    return re.sub(r"[^\w.-]+", "-", licensee).strip("-.") or "licensee"
