"""Licensees as they are listed: whom key sets and stamped copies were issued to, and how many."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import LicenseeRecord
from fpvec_audit.domain.selection import Selection

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

BY_NAME = Selection(sort="name")


def list_licensees(*, registry: "Registry", selection: Selection = BY_NAME) -> Sequence[LicenseeRecord]:
    """Return licensees, in alphabetical order if nothing else is asked for.

    Args:
        registry: where to look.
        selection: order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        return uow.licensees.select(selection)


def licensee_json(licensee: LicenseeRecord) -> dict[str, Any]:
    """Return the JSON object of a licensee that scripts read."""
    return {
        "id": licensee.id,
        "name": licensee.name,
        "key_sets": licensee.key_sets,
        "stamps": licensee.stamps,
        "created_at": licensee.created_at.isoformat(),
    }
