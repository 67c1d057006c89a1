"""Stamps as they are listed and shown: which copy went to whom, and what it was made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import StampRecord
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.services.models import stamp_json

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class StampSummary:
    """A recorded stamp.

    Attributes:
        record: what the registry knows.
        downstream_name: name of the model that was stamped.
        stamped_name: name of the copy.
    """

    record: StampRecord
    downstream_name: str
    stamped_name: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            **stamp_json(self.record),
            "downstream_name": self.downstream_name,
            "stamped": self.record.stamped,
            "stamped_name": self.stamped_name,
        }


def list_stamps(*, registry: "Registry", selection: Selection = EVERYTHING) -> Sequence[StampSummary]:
    """Return recorded stamps, oldest first if nothing else is asked for.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        records = uow.stamps.select(selection)
        models = uow.models.known(model for record in records for model in (record.downstream, record.stamped))
    return [StampSummary(record, models[record.downstream].name, models[record.stamped].name) for record in records]
