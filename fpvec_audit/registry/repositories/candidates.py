"""Candidates of key sets: their leaves and marks, and who was shown which of them first."""

from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from fpvec_audit.domain.keys import KeySet, leaf_digest
from fpvec_audit.registry.repositories.listing import in_parts
from fpvec_audit.registry.tables import CandidateRow, MarkRow


class CandidateRepository:
    """Candidates by their key set's whole id and their index.

    Args:
        session: session of the surrounding unit of work.
        clock: gives the time a candidate was burnt.
    """

    def __init__(self, session: Session, *, clock: Callable[[], datetime]) -> None:
        self._session = session
        self._clock = clock

    def add(self, identifier: str, key_set: KeySet) -> None:
        """Record the leaves of a key set that was just issued, and its marks."""
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

    def burn(self, identifier: str, indices: Iterable[int], *, where: str) -> list[int]:
        """Mark candidates as burnt, and return those that were not yet; the others keep their first date.

        Args:
            identifier: whole id of the key set.
            indices: which candidates.
            where: id of the audit or reveal in which it happened.
        """
        wanted = sorted(set(indices) - self.burnt(identifier))
        if wanted:
            self._session.execute(
                update(CandidateRow)
                .where(CandidateRow.key_set_id == identifier, CandidateRow.position.in_(wanted))
                .values(burnt_at=self._clock(), burnt_in=where)
            )
        return wanted

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

    def burnt_counts(self, identifiers: Iterable[str]) -> dict[str, int]:
        """Return how many candidates of key sets are burnt, by id; sets without a burnt one are missing."""
        counts: dict[str, int] = {}
        for part in in_parts(sorted(set(identifiers))):
            statement = select(CandidateRow.key_set_id, func.count()).where(
                CandidateRow.key_set_id.in_(part), CandidateRow.burnt_at.is_not(None)
            )
            counts |= dict(self._session.execute(statement.group_by(CandidateRow.key_set_id)).all())
        return counts

    def has_fresh(self, identifier: str) -> bool:
        """Return whether an issued candidate is left that nobody was shown."""
        statement = select(CandidateRow.position).where(
            CandidateRow.key_set_id == identifier, CandidateRow.mark.is_not(None), CandidateRow.burnt_at.is_(None)
        )
        return self._session.scalar(statement.limit(1)) is not None
