"""Audits: planned before the first query, recorded whichever way they end."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session, undefer

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import AuditRecord
from fpvec_audit.domain.selection import Selection
from fpvec_audit.domain.transcript import Record
from fpvec_audit.errors import AmbiguousNameError, RegistryError, UnknownNameError
from fpvec_audit.registry.ledger import Ledger, floatless
from fpvec_audit.registry.repositories.key_set_lists import KEY_SETS, key_sets_for, key_sets_of
from fpvec_audit.registry.repositories.listing import Equal, Listing, Through
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.repositories.models import MODELS, carrying
from fpvec_audit.registry.repositories.suspects import SUSPECTS, SuspectRepository, suspect_kind
from fpvec_audit.registry.tables import AuditRecordRow, AuditRow, KeySetRow
from fpvec_audit.registry.vault import TRANSCRIPT, SealedValue, Vault, bytes_expected, record_place

AUDITS = Directory("audit", AuditRow.id, None, prefix="au-", listing="fpvec audits list")
_BATCH = 20
"""Audits that are read at a time where the first one that fits ends the search: each has a document of its own."""
_SUGGESTED_FROM = 1000


def _key_sets_of_base(session: Session, reference: str) -> Select[str]:
    return select(KeySetRow.id).where(KeySetRow.base_id == MODELS.resolve(session, reference))


LISTING = Listing(
    AUDITS,
    AuditRow,
    AuditRow.created_at,
    filters={
        "verdict": Equal(AuditRow.verdict),
        "key": Equal(AuditRow.key_set_id, KEY_SETS.resolve),
        "suspect": Equal(AuditRow.suspect_digest, SUSPECTS.resolve),
        "owner": Through(AuditRow.key_set_id, key_sets_of),
        "licensee": Through(AuditRow.key_set_id, key_sets_for),
        "base": Through(AuditRow.key_set_id, _key_sets_of_base),
    },
)


class AuditRepository:
    """Audits by id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where plans and results are recorded.
        clock: gives the time an audit ended.
        vault: seals transcripts.
        suspects: who is audited.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        clock: Callable[[], datetime],
        *,
        vault: Vault,
        suspects: SuspectRepository,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock
        self._vault = vault
        self._suspects = suspects

    def plan(self, record: AuditRecord) -> AuditRecord:
        """Record an audit before its first query, and its suspect where that was never met before."""
        if record.suspect_digest:
            kind = suspect_kind(record.plan)
            self._suspects.meet(record.suspect_digest, kind, location=record.suspect, at=record.created_at)
        row = AuditRow(
            id=record.id,
            key_set_id=record.key_set,
            suspect=record.suspect,
            suspect_digest=record.suspect_digest,
            plan_digest=record.plan_digest,
            plan=dict(record.plan),
            verdict="",
            result={},
            created_at=record.created_at,
            ended_at=None,
        )
        self._session.add(row)
        self._session.flush()
        self._ledger.append(
            "audit.planned",
            row.id,
            {
                "key_set": row.key_set_id,
                "plan": row.plan_digest,
                "suspect": row.suspect,
                "suspect_digest": row.suspect_digest,
            },
        )
        return _audit(row)

    def begin(self, identifier: str, begin: Mapping[str, Any]) -> AuditRecord:
        """Record what chance decided after the plan, once, before the first question.

        Raises:
            RegistryError: there is no such audit, or it began already.
        """
        row = self._open_row(identifier)
        if row.begin is not None:
            raise RegistryError(f"audit {identifier} began already", advice="go on with --resume")
        row.begin = dict(begin)
        self._session.flush()
        witness = begin["witness"]
        self._ledger.append(
            "audit.begun",
            identifier,
            {"nonce": begin["nonce"], "witness": "" if witness is None else document_digest(witness)},
        )
        return _audit(row)

    def append(self, identifier: str, records: Sequence[Record]) -> None:
        """Append records to an audit's transcript, sealed.

        Raises:
            RegistryError: there is no such audit, or no master key.
        """
        if not records:
            return
        key_set = self._session.scalar(select(AuditRow.key_set_id).where(AuditRow.id == identifier))
        if key_set is None:
            raise RegistryError(f"there is no audit {identifier}")
        self._session.execute(
            insert(AuditRecordRow), [self._record_values(identifier, key_set, record) for record in records]
        )

    def records(self, identifier: str, *, purpose: str) -> tuple[Record, ...]:
        """Return an audit's transcript in order; it is secret, so the ledger tells that it was read.

        Args:
            identifier: whole id.
            purpose: what it is wanted for.

        Raises:
            RegistryError: a record cannot be opened or read, or is kept in a way that this program does not know.
        """
        statement = select(AuditRecordRow).where(AuditRecordRow.audit_id == identifier).order_by(AuditRecordRow.serial)
        with bytes_expected(f"a record of audit {identifier}"):
            rows = self._session.scalars(statement.options(undefer(AuditRecordRow.content))).all()
        found = tuple(self._record(row) for row in rows)
        if found:
            self._vault.disclose(TRANSCRIPT, identifier, purpose=purpose)
        return found

    def has_records(self, identifier: str) -> bool:
        """Return whether anything was asked in an audit."""
        statement = select(AuditRecordRow.serial).where(AuditRecordRow.audit_id == identifier).limit(1)
        return self._session.scalar(statement) is not None

    def finish(
        self, identifier: str, *, verdict: str, result: Mapping[str, Any], transcript: str = "", records: int = 0
    ) -> AuditRecord:
        """Record how an audit ended, once.

        Args:
            identifier: whole id.
            verdict: what it says.
            result: the audit document.
            transcript: digest of the last record.
            records: how many records the transcript has.

        Raises:
            RegistryError: there is no such audit, or it ended already.
        """
        row = self._open_row(identifier)
        row.verdict = verdict
        row.result = dict(result)
        row.ended_at = self._clock()
        self._session.flush()
        self._ledger.append(
            "audit.finished",
            identifier,
            {
                "verdict": verdict,
                "result": document_digest(result),
                "transcript": transcript,
                "records": records,
            },
        )
        return _audit(row)

    def get(self, reference: str) -> AuditRecord:
        """Return an audit by id or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        return _audit(self._session.get_one(AuditRow, AUDITS.resolve(self._session, reference)))

    def of_trace(self, reference: str) -> tuple[AuditRecord, ...]:
        """Return the audits that are part of a trace, oldest first.

        Args:
            reference: id of the trace, or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: the beginning of several ids.
        """
        trace = AuditRow.plan["trace"].as_string()
        found = self._found(_oldest_first().where(trace.startswith(reference, autoescape=True)))
        traces = sorted({audit.plan["trace"] for audit in found})
        if not traces:
            raise UnknownNameError("trace", reference, self._known_traces(), listing="fpvec audits list --csv")
        if len(traces) > 1 and reference not in traces:
            raise AmbiguousNameError(
                f"trace {reference} may be {' or '.join(traces[:5])}", advice="give more of the id"
            )
        return tuple(
            audit for audit in found if audit.plan["trace"] == (reference if reference in traces else traces[0])
        )

    def select(self, selection: Selection) -> tuple[AuditRecord, ...]:
        """Return audits: by ``verdict``, ``suspect``, ``key``, and its ``owner``, ``licensee`` and ``base``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return tuple(_audit(row) for row in LISTING.rows(self._session, selection))

    def list(self, key_set: str | None = None) -> tuple[AuditRecord, ...]:
        """Return the audits with a key set (id), or all, oldest first."""
        statement = _oldest_first()
        if key_set is not None:
            statement = statement.where(AuditRow.key_set_id == key_set)
        return self._found(statement)

    def of_suspect(self, digest: str, *, key_set: str | None = None) -> tuple[AuditRecord, ...]:
        """Return the audits of a suspect, all or with one key set (id), oldest first."""
        # A suspect has few audits and a key set may have all of them; a condition on both might be read the long way.
        found = self._found(_oldest_first().where(AuditRow.suspect_digest == digest))
        return tuple(audit for audit in found if key_set in (None, audit.key_set))

    def unfinished(self, key_set: str) -> tuple[AuditRecord, ...]:
        """Return the audits with a key set (id) that have not ended, oldest first."""
        statement = _oldest_first().where(AuditRow.verdict == "", AuditRow.key_set_id == key_set)
        return self._found(statement.where(AuditRow.ended_at.is_(None)))

    def some(self, identifiers: Collection[str]) -> dict[str, AuditRecord]:
        """Return those of some audits that are recorded, by id."""
        return {audit.id: audit for audit in self._found(_oldest_first().where(AuditRow.id.in_(identifiers)))}

    def with_plan(self, digest: str) -> AuditRecord | None:
        """Return the audit with the plan of this digest, None if there is none."""
        row = self._session.scalars(_oldest_first().where(AuditRow.plan_digest == digest).limit(1)).one_or_none()
        return None if row is None else _audit(row)

    def of_own_models(self, key_set: str, *, base: str | None, verdict: str) -> Iterator[AuditRecord]:
        """Yield the audits with a key set that gave own models that carry it this verdict, newest first.

        Args:
            key_set: id.
            base: id of the model it is bound to.
            verdict: what they say.
        """
        statement = (
            select(AuditRow)
            .where(AuditRow.key_set_id == key_set, AuditRow.verdict == verdict)
            .where(AuditRow.suspect_digest.in_(carrying(key_set, base=base)))
            .order_by(AuditRow.created_at.desc(), AuditRow.id.desc())
        )
        for row in self._session.scalars(statement.execution_options(yield_per=_BATCH)):
            yield _audit(row)

    def _known_traces(self) -> Sequence[str]:
        trace = AuditRow.plan["trace"].as_string()
        return self._session.scalars(select(trace).where(trace != "").distinct().limit(_SUGGESTED_FROM)).all()

    def _found(self, statement: Select[Any]) -> tuple[AuditRecord, ...]:
        return tuple(_audit(row) for row in self._session.scalars(statement))

    def _record_values(self, identifier: str, key_set: str, record: Record) -> dict[str, Any]:
        place = record_place(identifier, record.serial)
        value = self._vault.sealed_at(place, record.stored, key_set=key_set)
        return {
            "audit_id": identifier,
            "serial": record.serial,
            "scheme": value.scheme,
            "data_key_id": value.data_key,
            "content": value.content,
            "digest": record.digest,
        }

    def _record(self, row: AuditRecordRow) -> Record:
        place = record_place(row.audit_id, row.serial)
        content = self._vault.opened_at(place, SealedValue(row.scheme, row.data_key_id, row.content))
        try:
            record = Record.from_json(json.loads(content))
            intact = record.stored == content and record.digest == row.digest
        except (ValueError, TypeError, KeyError, RecursionError):
            intact = False
        if not intact:
            raise RegistryError(
                f"record {row.serial} of audit {row.audit_id} is not what was written",
                advice="run `fpvec registry verify` and restore a backup",
            )
        return record

    def _open_row(self, identifier: str) -> AuditRow:
        row = self._session.get(AuditRow, identifier)
        if row is None:
            raise RegistryError(f"there is no audit {identifier}")
        if row.ended_at is not None:
            raise RegistryError(f"audit {identifier} ended already with {row.verdict}", advice="start another audit")
        return row


def _oldest_first() -> Select[Any]:
    return select(AuditRow).order_by(AuditRow.created_at, AuditRow.id)


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the digest by which the ledger refers to a result: SHA-256 of its canonical JSON, floats as text."""
    return canonical_digest(floatless(document))


def _audit(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        id=row.id,
        key_set=row.key_set_id,
        suspect=row.suspect,
        suspect_digest=row.suspect_digest,
        plan_digest=row.plan_digest,
        plan=row.plan,
        verdict=row.verdict,
        result=row.result,
        created_at=row.created_at,
        ended_at=row.ended_at,
        begin=row.begin,
    )
