"""Key sets without their secrets, their marks and their candidates."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from shlex import quote
from typing import Any

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import PENDING, Commitment, KeySet, KeySetSecret, leaf_digest, restore_key_set
from fpvec_audit.domain.records import KeySetEnd, KeySetRecord, KeySetState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.domain.witness import BeaconSource, chance_source
from fpvec_audit.errors import KeySetError, RegistryError, UnknownNameError, UsageError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.licensees import LICENSEES, LicenseeRepository
from fpvec_audit.registry.repositories.listing import Equal, Listing, in_parts
from fpvec_audit.registry.repositories.lookup import Directory, checked_name, checked_text, normalised, refuse_taken
from fpvec_audit.registry.repositories.models import MODELS
from fpvec_audit.registry.tables import CandidateRow, KeySetRow, LedgerRow, MarkRow
from fpvec_audit.registry.vault import Vault

ISSUED, COMMITTED = "key_set.issued", "key_set.committed"
ENDS = {KeySetState.RETIRED: "key_set.retired", KeySetState.COMPROMISED: "key_set.compromised"}
"""Ledger event of each way in which a key set's life ends by its owner's word."""
KEY_SETS = Directory("key set", KeySetRow.id, KeySetRow.name, prefix="ks-", listing="fpvec key list")
_SUGGESTED_FROM = 1000


def owner_named(session: Session, name: str) -> str:
    """Return an owner's name as it is stored.

    Raises:
        UnknownNameError: no key set has this owner; the nearest are suggested.
    """
    owner = normalised(name)
    if session.scalar(select(KeySetRow.id).where(KeySetRow.owner == owner).limit(1)) is None:
        known = session.scalars(select(KeySetRow.owner).where(KeySetRow.owner != "").distinct().limit(_SUGGESTED_FROM))
        raise UnknownNameError("owner", name, known.all(), listing="fpvec key list")
    return owner


def key_sets_of(session: Session, owner: str) -> Select[str]:
    """Return the statement for the ids of an owner's key sets, by which other lists are filtered.

    Raises:
        UnknownNameError: no key set has this owner.
    """
    return select(KeySetRow.id).where(KeySetRow.owner == owner_named(session, owner))


def key_sets_for(session: Session, licensee: str) -> Select[str]:
    """Return the statement for the ids of the key sets issued to a licensee, by which other lists are filtered.

    Raises:
        UnknownNameError: there is no such licensee.
    """
    return select(KeySetRow.id).where(KeySetRow.licensee_id == LICENSEES.resolve(session, licensee))


LISTING = Listing(
    KEY_SETS,
    KeySetRow,
    KeySetRow.created_at,
    filters={
        "owner": Equal(KeySetRow.owner, owner_named),
        "licensee": Equal(KeySetRow.licensee_id, LICENSEES.resolve),
        "base": Equal(KeySetRow.base_id, MODELS.resolve),
        "state": Equal(KeySetRow.state),
    },
    orders={"name": (KeySetRow.name,)},
)


class KeySetRepository:
    """Key sets by name or id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where issues, bindings and burns are recorded.
        vault: where the secret goes.
        licensees: whom a key set is issued for.
        clock: gives the time a candidate was burnt.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        *,
        vault: Vault,
        licensees: LicenseeRepository,
        clock: Callable[[], datetime],
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._vault = vault
        self._licensees = licensees
        self._clock = clock

    def refuse_taken_name(self, name: str) -> None:
        """Check a name before work is put into a key set.

        Raises:
            UsageError: it cannot be stored, or exists already.
        """
        refuse_taken(self._session, KEY_SETS, checked_name("key set", name))

    def add(self, record: KeySetRecord, secret: KeySetSecret) -> KeySetRecord:
        """Record a key set; its secret goes to the vault, its leaves to the candidates.

        One that waits for chance (grade ``pending``) is recorded as committed; its candidates follow with
        :meth:`complete`, when it is known which of them are issued.

        Raises:
            UsageError: the name cannot be stored, or exists already.
            KeySetError: the secret does not belong to the record's commitment.
        """
        key_set = restore_key_set(secret, record.commitment, chance=bytes.fromhex(record.chance))
        record = replace(
            record,
            name=checked_name("key set", record.name),
            owner=checked_text("owner", record.owner),
            licensee=checked_text("licensee", record.licensee),
            state=KeySetState.PENDING if record.grade == PENDING else KeySetState.ISSUED,
        )
        refuse_taken(self._session, KEY_SETS, record.name)
        self._session.add(
            KeySetRow(
                id=record.id,
                name=record.name,
                owner=record.owner,
                licensee_id=self._licensees.ensure(record.licensee),
                commitment=record.commitment.to_json(),
                commitment_digest=record.commitment.digest,
                root=record.commitment.root,
                grade=record.grade,
                state=record.state.value,
                chance=record.chance,
                base_id=record.base,
                created_at=record.created_at,
            )
        )
        self._session.flush()
        if record.grade != PENDING:
            self._add_candidates(record.id, key_set)
        self._vault.keep(record.id, secret)
        self._ledger.append(COMMITTED if record.grade == PENDING else ISSUED, record.id, _issue_content(record))
        return record

    def complete(
        self, identifier: str, key_set: KeySet, *, chance: bytes, grade: str, proof: Mapping[str, Any]
    ) -> KeySetRecord:
        """Issue a key set that waited for chance.

        Args:
            identifier: whole id of the key set.
            key_set: the set as the chance assigns it.
            chance: R.
            grade: what the proof makes of it.
            proof: what shows where R came from, kept in the ledger (:meth:`chance_proof`).

        Raises:
            KeySetError: it is issued already, or the set is another one.
        """
        row = self._row(identifier)
        if row.grade != PENDING:
            raise KeySetError(f"key set {row.name!r} is issued already", advice="its assignment stays as it is")
        if row.state != KeySetState.PENDING.value:
            raise KeySetError(f"key set {row.name!r} is {row.state}: it is not issued any more", advice="issue another")
        if key_set.commitment.digest != row.commitment_digest:
            raise KeySetError(f"this is not the key set that was committed as {row.name!r}")
        row.grade, row.state, row.chance = grade, KeySetState.ISSUED.value, chance.hex()
        self._session.flush()
        self._add_candidates(identifier, key_set)
        record = self._record(row)
        content = _issue_content(record) | {"proof": dict(proof), "statement": ""}
        if "envelope" in proof:
            content["statement"] = canonical_digest(proof["envelope"])
        self._ledger.append(ISSUED, identifier, content)
        return record

    def chance_proof(self, identifier: str) -> dict[str, Any] | None:
        """Return what shows where a key set's chance came from, as it stands in the ledger; None if it has none.

        Args:
            identifier: whole id of the key set.
        """
        statement = select(LedgerRow.content).where(LedgerRow.subject == identifier, LedgerRow.event == ISSUED)
        for content in self._session.scalars(statement.order_by(LedgerRow.serial)):
            proof = json.loads(content).get("proof")
            return dict(proof) if proof is not None else None
        return None

    def get(self, reference: str) -> KeySetRecord:
        """Return an issued key set by name, id or the beginning of an id.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
            KeySetError: it waits for the chance that assigns it.
            RegistryError: the recorded commitment was altered.
        """
        record = self.find(reference)
        if record.grade == PENDING:
            raise _waiting(record)
        return record

    def find(self, reference: str) -> KeySetRecord:
        """Return a key set by name, id or the beginning of an id, whether it is issued or waits for chance.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
            RegistryError: the recorded commitment was altered.
        """
        return self._record(self._row(KEY_SETS.resolve(self._session, reference)))

    def named(self, name: str) -> KeySetRecord | None:
        """Return the key set of exactly this name, None if there is none."""
        row = self._session.scalars(select(KeySetRow).where(KeySetRow.name == normalised(name))).one_or_none()
        return None if row is None else self._record(row)

    def select(self, selection: Selection) -> tuple[KeySetRecord, ...]:
        """Return the key sets of a selection: by ``owner``, ``licensee``, ``base`` and ``state``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        rows = LISTING.rows(self._session, selection)
        licensees = self._licensees.names_of(row.licensee_id for row in rows)
        return tuple(_key_set(row, "" if row.licensee_id is None else licensees[row.licensee_id]) for row in rows)

    def names(self, identifiers: Iterable[str]) -> dict[str, str]:
        """Return names of key sets by id."""
        return {
            identifier: name
            for part in in_parts(sorted(set(identifiers)))
            for identifier, name in self._session.execute(
                select(KeySetRow.id, KeySetRow.name).where(KeySetRow.id.in_(part))
            )
        }

    def burnt_counts(self, identifiers: Iterable[str]) -> dict[str, int]:
        """Return how many candidates of key sets are burnt, by id; sets without a burnt one are missing."""
        counts: dict[str, int] = {}
        for part in in_parts(sorted(set(identifiers))):
            statement = select(CandidateRow.key_set_id, func.count()).where(
                CandidateRow.key_set_id.in_(part), CandidateRow.burnt_at.is_not(None)
            )
            counts |= dict(self._session.execute(statement.group_by(CandidateRow.key_set_id)).all())
        return counts

    def list(self) -> tuple[KeySetRecord, ...]:
        """Return all key sets, oldest first."""
        rows = self._session.scalars(select(KeySetRow).order_by(KeySetRow.created_at, KeySetRow.id))
        return tuple(self._record(row) for row in rows)

    def bind(self, identifier: str, model_id: str, content: Mapping[str, Any] | None = None) -> KeySetRecord:
        """Bind a key set to the base model that it will be trained into.

        Args:
            identifier: whole id of the key set.
            model_id: id of a registered base.
            content: what else the ledger shall say (tokenizer and template digests, settings).

        Raises:
            KeySetError: it is bound to another base already.
        """
        row = self._row(identifier)
        if row.base_id not in (None, model_id):
            raise KeySetError(
                f"key set {row.name!r} is bound to the base {row.base_id[:16]}…, not to {model_id[:16]}…",
                advice="issue a key set of its own for every base: `fpvec key issue NAME`",
            )
        row.base_id = model_id
        self._session.flush()
        self._ledger.append("key_set.bound", identifier, {**(content or {}), "base": model_id, "root": row.root})
        return self._record(row)

    def embed(self, identifier: str, model_id: str) -> KeySetRecord:
        """Record that a model carries a key set: its training ended well, or a vector of it was extracted.

        Only an issued set moves on; for one that is embedded already, or at its end, there is nothing to record.

        Args:
            identifier: whole id of the key set.
            model_id: id of the registered model.
        """
        row = self._row(identifier)
        if row.state == KeySetState.ISSUED.value:
            row.state = KeySetState.EMBEDDED.value
            self._session.flush()
            self._ledger.append("key_set.embedded", identifier, {"model": model_id})
        return self._record(row)

    def end(self, identifier: str, state: KeySetState, *, reason: str, by: str) -> KeySetRecord:
        """End the life of a key set by its owner's word, for good.

        Args:
            identifier: whole id of the key set.
            state: ``retired`` or ``compromised``.
            reason: why, for the ledger.
            by: who says so.

        Raises:
            UsageError: the reason is missing or cannot be stored.
            KeySetError: its life ended already; only a retired set can still become compromised.
        """
        reason = checked_text("reason", reason)
        if not reason:
            raise UsageError("the reason is empty", advice="say why with --reason, it goes to the ledger")
        row = self._row(identifier)
        before = KeySetState(row.state)
        if before in ENDS and (before, state) != (KeySetState.RETIRED, KeySetState.COMPROMISED):
            raise KeySetError(f"key set {row.name!r} is {before.value} already", advice="that is for good")
        row.state = state.value
        self._session.flush()
        self._ledger.append(ENDS[state], identifier, {"reason": reason, "by": by, "before": before.value})
        return self._record(row)

    def ended(self, identifier: str) -> KeySetEnd | None:
        """Return how the life of a key set ended, as it stands in the ledger; None where its owner has not ended it.

        Args:
            identifier: whole id of the key set.
        """
        statement = select(LedgerRow).where(LedgerRow.subject == identifier, LedgerRow.event.in_(ENDS.values()))
        row = self._session.scalars(statement.order_by(LedgerRow.serial.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        said = json.loads(row.content)
        state = next(state for state, event in ENDS.items() if event == row.event)
        return KeySetEnd(state, row.at, said["by"], said["reason"])

    def burn(self, identifier: str, indices: Iterable[int], *, where: str) -> None:
        """Mark candidates as burnt: they were shown to somebody. Those that are already keep their first date.

        With the last of its issued candidates the set itself is burnt.

        Args:
            identifier: whole id of the key set.
            indices: which candidates.
            where: id of the audit or reveal in which it happened.
        """
        wanted = sorted(set(indices) - self.burnt(identifier))
        if not wanted:
            return
        self._session.execute(
            update(CandidateRow)
            .where(CandidateRow.key_set_id == identifier, CandidateRow.position.in_(wanted))
            .values(burnt_at=self._clock(), burnt_in=where)
        )
        self._ledger.append("key_set.burnt", identifier, {"candidates": wanted, "where": where})
        row = self._row(identifier)
        if row.state in (KeySetState.ISSUED.value, KeySetState.EMBEDDED.value) and not self._has_fresh(identifier):
            row.state = KeySetState.BURNT.value
            self._session.flush()
            self._ledger.append("key_set.used_up", identifier, {"where": where})

    def burnt(self, identifier: str) -> frozenset[int]:
        """Return the indices of burnt candidates."""
        statement = select(CandidateRow.position).where(
            CandidateRow.key_set_id == identifier, CandidateRow.burnt_at.is_not(None)
        )
        return frozenset(self._session.scalars(statement))

    def burns(self, identifier: str) -> dict[int, tuple[datetime, str]]:
        """Return when and where each burnt candidate was first shown, by index."""
        statement = select(CandidateRow.position, CandidateRow.burnt_at, CandidateRow.burnt_in).where(
            CandidateRow.key_set_id == identifier, CandidateRow.burnt_at.is_not(None)
        )
        return {place: (at, where or "") for place, at, where in self._session.execute(statement) if at is not None}

    def _has_fresh(self, identifier: str) -> bool:
        """Return whether an issued candidate is left that nobody was shown."""
        statement = select(CandidateRow.position).where(
            CandidateRow.key_set_id == identifier, CandidateRow.mark.is_not(None), CandidateRow.burnt_at.is_(None)
        )
        return self._session.scalar(statement.limit(1)) is not None

    def _add_candidates(self, identifier: str, key_set: KeySet) -> None:
        numbers = range(len(key_set.marks))
        mark_of = {index: number for number, indices in enumerate(key_set.marks) for index in indices}
        self._session.execute(insert(MarkRow), [{"key_set_id": identifier, "number": number} for number in numbers])
        self._session.execute(
            insert(CandidateRow),
            [
                {
                    "key_set_id": identifier,
                    "position": candidate.index,
                    "mark": mark_of.get(candidate.index),
                    "leaf": leaf_digest(candidate, salt).hex(),
                }
                for candidate, salt in zip(key_set.candidates, key_set.salts, strict=True)
            ],
        )

    def _row(self, identifier: str) -> KeySetRow:
        row = self._session.get(KeySetRow, identifier)
        if row is None:
            raise RegistryError(f"there is no key set {identifier}")
        return row

    def _record(self, row: KeySetRow) -> KeySetRecord:
        return _key_set(row, self._licensees.name_of(row.licensee_id))


def _key_set(row: KeySetRow, licensee: str) -> KeySetRecord:
    return KeySetRecord(
        id=row.id,
        name=row.name,
        owner=row.owner,
        licensee=licensee,
        commitment=_commitment(row),
        grade=row.grade,
        chance=row.chance,
        base=row.base_id,
        created_at=row.created_at,
        state=KeySetState(row.state),
    )


def _waiting(record: KeySetRecord) -> KeySetError:
    source = chance_source(record.commitment.chance_source)
    again = f"fpvec key issue {quote(record.name)}"
    if isinstance(source, BeaconSource):
        what = f"round {source.round} of the beacon, due at {source.chain.time_of(source.round).isoformat()}"
        advice = f"run `{again} --beacon {source.round}` after that"
    else:
        what = "its witness"
        advice = f"let the witness sign its request (`fpvec witness sign`), then run `{again} --witness SIGNED`"
    return KeySetError(
        f"key set {record.name!r} waits for {what}: nobody knows yet which candidates are issued", advice=advice
    )


def _commitment(row: KeySetRow) -> Commitment:
    try:
        commitment = Commitment.from_json(row.commitment)
        intact = commitment.digest == row.commitment_digest
    except (KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise RegistryError(
            f"the commitment recorded for key set {row.id} is not the one that was issued",
            advice="run `fpvec registry verify` and restore a backup",
        )
    return commitment


def _issue_content(record: KeySetRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "owner": record.owner,
        "licensee": record.licensee,
        "commitment": record.commitment.digest,
        "root": record.commitment.root,
        "scheme": record.commitment.scheme,
        "issued": record.commitment.issued,
        "candidates": record.commitment.candidates,
        "marks": record.commitment.marks,
        "grade": record.grade,
        "chance": record.chance,
        "created_at": record.created_at.isoformat(),
    }
