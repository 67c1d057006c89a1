"""Key sets without their secrets, and their lives; their candidates are in ``candidates``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from shlex import quote
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import PENDING, Commitment, KeySet, KeySetSecret, restore_key_set
from fpvec_audit.domain.records import KeySetEnd, KeySetRecord, KeySetState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.domain.witness import BeaconSource, chance_source
from fpvec_audit.errors import KeySetError, RegistryError, UsageError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.candidates import CandidateRepository
from fpvec_audit.registry.repositories.key_set_lists import KEY_SETS, LISTING
from fpvec_audit.registry.repositories.licensees import LicenseeRepository
from fpvec_audit.registry.repositories.listing import in_parts
from fpvec_audit.registry.repositories.lookup import checked_name, checked_text, normalised, refuse_taken
from fpvec_audit.registry.tables import KeySetRow, LedgerRow
from fpvec_audit.registry.vault import Vault

ISSUED, COMMITTED = "key_set.issued", "key_set.committed"
ENDS = {KeySetState.RETIRED: "key_set.retired", KeySetState.COMPROMISED: "key_set.compromised"}
"""Ledger event of each way in which a key set's life ends by its owner's word."""


class KeySetRepository:
    """Key sets by name or id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where issues, bindings and burns are recorded.
        vault: where the secret goes.
        licensees: whom a key set is issued for.
        candidates: the leaves of all key sets.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        *,
        vault: Vault,
        licensees: LicenseeRepository,
        candidates: CandidateRepository,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._vault = vault
        self._licensees = licensees
        self._candidates = candidates

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
            self._candidates.add(record.id, key_set)
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
        self._candidates.add(identifier, key_set)
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
        burnt = self._candidates.burn(identifier, indices, where=where)
        if not burnt:
            return
        self._ledger.append("key_set.burnt", identifier, {"candidates": burnt, "where": where})
        row = self._row(identifier)
        if row.state in (KeySetState.ISSUED.value, KeySetState.EMBEDDED.value) and not self._candidates.has_fresh(
            identifier
        ):
            row.state = KeySetState.BURNT.value
            self._session.flush()
            self._ledger.append("key_set.used_up", identifier, {"where": where})

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
