"""Issue, list and open key sets.

The secret is drawn here and goes straight to the vault; what is returned shows it only where a reveal was asked for,
and a reveal is a ledger entry. No text of a key is ever part of an error, a log or a representation.
"""

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit import DEFAULT_ALPHA, NO_MATCH_CEILING
from fpvec_audit.domain.keys import (
    GRINDING_ALLOWANCE,
    SECRET_BYTES,
    SELF_ATTESTED,
    KeySet,
    KeySetSecret,
    KeySetSpecification,
    draw_key_set,
    restore_key_set,
)
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.statistics import hypergeometric_p_value, upper_bound
from fpvec_audit.services.encoding import REVERSIBLE_ENCODING, EncodingFilter, reversible_encoding

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

FEWEST_FOR_NO_MATCH = 13
"""With fewer issued keys even the two-sided 95 % interval of "none matched" reaches an FSR of 0.25."""


@dataclass(frozen=True, slots=True)
class RevealedKey:
    """One candidate in the clear; the representation hides it.

    Attributes:
        prompt: secret text.
        response: secret answer.
        issued: whether it is trained.
        mark: number of its mark, None for a decoy.
        burnt: whether it was shown to a suspect's API before.
    """

    prompt: str
    response: str
    issued: bool
    mark: int | None
    burnt: bool

    def __repr__(self) -> str:
        return f"RevealedKey(<redacted>, issued={self.issued})"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read: it holds the secret texts."""
        return {
            "prompt": self.prompt,
            "response": self.response,
            "issued": self.issued,
            "mark": self.mark,
            "burnt": self.burnt,
        }


@dataclass(frozen=True, slots=True)
class KeySetSummary:
    """A key set as it is listed and shown.

    Attributes:
        record: what the registry knows.
        burnt: number of burnt candidates.
        keys: candidates in the clear, issued ones first; None unless a reveal was asked for.
    """

    record: KeySetRecord
    burnt: int = 0
    keys: tuple[RevealedKey, ...] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown = _record_json(self.record) | {"burnt": self.burnt}
        return shown if self.keys is None else shown | {"keys": [key.to_json() for key in self.keys]}


@dataclass(frozen=True, slots=True)
class IssuedKeySet:
    """A key set that was just issued.

    Attributes:
        record: what the registry knows.
        warnings: what this size of set can never show, in sentences.
    """

    record: KeySetRecord
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return _record_json(self.record) | {"warnings": list(self.warnings)}


def issue_key_set(
    name: str,
    *,
    registry: "Registry",
    specification: KeySetSpecification,
    owner: str = "",
    licensee: str = "",
    base: Path | None = None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    encoding: Callable[[Path], EncodingFilter] = reversible_encoding,
) -> IssuedKeySet:
    """Draw, commit, assign and record a key set, graded self-attested.

    Args:
        name: unique name.
        registry: where it is recorded; its secret goes to the vault.
        specification: what to draw.
        owner: whose it is.
        licensee: whom it is issued for.
        base: model directory whose tokenizer every candidate must survive; None for no such filter.
        entropy: gives the random bytes of the secret.
        encoding: makes the filter from ``base``.

    Raises:
        UsageError: the name is taken or cannot be stored.
        KeySetError: the base's tokenizer lets too few candidates pass.
        CheckpointError: the base has no tokenizer.
        RegistryError: the registry cannot be written.
    """
    with registry.unit_of_work() as uow:
        uow.key_sets.refuse_taken_name(name)
    secret = KeySetSecret(entropy(SECRET_BYTES))
    rule = None if base is None else encoding(base)
    key_set = draw_key_set(
        secret,
        specification,
        accepts=None if rule is None else rule.accepts,
        filter_rule="" if rule is None else REVERSIBLE_ENCODING,
        filter_reference="" if rule is None else rule.reference,
    )
    record = KeySetRecord(
        id=f"ks-{key_set.commitment.digest[:16]}",
        name=name,
        owner=owner,
        licensee=licensee,
        commitment=key_set.commitment,
        grade=SELF_ATTESTED,
        chance="",
        base=None,
        created_at=registry.clock(),
    )
    with registry.unit_of_work() as uow:
        record = uow.key_sets.add(record, secret)
    return IssuedKeySet(record, size_warnings(specification.issued, specification.decoys, grade=record.grade))


def list_key_sets(*, registry: "Registry") -> tuple[KeySetSummary, ...]:
    """Return all key sets, oldest first, without secrets."""
    with registry.unit_of_work() as uow:
        return tuple(KeySetSummary(record, len(uow.key_sets.burnt(record.id))) for record in uow.key_sets.list())


def show_key_set(reference: str, *, registry: "Registry", reveal: bool = False) -> KeySetSummary:
    """Return one key set; with ``reveal`` its candidates in the clear, which the ledger records.

    Raises:
        UnknownNameError: there is no such key set.
        AmbiguousNameError: the beginning of several ids.
        RegistryError: the vault does not have the secret.
        KeySetError: the secret does not belong to the commitment.
    """
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(reference)
        burnt = uow.key_sets.burnt(record.id)
        keys = _revealed(_restored(uow, record, purpose="shown to its owner"), burnt) if reveal else None
    return KeySetSummary(record, len(burnt), keys)


def open_key_set(reference: str, *, registry: "Registry", purpose: str = "use") -> KeySet:
    """Return a key set with its candidates, checked against its commitment.

    Args:
        reference: name, id or the beginning of an id.
        registry: where it is recorded.
        purpose: what it is wanted for ("fingerprint", "audit au-…"), written to the ledger.

    Raises:
        UnknownNameError: there is no such key set.
        AmbiguousNameError: the beginning of several ids.
        RegistryError: the vault does not have the secret.
        KeySetError: the secret does not belong to the commitment.
    """
    with registry.unit_of_work() as uow:
        return _restored(uow, uow.key_sets.get(reference), purpose=purpose)


def size_warnings(issued: int, decoys: int, *, grade: str, alpha: str = DEFAULT_ALPHA) -> tuple[str, ...]:
    """Return what a key set of this size can or cannot ever show, in sentences.

    Args:
        issued: n.
        decoys: m.
        grade: a self-attested set pays the grinding allowance.
        alpha: significance level as decimal text.
    """
    warnings: list[str] = []
    if issued < FEWEST_FOR_NO_MATCH:
        never = upper_bound(0, issued) >= NO_MATCH_CEILING
        warnings.append(
            f"with {issued} issued keys "
            + (
                "a NO_MATCH can never be reached"
                if never
                else "a NO_MATCH needs every key silent and stays a close call"
            )
            + f": issue {FEWEST_FOR_NO_MATCH} or more"
        )
    needed = matches_needed(issued, decoys, grade=grade, alpha=alpha)
    if needed is None:
        warnings.append(
            f"with {issued} issued keys and {decoys} decoys {_graded(grade)} can never reach a MATCH at {alpha}: "
            "issue more of both"
        )
    elif grade == SELF_ATTESTED:
        warnings.append(
            f"self-attested: {needed} of the {issued} issued keys must match, and no decoy, for a MATCH at {alpha}"
        )
    return tuple(warnings)


def matches_needed(issued: int, decoys: int, *, grade: str, alpha: str = DEFAULT_ALPHA) -> int | None:
    """Return how many issued keys must match, with no decoy, for the exact test to reach α; None if all are too few."""
    allowance = GRINDING_ALLOWANCE if grade == SELF_ATTESTED else 1
    for matched in range(1, issued + 1):
        p_value = hypergeometric_p_value(
            candidates=issued + decoys, issued=issued, matched=matched, issued_matched=matched
        )
        if p_value * allowance <= Fraction(alpha):
            return matched
    return None


def _graded(grade: str) -> str:
    return "a self-attested set" if grade == SELF_ATTESTED else "this set"


def _restored(uow: "UnitOfWork", record: KeySetRecord, *, purpose: str) -> KeySet:
    secret = uow.vault.reveal(record.id, purpose=purpose)
    return restore_key_set(secret, record.commitment, chance=bytes.fromhex(record.chance))


def _revealed(key_set: KeySet, burnt: Collection[int]) -> tuple[RevealedKey, ...]:
    mark_of = {index: number for number, indices in enumerate(key_set.marks) for index in indices}
    return tuple(
        RevealedKey(
            candidate.prompt,
            candidate.response,
            candidate.index in mark_of,
            mark_of.get(candidate.index),
            candidate.index in burnt,
        )
        for candidate in (*key_set.issued, *key_set.decoys)
    )


def _record_json(record: KeySetRecord) -> dict[str, Any]:
    commitment = record.commitment
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "licensee": record.licensee,
        "root": commitment.root,
        "commitment": commitment.digest,
        "scheme": commitment.scheme,
        "grade": record.grade,
        "marks": commitment.marks,
        "issued": commitment.issued,
        "decoys": commitment.candidates - commitment.issued,
        "base": record.base,
        "created_at": record.created_at.isoformat(),
    }
