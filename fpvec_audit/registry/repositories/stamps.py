"""Stamped copies: which vectors went into which downstream model, for whom."""

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import StampRecord
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.licensees import LicenseeRepository
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.tables import StampRow, StampVectorRow

STAMPS = Directory("stamp", StampRow.id, None, prefix="st-", listing="fpvec model list")


class StampRepository:
    """Stamps by id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where stamps are recorded.
        licensees: whom a copy was made for.
    """

    def __init__(self, session: Session, ledger: Ledger, *, licensees: LicenseeRepository) -> None:
        self._session = session
        self._ledger = ledger
        self._licensees = licensees

    def add(self, record: StampRecord) -> StampRecord:
        """Record a stamped copy. The same stamp made again only moves: its new place goes to the ledger too."""
        row = self._session.get(StampRow, record.id)
        if row is not None:
            row.location = record.location
            self._session.flush()
            self._ledger.append("stamp.repeated", row.id, {"location": record.location, "stamped": record.stamped})
            return self._record(row)
        row = StampRow(
            id=record.id,
            downstream_id=record.downstream,
            stamped_id=record.stamped,
            licensee_id=self._licensees.ensure(record.licensee),
            location=record.location,
            applied_ratio=record.applied_ratio,
            cosine=record.cosine,
            policies=dict(record.policies),
            created_at=record.created_at,
        )
        self._session.add(row)
        self._session.flush()
        self._session.execute(
            insert(StampVectorRow),
            [
                {"stamp_id": record.id, "position": position, "vector_id": vector, "scale": scale}
                for position, (vector, scale) in enumerate(record.vectors)
            ],
        )
        self._ledger.append("stamp.made", row.id, _content(record))
        return self._record(row)

    def get(self, reference: str) -> StampRecord:
        """Return a stamp by id or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        found = self.find(STAMPS.resolve(self._session, reference))
        assert found is not None
        return found

    def find(self, identifier: str) -> StampRecord | None:
        """Return the stamp with this id, None if it is not recorded."""
        row = self._session.get(StampRow, identifier)
        return None if row is None else self._record(row)

    def of_model(self, stamped_model_id: str) -> tuple[StampRecord, ...]:
        """Return the stamps whose result is this model, oldest first."""
        statement = select(StampRow).where(StampRow.stamped_id == stamped_model_id)
        rows = self._session.scalars(statement.order_by(StampRow.created_at, StampRow.id))
        return tuple(self._record(row) for row in rows)

    def count_with(self, vector: str) -> int:
        """Return how many stamps a vector (id) went into."""
        counted = select(func.count()).select_from(StampVectorRow).where(StampVectorRow.vector_id == vector)
        return int(self._session.scalars(counted).one())

    def latest_with(self, vector: str, *, most: int) -> tuple[StampRecord, ...]:
        """Return the newest stamps that a vector (id) went into, newest first."""
        stamps = select(StampVectorRow.stamp_id).where(StampVectorRow.vector_id == vector)
        statement = select(StampRow).where(StampRow.id.in_(stamps))
        rows = self._session.scalars(statement.order_by(StampRow.created_at.desc(), StampRow.id.desc()).limit(most))
        return tuple(self._record(row) for row in rows)

    def list(self) -> tuple[StampRecord, ...]:
        """Return all stamps, oldest first."""
        rows = self._session.scalars(select(StampRow).order_by(StampRow.created_at, StampRow.id))
        return tuple(self._record(row) for row in rows)

    def _record(self, row: StampRow) -> StampRecord:
        statement = select(StampVectorRow.vector_id, StampVectorRow.scale).where(StampVectorRow.stamp_id == row.id)
        vectors = self._session.execute(statement.order_by(StampVectorRow.position))
        return StampRecord(
            id=row.id,
            downstream=row.downstream_id,
            stamped=row.stamped_id,
            vectors=tuple((vector, scale) for vector, scale in vectors),
            licensee=self._licensees.name_of(row.licensee_id),
            location=row.location,
            applied_ratio=row.applied_ratio,
            cosine=row.cosine,
            policies=row.policies,
            created_at=row.created_at,
        )


def _content(record: StampRecord) -> dict[str, object]:
    return {
        "downstream": record.downstream,
        "stamped": record.stamped,
        "vectors": [[vector, scale] for vector, scale in record.vectors],
        "licensee": record.licensee,
        "location": record.location,
        "applied_ratio": record.applied_ratio,
        "cosine": record.cosine,
        "policies": record.policies,
    }
