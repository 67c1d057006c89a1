"""Licensees: whom key sets and stamped copies are issued to."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import LicenseeRecord
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import UsageError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.listing import Listing, in_parts
from fpvec_audit.registry.repositories.lookup import Directory, checked_text
from fpvec_audit.registry.tables import KeySetRow, LicenseeRow, StampRow

LICENSEES = Directory("licensee", LicenseeRow.id, LicenseeRow.name, prefix="li-", listing="fpvec licensee list")
LISTING = Listing(LICENSEES, LicenseeRow, LicenseeRow.created_at, orders={"name": (LicenseeRow.name,)})


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
        """Return the id of a licensee, recording it if it is new; None for an empty name.

        Raises:
            UsageError: the name cannot be recorded; see :meth:`checked`.
        """
        name = self.checked(name)
        if not name:
            return None
        known = self._id_of(name)
        if known is not None:
            return known
        row = LicenseeRow(id=f"li-{canonical_digest([name])[:16]}", name=name, created_at=self._clock())
        self._session.add(row)
        self._session.flush()
        self._ledger.append("licensee.added", row.id, {"name": name})
        return row.id

    def checked(self, name: str) -> str:
        """Return a licensee's name as it is stored, empty for nobody in particular; it need not be recorded yet.

        Raises:
            UsageError: it is too long, does not print, or is new and looks like an id: names go before ids, so that
                what is asked for by the id of one licensee would be done to another.
        """
        name = checked_text("licensee", name)
        if not LICENSEES.has_form_of_id(name) or self._id_of(name) is not None:
            return name
        other = self._session.scalar(select(LicenseeRow.name).where(LicenseeRow.id == name))
        if other is not None:
            raise UsageError(f"a licensee cannot be named {name!r}, the id of {other!r}", advice=f"write {other!r}")
        raise UsageError(
            f"a licensee cannot be named {name!r}, which has the form of an id",
            advice="write a name that is not li- and hexadecimal digits, or the name that the id is of",
        )

    def _id_of(self, name: str) -> str | None:
        return self._session.scalar(select(LicenseeRow.id).where(LicenseeRow.name == name))

    def name_of(self, identifier: str | None) -> str:
        """Return the name behind an id, empty for None."""
        if identifier is None:
            return ""
        return self._session.scalars(select(LicenseeRow.name).where(LicenseeRow.id == identifier)).one()

    def names_of(self, identifiers: Iterable[str | None]) -> dict[str, str]:
        """Return names by id."""
        wanted = sorted({identifier for identifier in identifiers if identifier is not None})
        return {
            identifier: name
            for part in in_parts(wanted)
            for identifier, name in self._session.execute(
                select(LicenseeRow.id, LicenseeRow.name).where(LicenseeRow.id.in_(part))
            )
        }

    def select(self, selection: Selection) -> tuple[LicenseeRecord, ...]:
        """Return the licensees of a selection, and how much was issued to each.

        Raises:
            UsageError: an order or the beginning names nothing.
        """
        rows = LISTING.rows(self._session, selection)
        identifiers = [row.id for row in rows]
        issued, stamped = (
            self._counts(KeySetRow.licensee_id, identifiers),
            self._counts(StampRow.licensee_id, identifiers),
        )
        return tuple(
            LicenseeRecord(row.id, row.name, row.created_at, issued.get(row.id, 0), stamped.get(row.id, 0))
            for row in rows
        )

    def _counts(self, column: InstrumentedAttribute[str | None], identifiers: Sequence[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for part in in_parts(identifiers):
            statement = select(column, func.count()).where(column.in_(part)).group_by(column)
            counts |= {identifier: count for identifier, count in self._session.execute(statement) if identifier}
        return counts

    def list(self) -> tuple[str, ...]:
        """Return all names in alphabetical order."""
        return tuple(self._session.scalars(select(LicenseeRow.name).order_by(LicenseeRow.name)))
