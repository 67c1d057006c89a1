"""Audits that somebody handed over as bundles: added once, never changed. No master key is needed for them."""

from dataclasses import asdict, fields

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import RecordedAudit
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.tables import RecordedAuditRow

ADDED = "recorded_audit.added"


class RecordedAuditRepository:
    """Recorded audits by id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where they are recorded.
    """

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger

    def find(self, identifier: str) -> RecordedAudit | None:
        """Return one by its whole id, None where it was not recorded."""
        row = self._session.get(RecordedAuditRow, identifier)
        return None if row is None else _recorded(row)

    def add(self, record: RecordedAudit) -> None:
        """Record one."""
        values = asdict(record)
        self._session.execute(insert(RecordedAuditRow).values(values))
        content = {name: value for name, value in values.items() if name not in ("id", "recorded_at")}
        self._ledger.append(ADDED, record.id, content)

    def list(self) -> tuple[RecordedAudit, ...]:
        """Return all, oldest first."""
        statement = select(RecordedAuditRow).order_by(RecordedAuditRow.recorded_at, RecordedAuditRow.id)
        return tuple(_recorded(row) for row in self._session.scalars(statement))


def _recorded(row: RecordedAuditRow) -> RecordedAudit:
    return RecordedAudit(**{item.name: getattr(row, item.name) for item in fields(RecordedAudit)})
