"""How key sets are named, and how they and what hangs on them are listed: by owner, licensee, base and state."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from fpvec_audit.errors import UnknownNameError
from fpvec_audit.registry.repositories.licensees import LICENSEES
from fpvec_audit.registry.repositories.listing import Equal, Listing
from fpvec_audit.registry.repositories.lookup import Directory, normalised
from fpvec_audit.registry.repositories.models import MODELS
from fpvec_audit.registry.tables import KeySetRow

KEY_SETS = Directory("key set", KeySetRow.id, KeySetRow.name, prefix="ks-", listing="fpvec key list")
_SUGGESTED_FROM = 1000


def owner_named(session: Session, name: str) -> str:
    """Return an owner's name as it is stored.

    Raises:
        UnknownNameError: no key set has this owner; the nearest are suggested.
    """
    owner = normalised(name)
    if session.scalar(select(KeySetRow.id).where(KeySetRow.owner == owner).limit(1)) is None:
        known = session.scalars(select(KeySetRow.owner).where(KeySetRow.owner != "").distinct().limit(_SUGGESTED_FROM))
        raise UnknownNameError("owner", name, known.all(), listing="fpvec key list")
    return owner


def key_sets_of(session: Session, owner: str) -> Select[str]:
    """Return the statement for the ids of an owner's key sets, by which other lists are filtered.

    Raises:
        UnknownNameError: no key set has this owner.
    """
    return select(KeySetRow.id).where(KeySetRow.owner == owner_named(session, owner))


def key_sets_for(session: Session, licensee: str) -> Select[str]:
    """Return the statement for the ids of the key sets issued to a licensee, by which other lists are filtered.

    Raises:
        UnknownNameError: there is no such licensee.
    """
    return select(KeySetRow.id).where(KeySetRow.licensee_id == LICENSEES.resolve(session, licensee))


LISTING = Listing(
    KEY_SETS,
    KeySetRow,
    KeySetRow.created_at,
    filters={
        "owner": Equal(KeySetRow.owner, owner_named),
        "licensee": Equal(KeySetRow.licensee_id, LICENSEES.resolve),
        "base": Equal(KeySetRow.base_id, MODELS.resolve),
        "state": Equal(KeySetRow.state),
    },
    orders={"name": (KeySetRow.name,)},
)
