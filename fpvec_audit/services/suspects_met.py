"""Suspects and audits as they are listed and shown: who was met when, and what every audit said."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import AuditRecord, SuspectRecord
from fpvec_audit.domain.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """An audit as it is listed.

    Attributes:
        record: what the registry knows.
        key_set_name: name of its key set.
    """

    record: AuditRecord
    key_set_name: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        audit = self.record
        return {
            "audit_id": audit.id,
            "verdict": audit.verdict or UNFINISHED,
            "key_set": audit.key_set,
            "key_set_name": self.key_set_name,
            "suspect": audit.suspect,
            "suspect_digest": audit.suspect_digest,
            "plan_digest": audit.plan_digest,
            "trace": audit.plan.get("trace") or None,
            "created_at": audit.created_at.isoformat(),
            "ended_at": None if audit.ended_at is None else audit.ended_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class MetSuspect:
    """A suspect, with its audits where they were asked for.

    Attributes:
        record: what the registry knows.
        audits: audits of it, oldest first; None where they were not asked for.
    """

    record: SuspectRecord
    audits: tuple[AuditSummary, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown = {
            "id": self.record.id,
            "kind": self.record.kind.value,
            "location": self.record.location,
            "first_seen": self.record.first_seen_at.isoformat(),
        }
        return shown if self.audits is None else shown | {"audits": [audit.to_json() for audit in self.audits]}


def list_suspects(*, registry: "Registry", selection: Selection = EVERYTHING) -> Sequence[MetSuspect]:
    """Return suspects, the one that was met first at the beginning if nothing else is asked for.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        return [MetSuspect(record) for record in uow.suspects.select(selection)]


def show_suspect(reference: str, *, registry: "Registry") -> MetSuspect:
    """Return a suspect and its audits.

    Args:
        reference: digest, which may be shortened.
        registry: where to look.

    Raises:
        UsageError: there is none, or several.
    """
    with registry.snapshot() as uow:
        record = uow.suspects.get(reference)
        audits = uow.audits.of_suspect(record.id)
        names = {identifier: uow.key_sets.find(identifier).name for identifier in {audit.key_set for audit in audits}}
    return MetSuspect(record, tuple(AuditSummary(audit, names[audit.key_set]) for audit in audits))


def list_audits(*, registry: "Registry", selection: Selection = EVERYTHING) -> Sequence[AuditSummary]:
    """Return audits, oldest first if nothing else is asked for.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    if selection.where.get("verdict") == UNFINISHED:
        selection = replace(selection, where={**selection.where, "verdict": ""})
    with registry.snapshot() as uow:
        audits = uow.audits.select(selection)
        names = uow.key_sets.names(audit.key_set for audit in audits)
    return [AuditSummary(audit, names[audit.key_set]) for audit in audits]


def show_audit(reference: str, *, registry: "Registry") -> dict[str, Any]:
    """Return the document of an audit as it was recorded; of one that has not ended, what is known of it.

    Args:
        reference: id, which may be shortened.
        registry: where to look.

    Raises:
        UsageError: there is none, or several.
    """
    with registry.snapshot() as uow:
        audit = uow.audits.get(reference)
        name = uow.key_sets.find(audit.key_set).name
    return dict(audit.result) or AuditSummary(audit, name).to_json()
