"""Licensees: whom key sets and stamped copies are issued to."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import LicenseeRecord
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.lookup import checked_text
from fpvec_audit.registry.tables import KeySetRow, LicenseeRow, StampRow


class LicenseeRepository:
    """Names of licensees, each recorded once.

    Args:
        session: session of the surrounding unit of work.
        ledger: where a new licensee is recorded.
        clock: gives the time.
    """

    def __init__(self, session: Session, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock

    def ensure(self, name: str) -> str | None:
        """Return the id of a licensee, recording it if it is new; None for an empty name."""
        name = checked_text("licensee", name)
        if not name:
            return None
        known = self._session.scalar(select(LicenseeRow.id).where(LicenseeRow.name == name))
        if known is not None:
            return known
        row = LicenseeRow(id=f"li-{canonical_digest([name])[:16]}", name=name, created_at=self._clock())
        self._session.add(row)
        self._session.flush()
        self._ledger.append("licensee.added", row.id, {"name": name})
        return row.id

    def name_of(self, identifier: str | None) -> str:
        """Return the name behind an id, empty for None."""
        if identifier is None:
            return ""
        return self._session.scalars(select(LicenseeRow.name).where(LicenseeRow.id == identifier)).one()

    def records(self) -> tuple[LicenseeRecord, ...]:
        """Return all licensees in alphabetical order, and how much was issued to each."""
        issued = dict(
            self._session.execute(select(KeySetRow.licensee_id, func.count()).group_by(KeySetRow.licensee_id)).all()
        )
        stamped = dict(
            self._session.execute(select(StampRow.licensee_id, func.count()).group_by(StampRow.licensee_id)).all()
        )
        return tuple(
            LicenseeRecord(row.id, row.name, row.created_at, issued.get(row.id, 0), stamped.get(row.id, 0))
            for row in self._session.scalars(select(LicenseeRow).order_by(LicenseeRow.name))
        )

    def list(self) -> tuple[str, ...]:
        """Return all names in alphabetical order."""
        return tuple(self._session.scalars(select(LicenseeRow.name).order_by(LicenseeRow.name)))
