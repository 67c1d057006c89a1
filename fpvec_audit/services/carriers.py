"""Use case: whose carrier is in a suspect's weights? No model is run: two models are read once, for all licensees.

A secret for each key set lies in the vault, and every carrier that follows from it is committed to in the ledger before
a copy has it. The owner's own carrier is looked for first, then those of all licensees together.

Guarded here: the model that the suspect is compared with is chosen by how near it is, which no carrier decides, and is
still what was recorded before there were copies of it.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.carrier import SCHEME, CarrierSecret, spans_chosen
from fpvec_audit.domain.carrier_test import CarrierFinding, carrier_z, judged
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE
from fpvec_audit.errors import FpvecError, RegistryError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.ports import ArchitectureAdapter
    from fpvec_audit.domain.records import LedgerEntry, ModelRecord
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

CARRIER = "carrier"
"""Kind of the secret in the vault."""
COMMITTED = "carrier.committed"
"""Event of a carrier that may be used from now on; about its key set."""
MOST_RANKED = 20
"""Licensees in a document, the strongest first; those that are named are all under ``named``."""
MOST_REFERENCES = 8
"""Most downstream models that a suspect's distance is measured from."""
DOES_NOT_PROVE = (
    "a carrier in a model's weights means contact with the copy that got it, not who made that contact",
    "a licensee that is not found is not cleared: noise, an average of many copies or permuted neurons hide a carrier",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a suspect was compared with.

    Attributes:
        path: its directory.
        model: id in the registry, None for a directory that was given and is not registered.
        role: as it is registered (``downstream``, ``base``); ``given`` where it is not.
    """

    path: Path
    model: str | None
    role: str


@dataclass(frozen=True, slots=True)
class CarrierEvidence:
    """What the weights of a suspect say of the carriers of one key set.

    Attributes:
        suspect: its directory.
        key_set: id of the key set.
        owner: the owner's own carrier, which every copy has.
        licensees: the licensees', the likeliest first.
        reference: what the suspect was compared with.
        elements: how many weights were looked at.
        shared: how many the two models have in common.
        alpha: significance level.
        committed_at: when the secret was committed to, ISO 8601.
        remarks: what did not count and what to beware of, in sentences.
        seconds: wall time.
    """

    suspect: Path
    key_set: str
    owner: CarrierFinding
    licensees: tuple[CarrierFinding, ...]
    reference: Reference
    elements: int
    shared: int
    alpha: float
    committed_at: str
    remarks: tuple[str, ...]
    seconds: float

    @property
    def named(self) -> tuple[CarrierFinding, ...]:
        """The licensees whose carriers are there."""
        return tuple(finding for finding in self.licensees if finding.present)

    @property
    def found(self) -> bool:
        """Whether any carrier is there."""
        return self.owner.present or bool(self.named)

    @property
    def named_json(self) -> list[dict[str, Any]]:
        """One object for everybody who is named by a carrier."""
        return [{**finding.to_json(), "key_set": self.key_set, "rule": CARRIER} for finding in self.named]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; of those who are not named, the strongest few and how many."""
        others = [finding.z for finding in self.licensees if not finding.present]
        return {
            "suspect": str(self.suspect),
            "key_set": self.key_set,
            "verdict": "MATCH" if self.found else "INCONCLUSIVE",
            "owner": self.owner.to_json(),
            "named": self.named_json,
            "ranked": [finding.to_json() for finding in self.licensees[:MOST_RANKED]],
            "candidates": len(self.licensees),
            "largest_z_of_others": max(others, default=None),
            "reference": {
                "path": str(self.reference.path),
                "model": self.reference.model,
                "role": self.reference.role,
            },
            "elements": self.elements,
            "shared_elements": self.shared,
            "alpha": self.alpha,
            "scheme": SCHEME,
            "committed_at": self.committed_at,
            "grinding_allowance": GRINDING_ALLOWANCE,
            "remarks": list(self.remarks),
            "does_not_prove": list(DOES_NOT_PROVE),
            "seconds": self.seconds,
        }


def commit_carriers(
    uow: "UnitOfWork",
    key_set: str,
    licensees: Sequence[str],
    *,
    purpose: str,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> CarrierSecret:
    """Return the secret from which a key set's carriers follow, when the ledger holds what each of them will be.

    Args:
        uow: a unit of work that may write; what is to be stamped comes after it.
        key_set: whole id.
        licensees: names as they are recorded; the owner's own carrier is committed to with the first.
        purpose: what the secret is wanted for, written to the ledger.
        entropy: gives random bytes for a secret.

    Raises:
        RegistryError: the vault cannot give the secret, or it is not the one that was committed to.
    """
    known = commitments(uow, key_set)
    if known:
        secret = opened_secret(uow, key_set, known, purpose=purpose)
    else:
        secret = CarrierSecret(entropy(32))
        uow.vault.seal(CARRIER, key_set, secret.reveal(), key_set=key_set)
    for name in dict.fromkeys(["", *licensees]):
        if name not in known:
            content = {"licensee": name, "scheme": SCHEME, "commitment": secret.key(name).commitment}
            uow.ledger.append(COMMITTED, key_set, content)
    return secret


def key_sets_with_carriers(uow: "UnitOfWork") -> tuple[str, ...]:
    """Return the ids of the key sets of which some copy may have a carrier, oldest first."""
    from fpvec_audit.registry.ledger import Choice

    return tuple(dict.fromkeys(entry.subject for entry in uow.ledger.entries(chosen=Choice(events=(COMMITTED,)))))


def refuse_level(alpha: float) -> None:
    """Refuse a significance level at which nothing can be judged, or whatever is looked at would be called present.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"{alpha:g} is no significance level", advice="give one between 0 and 1, such as 1e-6")


def read_carriers(
    suspect: Path,
    *,
    key_set: str,
    registry: "Registry",
    catalog: "Catalog",
    against: Path | None = None,
    alpha: float = 1e-6,
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
    timer: Callable[[], float] = time.perf_counter,
) -> CarrierEvidence:
    """Look for the carriers of a key set's copies in a suspect's weights.

    Args:
        suspect: checkpoint directory.
        key_set: whole id of a key set of which copies with carriers were made.
        registry: where carriers, downstream models and the base are recorded.
        catalog: plugins.
        against: model without carriers to compare with; the nearest of what is recorded when None.
        alpha: significance level.
        architecture: adapter to use instead of the detected one.
        progress: where to report.
        timer: gives seconds from any beginning.

    Raises:
        UsageError: the key set has no carriers, nothing to compare with is at hand, or a level that is none.
        CheckpointError: a model cannot be read, or is of another shape.
        RegistryError: the vault cannot give the secret, or it is not the one that was committed to.
    """
    from fpvec_audit.tensors import carrier_reading
    from fpvec_audit.tensors.index import read_checkpoint

    refuse_level(alpha)
    started = timer()
    adapter = catalog.architecture_for(read_checkpoint(suspect).description, override=architecture)
    with registry.unit_of_work() as uow:
        known = commitments(uow, key_set)
        if not known:
            raise UsageError(
                f"no copy of {key_set} has a carrier", advice="carriers are added by `fpvec stamp … --carrier`"
            )
        secret = opened_secret(uow, key_set, known, purpose=f"carriers of {suspect}")
    reference, remarks = _reference(suspect, key_set, adapter, registry=registry, against=against, progress=progress)
    names = list(known)
    shared = carrier_reading.shared_elements_of(reference.path, suspect, adapter)
    share = min(1.0, carrier_reading.most_products() / (len(names) * shared))
    found = carrier_reading.read_carriers(
        reference.path,
        suspect,
        adapter,
        [secret.key(name).cipher for name in names],
        chosen=None if share == 1 else spans_chosen(secret, share),
        progress=progress,
    )
    scores = {name: carrier_z(product, found.square) for name, product in zip(names, found.products, strict=True)}
    owner = scores.pop("")
    own, others = judged(owner, scores, alpha=alpha, allowance=GRINDING_ALLOWANCE)
    alike = ("the suspect's weights are those of the model it was compared with",) if not found.square else ()
    return CarrierEvidence(
        suspect=suspect,
        key_set=key_set,
        owner=own,
        licensees=others,
        reference=reference,
        elements=found.elements,
        shared=found.shared,
        alpha=alpha,
        committed_at=known[""].at,
        remarks=(*remarks, *found.remarks, *alike),
        seconds=timer() - started,
    )


def commitments(uow: "UnitOfWork", key_set: str) -> dict[str, "LedgerEntry"]:
    """Return licensee → entry of the carriers of a key set that may have been used, the owner's own first."""
    entries = uow.ledger.about(key_set, events=(COMMITTED,))
    return {str(entry.content.get("licensee", "")): entry for entry in entries}


def opened_secret(uow: "UnitOfWork", key_set: str, known: "dict[str, LedgerEntry]", *, purpose: str) -> CarrierSecret:
    """Return the secret of a key set's carriers, which the ledger's commitments were made to.

    Raises:
        RegistryError: the vault cannot give it, or it is another one.
    """
    secret = CarrierSecret(uow.vault.unseal(CARRIER, key_set, purpose=purpose))
    for name, entry in known.items():
        if entry.content.get("commitment") != secret.key(name).commitment:
            raise RegistryError(
                f"the vault's carrier secret of {key_set} is not the one that ledger entry {entry.serial} commits to",
                advice="run `fpvec registry verify`, and restore a backup",
            )
    return secret


def _reference(
    suspect: Path,
    key_set: str,
    adapter: "ArchitectureAdapter",
    *,
    registry: "Registry",
    against: Path | None,
    progress: Progress,
) -> tuple[Reference, tuple[str, ...]]:
    """Return the nearest model without carriers, and what was passed over, in sentences.

    Raises:
        UsageError: none is at hand.
    """
    from fpvec_audit.tensors.distance import relative_distance
    from fpvec_audit.tensors.index import read_checkpoint

    if against is not None:
        return _given(against, adapter, registry=registry, progress=progress), ()
    remarks: list[str] = []
    near: list[tuple[float, Reference]] = []
    theirs = read_checkpoint(suspect)
    for model in _without_carriers(registry, key_set):
        path = Path(model.location)
        try:
            if _digest_of(path, adapter, registry=registry, progress=progress) != model.id:
                remarks.append(f"{model.name} is not compared with: {path} is not what was recorded any more")
                continue
            distance = relative_distance(read_checkpoint(path), theirs, adapter, progress=progress)
        except FpvecError as error:
            remarks.append(f"{model.name} is not compared with: {error.problem}")
            continue
        near.append((distance, Reference(path, model.id, model.role.value)))
    if not near:
        why = f" ({'; '.join(remarks)})" if remarks else ""
        raise UsageError(
            f"neither a downstream model that was stamped nor the base is at hand to compare {suspect} with{why}",
            advice="give one with --against DIR",
        )
    return min(near, key=lambda item: item[0])[1], tuple(remarks)


def _given(against: Path, adapter: "ArchitectureAdapter", *, registry: "Registry", progress: Progress) -> Reference:
    """Return a model that was named, as the registry knows it.

    Raises:
        UsageError: it is a stamped copy, whose own carriers would be taken for the lack of the suspect's.
    """
    digest = _digest_of(against, adapter, registry=registry, progress=progress)
    with registry.snapshot() as uow:
        stamps, model = uow.stamps.of_model(digest), uow.models.find(digest)
    if stamps:
        raise UsageError(
            f"{against} is a stamped copy itself, by {stamps[0].id}", advice="compare with the model that was stamped"
        )
    return Reference(against, None, "given") if model is None else Reference(against, model.id, model.role.value)


def _without_carriers(registry: "Registry", key_set: str) -> "list[ModelRecord]":
    """Return the downstream models of a key set's stamps, newest first, and its base; what is stamped or gone not."""
    from fpvec_audit.domain.selection import Selection

    with registry.snapshot() as uow:
        stamps = uow.stamps.select(Selection(where={"key": key_set}, sort="-created"))
        wanted = list(dict.fromkeys(stamp.downstream for stamp in stamps))
        stamped = uow.stamps.of_models(wanted)
        wanted = [identifier for identifier in wanted if identifier not in stamped][:MOST_REFERENCES]
        wanted += [vector.base for vector in uow.vectors.list(key_set=key_set)[:1]]
        found = [uow.models.find(identifier) for identifier in dict.fromkeys(wanted)]
    return [model for model in found if model is not None and model.location and Path(model.location).is_dir()]


def _digest_of(path: Path, adapter: "ArchitectureAdapter", *, registry: "Registry", progress: Progress) -> str:
    """Return a model's digest; its bytes are not read again where they have not changed since they were digested."""
    from fpvec_audit.services.digested import look_at
    from fpvec_audit.tensors.digest import canonical_digest
    from fpvec_audit.tensors.index import read_checkpoint

    checkpoint = read_checkpoint(path)
    files = look_at(checkpoint, adapter.name)
    with registry.snapshot() as uow:
        known = files.known_digest(uow)
    if known is None:
        known = canonical_digest(checkpoint, adapter, progress=progress)
        with registry.unit_of_work() as uow:
            files.remember(uow, known)
    return known
