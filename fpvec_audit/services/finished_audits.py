"""What the registry holds of a finished audit, collected for somebody who does not trust it.

The rows of a database can be edited; the ledger's chain cannot without showing. So plan and result are held against
the ledger here, the transcript against its own chain where it is read, and all of it once more when the evidence is
verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit_plan import AuditPlan, Begin, question_order
from fpvec_audit.domain.records import AuditRecord, KeySetRecord, LedgerEntry
from fpvec_audit.domain.transcript import Record
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.bundle import Burn

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import UnitOfWork

EXAMINED_EVENT = "audit.examined"
KEY_SET_EVENTS = ("key_set.committed", "key_set.issued", "key_set.bound")
RESTORE = "run `fpvec registry verify` and restore a backup"


@dataclass(frozen=True, slots=True)
class FinishedAudit:
    """What the registry holds of a finished audit, as it stands there.

    Attributes:
        audit: its row.
        plan: what was fixed before the first question.
        begin: what chance decided afterwards.
        key_set: the key set without its secret.
        chance: proof of where its chance came from, None for a self-attested set.
        records: the transcript; secret.
        burns: earlier audits for whose sake candidates were left out, oldest first.
        earlier: ledger entries about the key set before the plan.
        segment: ledger entries from the plan to the result.
        examiner: an examiner's signed statement, None without one.
    """

    audit: AuditRecord
    plan: AuditPlan
    begin: Begin
    key_set: KeySetRecord
    chance: Mapping[str, Any] | None
    records: tuple[Record, ...] = field(repr=False)
    burns: tuple[Burn, ...]
    earlier: tuple[LedgerEntry, ...]
    segment: tuple[LedgerEntry, ...]
    examiner: Mapping[str, Any] | None


def finished_audit(uow: "UnitOfWork", reference: str) -> FinishedAudit:
    """Collect what the registry holds of a finished audit.

    Args:
        uow: transaction to read in.
        reference: id of the audit, or the beginning of one.

    Raises:
        UnknownNameError: there is no such audit.
        EvidenceError: it is not finished, or contradicts the ledger.
        RegistryError: its transcript is not what was written.
    """
    audit = uow.audits.get(reference)
    plan, begin = _finished(audit)
    if (misfit := uow.ledger.verify()) is not None:
        raise EvidenceError(f"ledger entry {misfit.serial} does not continue the ledger's chain", advice=RESTORE)
    earlier, segment = _entries(uow, audit)
    _refuse_other_result(audit, segment[-1])
    record = uow.key_sets.find(audit.key_set)
    return FinishedAudit(
        audit,
        plan,
        begin,
        record,
        uow.key_sets.chance_proof(record.id),
        uow.audits.records(audit.id, purpose="evidence"),
        _burns(uow, audit, plan),
        earlier,
        segment,
        _examiner(uow, audit.id),
    )


def _finished(audit: AuditRecord) -> tuple[AuditPlan, Begin]:
    if audit.ended_at is not None and audit.begin is None:
        raise EvidenceError(
            f"audit {audit.id} was carried out by an older version, which kept no transcript",
            advice="audit the suspect again",
        )
    if audit.ended_at is None or audit.begin is None:
        raise EvidenceError(
            f"audit {audit.id} is not finished: there is no result to give evidence of",
            advice="finish it with `fpvec audit … --resume`, or attach what its examiner signed",
        )
    return recorded_plan(audit), Begin.from_json(audit.begin)


def recorded_plan(audit: AuditRecord) -> AuditPlan:
    """Return the plan of an audit.

    Raises:
        EvidenceError: it is another version's, or not the one that was recorded.
    """
    try:
        plan = AuditPlan.from_json(audit.plan)
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(
            f"the plan of audit {audit.id} is none of this version's", advice="audit the suspect again"
        ) from error
    if plan.digest != audit.plan_digest:
        raise EvidenceError(f"the plan of audit {audit.id} is not the one that was recorded", advice=RESTORE)
    return plan


def _entries(uow: "UnitOfWork", audit: AuditRecord) -> tuple[tuple[LedgerEntry, ...], tuple[LedgerEntry, ...]]:
    """Return the ledger's entries about the key set before the plan, and all from the plan to the result."""
    own = {entry.event: entry.serial for entry in uow.ledger.about(audit.id)}
    if not {"audit.planned", "audit.finished"} <= set(own):
        raise EvidenceError(f"the ledger does not hold both plan and end of audit {audit.id}", advice=RESTORE)
    first, last = own["audit.planned"], own["audit.finished"]
    earlier = uow.ledger.about(audit.key_set, events=KEY_SET_EVENTS)
    return tuple(entry for entry in earlier if entry.serial < first), uow.ledger.between(first, last)


def _refuse_other_result(audit: AuditRecord, finished: LedgerEntry) -> None:
    from fpvec_audit.registry.repositories.audits import document_digest

    recorded = (finished.content.get("verdict"), finished.content.get("result"))
    if (audit.verdict, document_digest(audit.result)) != recorded:
        raise EvidenceError(
            f"the result of audit {audit.id} is not the one that the ledger recorded when it ended", advice=RESTORE
        )


def _burns(uow: "UnitOfWork", audit: AuditRecord, plan: AuditPlan) -> tuple[Burn, ...]:
    """Return the audits that account for the candidates that a plan leaves out, oldest first."""
    left_out = sorted(set(range(plan.candidates)) - set(plan.population))
    if not left_out:
        return ()
    burnt = uow.candidates.burns(audit.key_set)
    shown: dict[str, set[int]] = {}
    for index in left_out:
        where = burnt[index][1] if index in burnt else ""
        shown.setdefault(where, set()).add(index)
    planned = {entry.subject: entry.serial for entry in uow.ledger.about(*shown, events=("audit.planned",))}
    for where in shown:
        if where not in planned or where == audit.id:
            raise EvidenceError(
                f"{len(shown[where])} candidates were left out because of {where or 'nothing'}, which is no earlier "
                "audit: nobody else could check that they were not chosen",
                advice="the result stands for yourself only; audit with all candidates",
            )
    burns = tuple(_burn(uow.audits.get(where), shown[where]) for where in sorted(shown, key=planned.__getitem__))
    unsigned = sum(burn.begin.witness is None for burn in burns)
    if unsigned > 1:
        raise EvidenceError(
            f"candidates were left out because of {unsigned} audits whose plans no witness signed: nobody else could "
            "check that their order was not tried out",
            advice="the result stands for yourself only; audit with all candidates, or have plans signed from now on",
        )
    return burns


def _burn(earlier: AuditRecord, shown: set[int]) -> Burn:
    assert earlier.begin is not None  # it has shown candidates, so it had begun
    plan, begin = recorded_plan(earlier), Begin.from_json(earlier.begin)
    places = {index: place for place, index in enumerate(question_order(plan, begin))}
    if strangers := sorted(shown - set(places)):
        raise EvidenceError(f"audit {earlier.id} could not have shown candidate {strangers[0]}", advice=RESTORE)
    return Burn(plan, begin, 1 + max(places[index] for index in shown))


def _examiner(uow: "UnitOfWork", audit: str) -> Mapping[str, Any] | None:
    for entry in uow.ledger.about(audit, events=(EXAMINED_EVENT,)):
        return dict(entry.content["envelope"])
    return None
