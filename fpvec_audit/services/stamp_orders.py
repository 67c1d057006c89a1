"""What a stamp command asks for: which copies of which models, with which vectors, into which directories.

All of it is settled on headers and names, before the first byte is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.carrier import SCHEME
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import Vocabulary, checked_scale
from fpvec_audit.errors import CheckpointError, UsageError, VectorError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.copy_names import copy_name
from fpvec_audit.services.extract import find_vector
from fpvec_audit.services.models import IdentifiedModel

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.tensors.adapter import PeftAdapter
    from fpvec_audit.tensors.carrier import CopyCarriers
    from fpvec_audit.tensors.stamp_plan import ScaledVector, StampPlan


class AdapterMode(StrEnum):
    """What becomes of the adapter of a downstream model that is a base and an adapter."""

    KEEP = "keep"
    """The base is stamped, the adapter lies beside it."""
    MERGE = "merge"
    """It is added to the base, together with the vectors."""


@dataclass(frozen=True, slots=True)
class AdaptedBase:
    """How a downstream model that is a base and an adapter is stamped.

    Attributes:
        adapter: the adapter.
        base: directory of its base, which the registry calls the downstream model.
        mode: what becomes of it.
        base_given: whether its base was given on the command line, not found by the adapter's configuration.
    """

    adapter: "PeftAdapter"
    base: Path
    mode: AdapterMode
    base_given: bool

    @property
    def trace(self) -> dict[str, str]:
        """What the stamp's identifier and record hold of it."""
        return {"adapter": self.mode.value, "adapter_digest": self.adapter.digest}

    @property
    def notes(self) -> tuple[str, ...]:
        """Which base is stamped, and what an owner who keeps the adapter apart should know, in sentences."""
        adapter = self.adapter
        how = "given with --base" if self.base_given else "named in its adapter_config.json"
        found = [f"the base of {adapter.path} that is stamped is {self.base}, {how}"]
        if self.mode is AdapterMode.KEEP and adapter.base_name:
            found.append(
                f"the kept adapter names {adapter.base_name}, which is not stamped: load the stamped model first and "
                f"put its directory `adapter` on it (PeftModel.from_pretrained(model, OUT/adapter))"
            )
        if self.mode is AdapterMode.KEEP and adapter.replaced:
            found.append(
                f"the kept adapter has {', '.join(adapter.replaced)} of its own, which take the stamped ones' place "
                f"when it is loaded; stamp with --adapter merge to have them stamped, too"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CarrierOrder:
    """The carriers of one copy, as they are asked for.

    Attributes:
        key_set: whose carriers.
        strength: ε of each.
        commitments: what the ledger holds of the owner's own, and of the licensee's.
        keys: the carriers.
    """

    key_set: str
    strength: float
    commitments: tuple[str, ...]
    keys: "CopyCarriers"

    @property
    def trace(self) -> dict[str, Any]:
        """What the stamp's identifier and record hold of it."""
        return {
            "carrier": {
                "scheme": SCHEME,
                "key_set": self.key_set,
                "strength": repr(self.strength),
                "commitments": list(self.commitments),
            }
        }


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
        adapted: adapter that belongs to the downstream, None for a whole model.
        family: id of the key set whose code word decides on the vectors, None where they were named.
        carrier: what is added beside the vectors, None for nothing.
    """

    plan: "StampPlan"
    adapter: "ArchitectureAdapter"
    out: Path
    licensee: str
    vocabulary: Vocabulary
    skip: frozenset[TensorRole]
    again: bool
    base: IdentifiedModel | None = None
    adapted: AdaptedBase | None = None
    family: str | None = None
    carrier: CarrierOrder | None = None

    @property
    def source(self) -> Path:
        """The directory that was named: the model's or the adapter's."""
        return self.plan.target.path if self.adapted is None else self.adapted.adapter.path

    @property
    def vectors(self) -> tuple[tuple[str, float], ...]:
        """(vector id, scale) in the order given."""
        return tuple((item.vector.description.id, item.scale) for item in self.plan.vectors)

    @property
    def stamps_given_base(self) -> bool:
        """Whether what is stamped is itself the base that was given: an adapter's, which names none that is here."""
        return self.adapted is not None and self.adapted.base_given

    @property
    def policies(self) -> dict[str, Any]:
        """What the registry remembers of how it was done."""
        policies = {"vocabulary": self.vocabulary.value, "again": self.again, "skip": sorted(self.skip)}
        return policies | self._asked_beside

    def stamp_id(self, downstream: str) -> str:
        """Return the identifier of what was asked."""
        return f"st-{canonical_digest(self.asked(downstream))[:16]}"

    def asked(self, downstream: str) -> dict[str, Any]:
        """Return everything that decides what a copy becomes; what was not asked for leaves no trace in it."""
        asked: dict[str, Any] = {
            "downstream": downstream,
            "vectors": [[vector, repr(scale)] for vector, scale in self.vectors],
            "licensee": self.licensee,
            "vocabulary": self.vocabulary.value,
        }
        skipped = {"skip": sorted(self.skip)} if self.skip else {}
        return asked | skipped | self._asked_beside

    @property
    def _asked_beside(self) -> dict[str, Any]:
        """What adapters and carriers add to that."""
        adapted = self.adapted.trace if self.adapted is not None else {}
        return adapted | (self.carrier.trace if self.carrier is not None else {})


def vocabulary_policy(vocabulary: str) -> Vocabulary:
    """Return the policy of this name.

    Raises:
        UsageError: there is none.
    """
    if vocabulary not in list(Vocabulary):
        raise UsageError(f"unknown vocabulary policy {vocabulary!r}", advice=f"choose {' or '.join(Vocabulary)}")
    return Vocabulary(vocabulary)


def adapter_mode(mode: str | None) -> AdapterMode | None:
    """Return the adapter mode of this name, None for none.

    Raises:
        UsageError: there is none of this name.
    """
    if mode is not None and mode not in list(AdapterMode):
        raise UsageError(f"unknown adapter mode {mode!r}", advice=f"choose --adapter {' or '.join(AdapterMode)}")
    return None if mode is None else AdapterMode(mode)


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
    from fpvec_audit.tensors.stamp_plan import ScaledVector
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
    mode: AdapterMode | None = None,
    base: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> StampOrder:
    """Check on headers that vectors fit a model, or an adapter's base; output and licensee come later.

    Args:
        path: directory of the model or adapter.
        vectors: what to add.
        catalog: plugins.
        architecture: adapter of the architecture to use instead of the detected one.
        vocabulary: policy on added rows.
        skip: roles that are left as they are.
        again: whether a model that carries the fingerprint may be stamped again.
        mode: what becomes of a LoRA adapter, None if it was not said.
        base: base of a LoRA adapter that does not name it.
        progress: where to report.

    Raises:
        UsageError: no architecture adapter for the model, or a LoRA adapter without a mode or a base.
        CheckpointError: the model cannot be read or is quantised, or the LoRA adapter cannot be used.
        VectorError: a vector does not fit.
    """
    from fpvec_audit.tensors.adapter_files import files_of_both
    from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised
    from fpvec_audit.tensors.stamp_plan import plan_stamp

    adapted = _adapted(path, mode, base, progress=progress)
    checkpoint = read_checkpoint(path if adapted is None else adapted.base)
    refuse_quantised(checkpoint)
    adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    merged = adapted.adapter if adapted is not None and adapted.mode is AdapterMode.MERGE else None
    plan = plan_stamp(checkpoint, vectors, adapter, vocabulary=vocabulary, skip=skip, merged=merged)
    if adapted is not None:
        files = files_of_both(checkpoint, adapted.adapter, keep=adapted.mode is AdapterMode.KEEP)
        plan = replace(plan, others=files)
    return StampOrder(plan, adapter, path, "", vocabulary, skip, again, adapted=adapted)


def _adapted(path: Path, mode: AdapterMode | None, base: Path | None, *, progress: Progress) -> AdaptedBase | None:
    """Return the adapter that lies at a path, None for anything else.

    Raises:
        UsageError: nobody said what is to become of it, or where its base is.
        CheckpointError: it cannot be used.
    """
    from fpvec_audit.tensors.adapter import is_adapter, read_adapter

    if not is_adapter(path):
        return None
    if mode is None:
        raise UsageError(
            f"{path} is an adapter, not a whole model",
            advice="stamp its base and keep the adapter beside it with --adapter keep, or let the two become one model "
            "with --adapter merge",
        )
    adapter = read_adapter(path, progress=progress)
    found, given = _base_of(adapter, base)
    return AdaptedBase(adapter, found, mode, given)


def _base_of(adapter: "PeftAdapter", given: Path | None) -> tuple[Path, bool]:
    """Return the directory of an adapter's base, and whether it is the one that was given.

    Raises:
        UsageError: the adapter names no directory that is here, and none was given.
        CheckpointError: what it names is an adapter, too.
    """
    from fpvec_audit.tensors.adapter import is_adapter

    name = adapter.base_name
    places = [adapter.path / name, Path(name)] if name and "\0" not in name else []
    named = next((place for place in places if place.is_dir()), None)
    found = named or given
    if found is None:
        problem = f"its base, {name!r}, is no directory here" if name else "its adapter_config.json names no base"
        raise UsageError(f"{adapter.path} is an adapter: {problem}", advice="give the base with --base DIR")
    if is_adapter(found):
        raise CheckpointError(
            f"{found}, the base of {adapter.path}, is an adapter, too", advice="merge it into its own base first"
        )
    return found, named is None


def with_vectors(order: StampOrder, vectors: "Sequence[ScaledVector]", *, licensee: str) -> StampOrder:
    """Return the same order with other vectors, for a licensee.

    Raises:
        VectorError: a vector does not fit.
    """
    from fpvec_audit.tensors.stamp_plan import plan_stamp

    old = order.plan
    if tuple(vectors) == old.vectors:
        return replace(order, licensee=licensee)
    new = plan_stamp(
        old.target, vectors, order.adapter, vocabulary=order.vocabulary, skip=order.skip, merged=old.merged
    )
    return replace(order, plan=replace(new, others=old.others), licensee=licensee)


def copies(orders: Sequence[StampOrder], *, out: Path) -> list[StampOrder]:
    """Return the orders, each with its place: DIR itself for one, DIR/<downstream name>[-<licensee>] for several.

    Raises:
        UsageError: two copies would have one directory.
    """
    if len(orders) == 1:
        return [replace(orders[0], out=out)]
    taken: dict[str, str] = {}
    named = []
    for order in orders:
        source, licensee = order.source, order.licensee
        name = copy_name(source, licensee)
        asked = f"{source} for {licensee}" if licensee else str(source)
        if name in taken:
            raise UsageError(
                f"{taken[name]} and {asked} would both become {out / name}", advice="stamp them in two commands"
            )
        taken[name] = asked
        named.append(replace(order, out=out / name))
    return named
