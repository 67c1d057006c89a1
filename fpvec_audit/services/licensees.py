"""Licensees as they are listed: whom key sets and stamped copies were issued to, and how many."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import LicenseeRecord

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


def list_licensees(*, registry: "Registry") -> Sequence[LicenseeRecord]:
    """Return all licensees in alphabetical order."""
    with registry.snapshot() as uow:
        return uow.licensees.records()


def licensee_json(licensee: LicenseeRecord) -> dict[str, Any]:
    """Return the JSON object of a licensee that scripts read."""
    return {
        "id": licensee.id,
        "name": licensee.name,
        "key_sets": licensee.key_sets,
        "stamps": licensee.stamps,
        "created_at": licensee.created_at.isoformat(),
    }
