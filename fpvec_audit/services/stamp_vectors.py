"""Which vectors, and which carriers, each licensee's copy gets: the same for all, or those of a code word.

Guarded here: nobody gets a copy of a family without a word of its own, and of one downstream model a licensee gets one
copy. Two that differ would show, laid side by side, what in them is the licensee's mark and what is the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import UsageError, VectorError
from fpvec_audit.services.carriers import commit_carriers
from fpvec_audit.services.lineage import ancestry
from fpvec_audit.services.stamp_orders import CarrierOrder, StampOrder, open_vector

if TYPE_CHECKING:
    from fpvec_audit.domain.records import VectorRecord
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.tensors.stamp_plan import ScaledVector

MOST_STRENGTH = 0.5

CodeWords = Callable[["UnitOfWork", str, Sequence[str]], Mapping[str, tuple[int, ...]]]
"""(unit of work, family, licensees) → marks of each licensee by its name as it is recorded."""


@dataclass(frozen=True, slots=True)
class CopyVectors:
    """What one licensee's copy of each downstream model gets.

    Attributes:
        licensee: for whom, empty for nobody in particular.
        vectors: what is added.
        family: id of the key set whose code word this is, None for vectors that were named.
    """

    licensee: str
    vectors: tuple["ScaledVector", ...]
    family: str | None = None


def named_vectors(vectors: Sequence[str], licensees: Sequence[str], *, registry: "Registry") -> list[CopyVectors]:
    """Return the same vectors for everybody.

    Args:
        vectors: ids or directories, each with ``:SCALE`` where it is not 1.
        licensees: for whom; nobody in particular when empty.
        registry: where vectors are found.

    Raises:
        UsageError: no vector, an unknown one, a scale that is none, or a name that cannot be recorded.
        VectorError: a directory holds something else.
    """
    with registry.snapshot() as uow:
        for licensee in licensees:  # who gets a copy is recorded when it is made, which is late to refuse it
            if not uow.licensees.checked(licensee):
                raise UsageError(
                    "the name of a licensee is empty", advice="name whose copy it is, or leave --licensee out"
                )
    scaled = tuple(open_vector(text, registry=registry) for text in vectors)
    if not scaled:
        raise UsageError("no vector to stamp with", advice="give one with --vector, or a family with --family")
    return [CopyVectors(licensee, scaled) for licensee in licensees or [""]]


def words_of_licensees(uow: "UnitOfWork", family: str, licensees: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Return the code words that were assigned to licensees."""
    from fpvec_audit.services.code_words import code_words

    return code_words(uow, family, licensees, purpose="stamp")


def family_vectors(
    family: str, licensees: Sequence[str], *, registry: "Registry", code_words: CodeWords
) -> list[CopyVectors]:
    """Return the vectors of each licensee's code word.

    Args:
        family: name or id of a key set, or id of a vector family.
        licensees: names or whole ids.
        registry: where vectors are found.
        code_words: gives their words.

    Raises:
        UsageError: no licensee, one twice, a key set of one mark or without a code, or several trainings of it.
        UnknownNameError: no such family or licensee.
        KeySetError: a licensee's word is retired.
        VectorError: a mark has no vector, or its directory holds something else.
    """
    if not licensees:
        raise UsageError(
            f"--family {family}: every copy of a family is a licensee's", advice="name whose with --licensee NAME"
        )
    with registry.unit_of_work() as uow:
        words = code_words(uow, family, licensees)
        key_set, marks = _marks_of(uow, family)
    wanted = sorted({mark for word in words.values() for mark in word})
    missing = [mark for mark in wanted if mark not in marks]
    if missing:
        raise VectorError(
            f"mark {missing[0]} of {family} has no vector here", advice="extract the family: `fpvec vector extract`"
        )
    opened = {mark: open_vector(marks[mark].id, registry=registry) for mark in wanted}
    return [CopyVectors(name, tuple(opened[mark] for mark in word), key_set) for name, word in words.items()]


def _marks_of(uow: "UnitOfWork", family: str) -> "tuple[str, dict[int, VectorRecord]]":
    """Return a family's key set (id), and the vector of each mark as it was extracted first.

    Raises:
        UsageError: the keys were trained more than once, and nobody says which training is meant.
    """
    key_set = uow.code_words.key_set_of(family).id
    records = uow.vectors.list(key_set=key_set)
    trainings = list(dict.fromkeys(record.family for record in records))
    chosen = [training for training in trainings if training.startswith(family)] or trainings
    if len(chosen) > 1:
        raise UsageError(
            f"the keys of {family} were trained {len(chosen)} times: {', '.join(chosen)}",
            advice="name the training whose vectors are meant: --family fam-…",
        )
    marks: dict[int, VectorRecord] = {}
    for record in records:
        if record.family in chosen and Path(record.location).is_dir():
            marks.setdefault(record.mark, record)
    return key_set, marks


def with_carriers(orders: Sequence[StampOrder], strength: float, *, registry: "Registry") -> list[StampOrder]:
    """Return orders that also add the owner's carrier and the licensee's, both committed to in the ledger.

    Args:
        orders: copies to make.
        strength: ε, a share of the vectors' spread.
        registry: where the secret is kept.

    Raises:
        UsageError: a strength that is none, or vectors of no key set.
        RegistryError: the vault cannot give the secret.
    """
    from fpvec_audit.registry.repositories.lookup import normalised
    from fpvec_audit.tensors.carrier import CopyCarriers

    if not 0 < strength <= MOST_STRENGTH:
        raise UsageError(
            f"--carrier-strength {strength:g} is no share of a spread",
            advice=f"give one up to {MOST_STRENGTH}",
        )
    found = []
    with registry.unit_of_work() as uow:
        for key_set, own in _by_key_set(uow, orders).items():
            names = [normalised(order.licensee) for order in own]
            secret = commit_carriers(uow, key_set, [name for name in names if name], purpose="stamp")
            for order, name in zip(own, names, strict=True):
                keys = tuple(secret.key(whose) for whose in dict.fromkeys(["", name]))
                commitments = tuple(key.commitment for key in keys)
                carrier = CarrierOrder(key_set, strength, commitments, CopyCarriers(keys, strength))
                found.append((order, replace(order, carrier=carrier)))
    made = {id(order): new for order, new in found}
    return [made[id(order)] for order in orders]


def _by_key_set(uow: "UnitOfWork", orders: Sequence[StampOrder]) -> dict[str, list[StampOrder]]:
    """Return orders by the key set of their first vector, to which the registry counts a stamp.

    Raises:
        UsageError: a vector carries no key set.
    """
    found: dict[str, list[StampOrder]] = {}
    for order in orders:
        vector = order.plan.vectors[0].vector
        record = uow.vectors.find(vector.description.id)
        if record is None or record.key_set is None:
            raise UsageError(
                f"{vector.files.path} is not known to carry a key set, and a carrier's secret belongs to one",
                advice="extract the vector with --key, or stamp with --no-carrier",
            )
        found.setdefault(record.key_set, []).append(order)
    return found


def refuse_second_copy(uow: "UnitOfWork", order: StampOrder, downstream: str) -> None:
    """Refuse another copy of a downstream model for a licensee that has one, and a copy of what is one of this family.

    The same copy made again, to the same place or another, is not another.

    Args:
        uow: transaction.
        order: the copy.
        downstream: digest of the downstream model.

    Raises:
        VectorError: there is one that differs, or the downstream model carries marks of the family.
    """
    if order.family is None or order.again or uow.models.find(downstream) is None:
        return
    for model in ancestry(uow, downstream):
        for stamp in uow.stamps.of_model(model.id):
            vectors = (uow.vectors.find(identifier) for identifier, _ in stamp.vectors)
            if any(vector is not None and vector.key_set == order.family for vector in vectors):
                raise VectorError(
                    f"{model.name} carries marks of this family already, from stamp {stamp.id}",
                    advice="stamp the downstream it was made from, or use --again if you mean it",
                )
    where = {"key": order.family, "licensee": order.licensee, "downstream": downstream}
    own = order.stamp_id(downstream)
    other = next((stamp for stamp in uow.stamps.select(Selection(where=where)) if stamp.id != own), None)
    if other is not None:
        raise VectorError(
            f"{order.licensee!r} has another copy of {order.source} already: {other.id}, {other.location}",
            advice="two copies that differ show what is marked in them; give that one out again, or stamp with --again "
            "if you mean it",
        )
