"""Issue, list and open key sets.

A key set is issued at once, or committed first and issued when the chance that assigns it has come
(``services/witness.py``, ``services/beacon.py``); until then nobody, its owner included, knows which candidates will be
trained, and every use is refused.

The secret is drawn here and goes straight to the vault; what is returned shows it only where a reveal was asked for,
and a reveal is a ledger entry. No text of a key is ever part of an error, a log or a representation.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit import DEFAULT_ALPHA, NO_MATCH_CEILING
from fpvec_audit.domain.keys import (
    ANCHORED,
    GRINDING_ALLOWANCE,
    PENDING,
    SECRET_BYTES,
    SELF_ATTESTED,
    KeySet,
    KeySetSecret,
    KeySetSpecification,
    draw_key_set,
    restore_key_set,
)
from fpvec_audit.domain.marks import reading_note
from fpvec_audit.domain.records import KeySetEnd, KeySetRecord, KeySetState
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.domain.statistics import hypergeometric_p_value, upper_bound
from fpvec_audit.domain.witness import COMMITMENT, NO_CHANCE, WitnessRequest, printable
from fpvec_audit.errors import KeySetError, UsageError
from fpvec_audit.services.encoding import REVERSIBLE_ENCODING, EncodingFilter, reversible_encoding

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

ENDED = (KeySetState.RETIRED, KeySetState.COMPROMISED)
"""States in which nothing new is made with a key set."""
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
        end: how its owner ended its life, None where that has not happened.
    """

    record: KeySetRecord
    burnt: int = 0
    keys: tuple[RevealedKey, ...] | None = field(default=None, repr=False)
    end: KeySetEnd | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown = _record_json(self.record) | {"burnt": self.burnt, "ended": _end_json(self.end)}
        return shown if self.keys is None else shown | {"keys": [key.to_json() for key in self.keys]}


@dataclass(frozen=True, slots=True)
class IssuedKeySet:
    """A key set that was just issued, or committed and waits for chance.

    Attributes:
        record: what the registry knows.
        warnings: what this size of set can never show, in sentences.
        already: whether it was so before.
        request: file to be handed to a witness, empty where there is none.
        next: what to do next, empty where nothing is left to do.
    """

    record: KeySetRecord
    warnings: tuple[str, ...] = field(default=())
    already: bool = False
    request: str = ""
    next: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown = _record_json(self.record) | {"already": self.already}
        if self.request:
            shown["request"] = self.request
        if self.next:
            shown["next"] = self.next
        return shown | {"warnings": list(self.warnings)}


def issue_key_set(
    name: str,
    *,
    registry: "Registry",
    specification: KeySetSpecification,
    owner: str = "",
    licensee: str = "",
    base: Path | None = None,
    chance_source: str = NO_CHANCE,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    encoding: Callable[[Path], EncodingFilter] = reversible_encoding,
) -> IssuedKeySet:
    """Draw, commit and record a key set.

    Without a source of chance it is assigned at once and graded self-attested. With one it is ``pending`` until
    :func:`complete_key_set`.

    Args:
        name: unique name.
        registry: where it is recorded; its secret goes to the vault.
        specification: what to draw.
        owner: whose it is.
        licensee: whom it is issued for.
        base: model directory whose tokenizer every candidate must survive; None for no such filter.
        chance_source: where the chance will come from that assigns it; part of the commitment.
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
        chance_source=chance_source,
    )
    record = KeySetRecord(
        id=f"ks-{key_set.commitment.digest[:16]}",
        name=name,
        owner=owner,
        licensee=licensee,
        commitment=key_set.commitment,
        grade=SELF_ATTESTED if chance_source == NO_CHANCE else PENDING,
        chance="",
        base=None,
        created_at=registry.clock(),
    )
    with registry.unit_of_work() as uow:
        record = uow.key_sets.add(record, secret)
    grade = ANCHORED if chance_source.startswith("witness:") else SELF_ATTESTED
    warnings = size_warnings(specification.issued, specification.decoys, grade=grade)
    note = reading_note(specification)
    return IssuedKeySet(record, (*warnings, note) if note else warnings)


def waiting_key_set(name: str, *, registry: "Registry", chance_source: str) -> KeySetRecord | None:
    """Return the key set of this name if it waits for chance from this source, None if the name is free.

    Raises:
        UsageError: the name belongs to a key set that is issued, or waits for another source.
    """
    with registry.unit_of_work() as uow:
        record = uow.key_sets.named(name)
    if record is None:
        return None
    if record.grade != PENDING:
        raise UsageError(f"a key set named {record.name!r} exists already ({record.id})", advice="choose another NAME")
    if record.commitment.chance_source != chance_source:
        raise UsageError(
            f"key set {record.name!r} was committed to {record.commitment.chance_source}, not to {chance_source}",
            advice="that cannot be changed; choose another NAME",
        )
    return record


def complete_key_set(reference: str, *, registry: "Registry", proof: Mapping[str, Any]) -> IssuedKeySet:
    """Issue a key set that waits for chance, now that it has come. Doing so again changes nothing.

    Args:
        reference: name, id or the beginning of an id.
        registry: where it is recorded.
        proof: shows that the chance is from the committed source (``evidence.witness.prove_chance``).

    Raises:
        UnknownNameError: there is no such key set.
        EvidenceError: the proof does not fit the commitment, or does not verify.
        KeySetError: it was issued by another chance, or the secret does not belong to the commitment.
    """
    from fpvec_audit.evidence.witness import prove_chance

    with registry.unit_of_work() as uow:
        record = uow.key_sets.find(reference)
        proven = prove_chance(record.commitment, proof)
        if proven is None:
            raise KeySetError(f"key set {record.name!r} waits for no chance: it was issued when it was committed")
        if record.grade != PENDING:
            if uow.key_sets.chance_proof(record.id) == proof:
                return IssuedKeySet(record, already=True)
            raise KeySetError(
                f"key set {record.name!r} is issued already, by another proof of chance",
                advice="its assignment stays as it is; a new set needs a new name",
            )
        secret = uow.vault.reveal(record.id, purpose="assignment by chance")
        key_set = restore_key_set(secret, record.commitment, chance=proven.value)
        grade = ANCHORED if proven.anchored else SELF_ATTESTED
        record = uow.key_sets.complete(record.id, key_set, chance=proven.value, grade=grade, proof=proof)
    decoys = record.commitment.candidates - record.commitment.issued
    return IssuedKeySet(record, size_warnings(record.commitment.issued, decoys, grade=grade))


def witness_request(record: KeySetRecord) -> WitnessRequest:
    """Return what a witness is asked to sign about a key set: its commitment, and nothing that is secret."""
    return WitnessRequest(COMMITMENT, record.commitment.digest, printable(record.name))


def list_key_sets(*, registry: "Registry", selection: Selection = EVERYTHING) -> tuple[KeySetSummary, ...]:
    """Return key sets without secrets, oldest first if nothing else is asked for.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        records = uow.key_sets.select(selection)
        burnt = uow.candidates.burnt_counts(record.id for record in records)
        ends = {record.id: uow.key_sets.ended(record.id) for record in records if record.state in ENDED}
    return tuple(KeySetSummary(record, burnt.get(record.id, 0), end=ends.get(record.id)) for record in records)


def show_key_set(reference: str, *, registry: "Registry", reveal: bool = False, reason: str = "") -> KeySetSummary:
    """Return one key set; with ``reveal`` its candidates in the clear, which the ledger records.

    Args:
        reference: name, id or the beginning of an id.
        registry: where it is recorded.
        reveal: whether to show its candidates.
        reason: why they are shown, for the ledger.

    Raises:
        UnknownNameError: there is no such key set.
        AmbiguousNameError: the beginning of several ids.
        RegistryError: the vault does not have the secret.
        KeySetError: the secret does not belong to the commitment, or the set waits for chance.
    """
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(reference) if reveal else uow.key_sets.find(reference)
        burnt = uow.candidates.burnt(record.id)
        keys = _revealed(_restored(uow, record, purpose=_shown_for(reason)), burnt) if reveal else None
        end = uow.key_sets.ended(record.id)
    return KeySetSummary(record, len(burnt), keys, end)


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
        KeySetError: the secret does not belong to the commitment, or the set waits for chance.
    """
    with registry.unit_of_work() as uow:
        key_set = _restored(uow, uow.key_sets.get(reference), purpose=purpose)
    registry.redaction.know(candidate.prompt for candidate in key_set.candidates)
    return key_set


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


def _shown_for(reason: str) -> str:
    return f"shown to its owner: {' '.join(reason.split())}" if reason.split() else "shown to its owner"


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
        "state": record.state.value,
        "marks": commitment.marks,
        "keys_per_mark": commitment.issued // commitment.marks,
        "issued": commitment.issued,
        "decoys": commitment.candidates - commitment.issued,
        "base": record.base,
        "created_at": record.created_at.isoformat(),
        "chance_source": commitment.chance_source,
        "waits_for": _waits_for(record),
    }


def _end_json(end: KeySetEnd | None) -> dict[str, str] | None:
    return None if end is None else {"state": end.state.value, "at": end.at, "by": end.by, "reason": end.reason}


def _waits_for(record: KeySetRecord) -> str:
    if record.grade != PENDING:
        return ""
    return "its witness" if record.commitment.chance_source.startswith("witness:") else "its beacon"
