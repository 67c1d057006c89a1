"""Use case: open the sealed transcript of an audit for a report. Its owner must have asked for it.

What was asked and answered gives every key away, so the ledger tells that it was opened, and for what.
"""

from typing import TYPE_CHECKING

from fpvec_audit.domain.exchanges import Exchange, exchanges
from fpvec_audit.errors import UsageError
from fpvec_audit.services.finished_audits import recorded_plan
from fpvec_audit.services.keys import open_key_set

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

PURPOSE = "shown in a report"


def disclosed_transcript(reference: str, *, registry: "Registry") -> tuple[Exchange, ...]:
    """Return what was asked and answered in an audit, in order; the ledger records that it was opened.

    Args:
        reference: id of the audit, or the beginning of one.
        registry: where audit and key set are.

    Raises:
        UnknownNameError: there is no such audit.
        UsageError: it has no transcript.
        EvidenceError: its plan is another version's, or not the one that was recorded.
        RegistryError: transcript or secret cannot be opened.
    """
    with registry.unit_of_work() as uow:
        audit = uow.audits.get(reference)
        plan = recorded_plan(audit)
        records = uow.audits.records(audit.id, purpose=PURPOSE)
    if not records:
        raise UsageError(f"audit {audit.id} has no transcript", advice="audit the suspect again, or report without it")
    key_set = open_key_set(audit.key_set, registry=registry, purpose=f"audit {audit.id} {PURPOSE}")
    candidates = {candidate.index: candidate for candidate in key_set.candidates}
    return exchanges(plan, records, candidates, frozenset(key_set.issued_indices))
