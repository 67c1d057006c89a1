"""Licensees: whom key sets and stamped copies are issued to."""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.listing import in_parts
from fpvec_audit.registry.repositories.lookup import checked_text, normalised
from fpvec_audit.registry.tables import LicenseeRow

_SUGGESTED_FROM = 1000


def licensee_named(session: Session, name: str) -> str:
    """Return the id of a licensee.

    Raises:
        UnknownNameError: there is none of this name; the nearest are suggested.
    """
    found = session.scalar(select(LicenseeRow.id).where(LicenseeRow.name == normalised(name)))
    if found is None:
        known = session.scalars(select(LicenseeRow.name).order_by(LicenseeRow.name).limit(_SUGGESTED_FROM)).all()
        raise UnknownNameError("licensee", name, known)
    return found


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

    def list(self) -> tuple[str, ...]:
        """Return all names in alphabetical order."""
        return tuple(self._session.scalars(select(LicenseeRow.name).order_by(LicenseeRow.name)))
