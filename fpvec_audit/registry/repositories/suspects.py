"""Who was audited, and when each was met first."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import SuspectKind, SuspectRecord
from fpvec_audit.domain.selection import Selection
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.listing import Equal, Listing
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.tables import AuditRow, SuspectRow

SUSPECTS = Directory("suspect", SuspectRow.id, None, listing="fpvec suspect list")
LISTING = Listing(SUSPECTS, SuspectRow, SuspectRow.first_seen_at, filters={"kind": Equal(SuspectRow.kind)})


class SuspectRepository:
    """Suspects by digest.

    Args:
        session: session of the surrounding unit of work.
        ledger: where a first meeting is recorded.
    """

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger

    def meet(self, digest: str, kind: SuspectKind, *, location: str, at: datetime) -> SuspectRecord:
        """Return a suspect, recording it if it was never met before."""
        row = self._session.get(SuspectRow, digest)
        if row is not None:
            return _record(row)
        row = SuspectRow(id=digest, kind=kind.value, location=location, first_seen_at=at)
        self._session.add(row)
        self._session.flush()
        self._ledger.append("suspect.seen", digest, {"kind": row.kind, "location": location})
        return _record(row)

    def get(self, reference: str) -> SuspectRecord:
        """Return a suspect by digest or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        return _record(self._session.get_one(SuspectRow, SUSPECTS.resolve(self._session, reference)))

    def find(self, digest: str) -> SuspectRecord | None:
        """Return the suspect with this digest, None if it was never met."""
        row = self._session.get(SuspectRow, digest)
        return None if row is None else _record(row)

    def select(self, selection: Selection) -> tuple[SuspectRecord, ...]:
        """Return the suspects of a selection: by ``kind``; the time of recording is that of the first meeting.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return tuple(_record(row) for row in LISTING.rows(self._session, selection))

    def list(self) -> tuple[SuspectRecord, ...]:
        """Return all suspects, the one that was met first at the beginning."""
        rows = self._session.scalars(select(SuspectRow).order_by(SuspectRow.first_seen_at, SuspectRow.id))
        return tuple(_record(row) for row in rows)

    def count(self) -> int:
        """Return how many suspects were met, those included of which old audits give the location alone."""
        nameless = select(func.count(AuditRow.suspect.distinct())).where(AuditRow.suspect_digest == "")
        counted = select(select(func.count()).select_from(SuspectRow).scalar_subquery() + nameless.scalar_subquery())
        return int(self._session.scalars(counted).one())


def suspect_kind(plan: Mapping[str, Any]) -> SuspectKind:
    """Return what an audit's plan says that its suspect is."""
    kind = plan.get("suspect", {}).get("kind", "")
    return SuspectKind.ENDPOINT if kind == SuspectKind.ENDPOINT.value else SuspectKind.CHECKPOINT


def _record(row: SuspectRow) -> SuspectRecord:
    return SuspectRecord(row.id, SuspectKind(row.kind), row.location, row.first_seen_at)
