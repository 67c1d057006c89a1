"""Fingerprint vectors and the families (training runs) they come from."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import VectorRecord
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.key_set_lists import KEY_SETS, key_sets_for, key_sets_of
from fpvec_audit.registry.repositories.listing import Listing, Through, in_parts
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.repositories.models import MODELS
from fpvec_audit.registry.tables import VectorFamilyRow, VectorRow

VECTORS = Directory("vector", VectorRow.id, None, prefix="vec-", listing="fpvec vector list")


def _families_of_base(session: Session, reference: str) -> Select[str]:
    return select(VectorFamilyRow.id).where(VectorFamilyRow.base_id == MODELS.resolve(session, reference))


def _families_of_key_set(session: Session, reference: str) -> Select[str]:
    return select(VectorFamilyRow.id).where(VectorFamilyRow.key_set_id == KEY_SETS.resolve(session, reference))


def _families_of_owner(session: Session, owner: str) -> Select[str]:
    return select(VectorFamilyRow.id).where(VectorFamilyRow.key_set_id.in_(key_sets_of(session, owner)))


def _families_for(session: Session, licensee: str) -> Select[str]:
    return select(VectorFamilyRow.id).where(VectorFamilyRow.key_set_id.in_(key_sets_for(session, licensee)))


LISTING = Listing(
    VECTORS,
    VectorRow,
    VectorRow.created_at,
    filters={
        "base": Through(VectorRow.family_id, _families_of_base),
        "key": Through(VectorRow.family_id, _families_of_key_set),
        "owner": Through(VectorRow.family_id, _families_of_owner),
        "licensee": Through(VectorRow.family_id, _families_for),
    },
)


class VectorRepository:
    """Vectors by id.

    Args:
        session: session of the surrounding unit of work.
        ledger: where extractions are recorded.
    """

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger

    def add(self, record: VectorRecord) -> VectorRecord:
        """Record a vector and, if it is the first of its training, the family.

        A vector with the same tensors is the same vector: only its location is brought up to date.

        Raises:
            RegistryError: the family belongs to another base or key set.
        """
        row = self._session.get(VectorRow, record.id)
        if row is not None:
            row.location = record.location
            self._session.flush()
            return _record(row, self._family(row.family_id))
        family = self._ensure_family(record)
        row = VectorRow(
            id=record.id,
            digest=record.digest,
            family_id=family.id,
            mark=record.mark,
            fingerprinted_id=record.fingerprinted,
            architecture=record.architecture,
            location=record.location,
            inexact_elements=record.inexact_elements,
            norm=record.norm,
            created_at=record.created_at,
        )
        self._session.add(row)
        self._session.flush()
        self._ledger.append("vector.extracted", row.id, _content(record))
        return _record(row, family)

    def get(self, reference: str) -> VectorRecord:
        """Return a vector by id or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        found = self.find(VECTORS.resolve(self._session, reference))
        assert found is not None
        return found

    def find(self, identifier: str) -> VectorRecord | None:
        """Return the vector with this id, None if it is not recorded."""
        row = self._session.get(VectorRow, identifier)
        return None if row is None else _record(row, self._family(row.family_id))

    def select(self, selection: Selection) -> tuple[VectorRecord, ...]:
        """Return the vectors of a selection: by ``base``, ``key``, and its ``owner`` and ``licensee``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        rows = LISTING.rows(self._session, selection)
        families = {
            family.id: family
            for part in in_parts(sorted({row.family_id for row in rows}))
            for family in self._session.scalars(select(VectorFamilyRow).where(VectorFamilyRow.id.in_(part)))
        }
        return tuple(_record(row, families[row.family_id]) for row in rows)

    def list(self, base: str | None = None, key_set: str | None = None) -> tuple[VectorRecord, ...]:
        """Return the vectors of a base and a key set (ids), or all, oldest first."""
        statement = (
            select(VectorRow, VectorFamilyRow)
            .join(VectorFamilyRow, VectorRow.family_id == VectorFamilyRow.id)
            .order_by(VectorRow.created_at, VectorRow.id)
        )
        if base is not None:
            statement = statement.where(VectorFamilyRow.base_id == base)
        if key_set is not None:
            statement = statement.where(VectorFamilyRow.key_set_id == key_set)
        return tuple(_record(row, family) for row, family in self._session.execute(statement))

    def _ensure_family(self, record: VectorRecord) -> VectorFamilyRow:
        family = self._session.get(VectorFamilyRow, record.family)
        if family is None:
            family = VectorFamilyRow(
                id=record.family, key_set_id=record.key_set, base_id=record.base, created_at=record.created_at
            )
            self._session.add(family)
            self._session.flush()
        elif (family.base_id, family.key_set_id) != (record.base, record.key_set):
            raise RegistryError(
                f"vector family {family.id} belongs to the base {family.base_id[:16]}… and key set "
                f"{family.key_set_id}, not to {record.base[:16]}… and {record.key_set}"
            )
        return family

    def _family(self, identifier: str) -> VectorFamilyRow:
        return self._session.get_one(VectorFamilyRow, identifier)


def _content(record: VectorRecord) -> dict[str, object]:
    return {
        "digest": record.digest,
        "family": record.family,
        "mark": record.mark,
        "key_set": record.key_set,
        "base": record.base,
        "fingerprinted": record.fingerprinted,
        "location": record.location,
        "inexact_elements": record.inexact_elements,
        "norm": record.norm,
    }


def _record(row: VectorRow, family: VectorFamilyRow) -> VectorRecord:
    return VectorRecord(
        id=row.id,
        digest=row.digest,
        family=row.family_id,
        mark=row.mark,
        key_set=family.key_set_id,
        base=family.base_id,
        fingerprinted=row.fingerprinted_id,
        architecture=row.architecture,
        location=row.location,
        inexact_elements=row.inexact_elements,
        norm=row.norm,
        created_at=row.created_at,
    )
