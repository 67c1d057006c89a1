"""Stamped copies: which vectors went into which downstream model, for whom."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import StampRecord
from fpvec_audit.domain.selection import Selection
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.key_set_lists import KEY_SETS, key_sets_of
from fpvec_audit.registry.repositories.licensees import LICENSEES, LicenseeRepository
from fpvec_audit.registry.repositories.listing import Equal, Listing, Through, in_parts
from fpvec_audit.registry.repositories.lookup import Directory, normalised
from fpvec_audit.registry.repositories.models import MODELS
from fpvec_audit.registry.repositories.vectors import VECTORS
from fpvec_audit.registry.tables import StampRow, StampVectorRow, VectorFamilyRow, VectorRow

STAMPS = Directory("stamp", StampRow.id, None, prefix="st-", listing="fpvec model stamps")


def _with_vector(session: Session, reference: str) -> Select[str]:
    vector = VECTORS.resolve(session, reference)
    return select(StampVectorRow.stamp_id).where(StampVectorRow.vector_id == vector)


LISTING = Listing(
    STAMPS,
    StampRow,
    StampRow.created_at,
    filters={
        "licensee": Equal(StampRow.licensee_id, LICENSEES.resolve),
        "base": Equal(StampRow.base_id, MODELS.resolve),
        "downstream": Equal(StampRow.downstream_id, MODELS.resolve),
        "key": Equal(StampRow.key_set_id, KEY_SETS.resolve),
        "owner": Through(StampRow.key_set_id, key_sets_of),
        "vector": Through(StampRow.id, _with_vector),
    },
)


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
        base, key_set = self._origin(record)
        row = StampRow(
            id=record.id,
            downstream_id=record.downstream,
            stamped_id=record.stamped,
            licensee_id=self._licensees.ensure(record.licensee),
            base_id=base,
            key_set_id=key_set,
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
        return replace(record, licensee=normalised(record.licensee))

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
        return self._records(self._session.scalars(statement.order_by(StampRow.created_at, StampRow.id)).all())

    def of_models(self, stamped_model_ids: Iterable[str]) -> dict[str, tuple[StampRecord, ...]]:
        """Return the stamps whose result each of these models is, oldest first; models without one are missing."""
        found: dict[str, tuple[StampRecord, ...]] = {}
        for part in in_parts(sorted(set(stamped_model_ids))):
            statement = select(StampRow).where(StampRow.stamped_id.in_(part))
            rows = self._session.scalars(statement.order_by(StampRow.created_at, StampRow.id)).all()
            for record in self._records(rows):
                found[record.stamped] = (*found.get(record.stamped, ()), record)
        return found

    def select(self, selection: Selection) -> tuple[StampRecord, ...]:
        """Return the stamps of a selection: by ``licensee``, ``base``, ``downstream``, ``key``, ``owner``, ``vector``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return self._records(LISTING.rows(self._session, selection))

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
        return self._records(self._session.scalars(select(StampRow).order_by(StampRow.created_at, StampRow.id)).all())

    def _origin(self, record: StampRecord) -> tuple[str | None, str | None]:
        """Return base and key set of a stamp's first vector."""
        if not record.vectors:
            return None, None
        statement = select(VectorFamilyRow.base_id, VectorFamilyRow.key_set_id).join(
            VectorRow, VectorRow.family_id == VectorFamilyRow.id
        )
        found = self._session.execute(statement.where(VectorRow.id == record.vectors[0][0])).one_or_none()
        return (None, None) if found is None else (found[0], found[1])

    def _records(self, rows: Sequence[StampRow]) -> tuple[StampRecord, ...]:
        """Return many stamps with a few statements."""
        licensees = self._licensees.names_of(row.licensee_id for row in rows)
        vectors: dict[str, list[tuple[str, float]]] = {}
        columns = (StampVectorRow.stamp_id, StampVectorRow.vector_id, StampVectorRow.scale)
        for part in in_parts([row.id for row in rows]):
            statement = select(*columns).where(StampVectorRow.stamp_id.in_(part))
            for stamp, vector, scale in self._session.execute(statement.order_by(StampVectorRow.position)):
                vectors.setdefault(stamp, []).append((vector, scale))
        return tuple(_stamp(row, vectors.get(row.id, ()), licensees) for row in rows)

    def _record(self, row: StampRow) -> StampRecord:
        return self._records([row])[0]


def _stamp(row: StampRow, vectors: Sequence[tuple[str, float]], licensees: Mapping[str, str]) -> StampRecord:
    return StampRecord(
        id=row.id,
        downstream=row.downstream_id,
        stamped=row.stamped_id,
        vectors=tuple(vectors),
        licensee="" if row.licensee_id is None else licensees[row.licensee_id],
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
