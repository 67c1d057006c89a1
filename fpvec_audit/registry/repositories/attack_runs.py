"""Cells of robustness runs: recorded whichever way they end."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import AttackRunRecord, JobState
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.audits import document_digest
from fpvec_audit.registry.tables import AttackRunRow


class AttackRunRepository:
    """Cells of robustness runs.

    Args:
        session: session of the surrounding unit of work.
        ledger: where they are recorded.
    """

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger

    def add(self, record: AttackRunRecord) -> AttackRunRecord:
        """Record how one cell ended."""
        row = AttackRunRow(
            id=record.id,
            stamped_id=record.stamped,
            key_set_id=record.key_set,
            attack=record.attack,
            parameters=dict(record.parameters),
            state=record.state.value,
            result=dict(record.result),
            created_at=record.created_at,
        )
        self._session.add(row)
        self._session.flush()
        self._ledger.append(
            "attack.run",
            row.id,
            {
                "stamped": row.stamped_id,
                "key_set": row.key_set_id,
                "attack": row.attack,
                "parameters": row.parameters,
                "state": row.state,
                "result": document_digest(record.result),
            },
        )
        return _attack_run(row)

    def list(self, stamped: str | None = None) -> tuple[AttackRunRecord, ...]:
        """Return the cells on a stamped model (id), or all, oldest first."""
        statement = select(AttackRunRow).order_by(AttackRunRow.created_at, AttackRunRow.id)
        if stamped is not None:
            statement = statement.where(AttackRunRow.stamped_id == stamped)
        return tuple(_attack_run(row) for row in self._session.scalars(statement))


def _attack_run(row: AttackRunRow) -> AttackRunRecord:
    return AttackRunRecord(
        id=row.id,
        stamped=row.stamped_id,
        key_set=row.key_set_id,
        attack=row.attack,
        parameters=row.parameters,
        state=JobState(row.state),
        result=row.result,
        created_at=row.created_at,
    )
