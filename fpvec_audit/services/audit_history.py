"""What the ledger's owner did before: earlier audits of the same suspect, unfinished ones, and who saw the keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit_plan import AuditPlan
from fpvec_audit.domain.records import AuditRecord
from fpvec_audit.errors import UsageError
from fpvec_audit.services.suspects import Suspect

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class History:
    """What went before an audit.

    Attributes:
        audits: audits of the same suspect with the same key set, unfinished ones included.
        suspects: how many different suspects the ledger has seen, this one included.
        first_seen: when this suspect was met first, ISO 8601; empty where it was not met before.
        burnt: candidates of the key set that were shown to somebody.
        disclosures: per audit in which candidates were shown: its id, when, how many and to whom.
    """

    audits: tuple[Mapping[str, str], ...]
    suspects: int
    first_seen: str
    burnt: int
    disclosures: tuple[Mapping[str, str], ...]


def earlier_audits(registry: "Registry", suspect: Suspect, key_set: str, *, leave_out: str) -> History:
    """Return what went before an audit.

    Args:
        registry: where it is recorded.
        suspect: who is asked now.
        key_set: id.
        leave_out: id of the audit itself.
    """
    with registry.snapshot() as uow:
        audits = uow.audits.of_suspect(suspect.digest, key_set=key_set)
        met = uow.suspects.find(suspect.digest)
        known = uow.suspects.count()
        burns = uow.candidates.burns(key_set)
        by_audit = uow.audits.some({where for _, where in burns.values()})
    shown: dict[str, list[str]] = {}
    for at, where in burns.values():
        shown.setdefault(where, []).append(at.isoformat(timespec="seconds"))
    return History(
        audits=tuple(
            {
                "audit_id": audit.id,
                "at": audit.created_at.isoformat(),
                "verdict": audit.verdict or "unfinished",
                "profile": f"{audit.plan.get('profile', '')}/{audit.plan.get('match', '')}",
                "engine": str(audit.plan.get("backend", {}).get("engine", "")),
            }
            for audit in audits
            if audit.id != leave_out
        ),
        suspects=known if met is not None else known + 1,
        first_seen="" if met is None else met.first_seen_at.isoformat(),
        burnt=len(burns),
        disclosures=tuple(
            {
                "audit_id": where,
                "at": min(times),
                "candidates": str(len(times)),
                "to": _shown_to(by_audit[where]) if where in by_audit else "",
            }
            for where, times in shown.items()
            if where != leave_out
        ),
    )


def _shown_to(audit: AuditRecord) -> str:
    """Return who saw an audit's questions: an endpoint, or, as a local suspect burns nothing, who read the evidence."""
    endpoint = audit.plan.get("suspect", {}).get("kind") == "endpoint"
    return audit.suspect if endpoint else "the readers of its evidence"


def unfinished(registry: "Registry", plan: AuditPlan, *, fresh_only: bool) -> tuple[str, AuditPlan]:
    """Return id and plan of the newest audit that was left unfinished under the same settings.

    Args:
        registry: where it is recorded.
        plan: what would be planned now.
        fresh_only: whether only candidates are asked that were not shown before; those are the ones that were fresh
            when the audit was planned.

    Raises:
        UsageError: there is none.
    """
    wanted = _comparable(plan.to_json(), fresh_only=fresh_only)
    with registry.snapshot() as uow:
        audits = uow.audits.unfinished(plan.key_set)
    for audit in reversed(audits):
        if _comparable(audit.plan, fresh_only=fresh_only) == wanted:
            return audit.id, AuditPlan.from_json(audit.plan)
    others = [audit for audit in audits if audit.suspect_digest == plan.suspect["digest"]]
    if not others:
        raise UsageError(
            f"no audit of {plan.suspect['location']} with this key set was left unfinished",
            advice="leave --resume out",
        )
    found = _comparable(others[-1].plan, fresh_only=fresh_only)
    changed = ", ".join(sorted(name for name in wanted if found.get(name) != wanted[name]))
    raise UsageError(
        f"audit {others[-1].id} of {plan.suspect['location']} was left unfinished under another plan: {changed} differ",
        advice="resume with the same options, or leave --resume out",
    )


def _comparable(plan: Mapping[str, Any], *, fresh_only: bool) -> dict[str, Any]:
    """Return what must be the same for an audit to be the same one, interrupted."""
    engine = plan.get("backend", {})
    kept = {name: value for name, value in plan.items() if name not in ("audit", "backend")}
    kept["engine"] = [engine.get(name) for name in ("kind", "engine", "version")]
    return kept | {"population": []} if fresh_only else kept
