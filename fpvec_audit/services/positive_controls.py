"""Positive controls: proof that an audit would have found the keys, had they been there.

Silence means nothing unless the same questions, put in the same way to the same engine, make one of the owner's own
models answer. A control that was recorded earlier counts; otherwise an own model is run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.audit import AuditPlan, Verdict
from fpvec_audit.domain.records import AuditRecord, KeySetRecord
from fpvec_audit.errors import FpvecError
from fpvec_audit.services.audit_result import TRACE_DOCUMENT

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.services.audit_result import AuditResult

MOST_TRIED = 3
MOST_LOOKED_FOR = 1000
"""Own models of one kind, the newest stamps say, among which one is looked for that still is there."""
SAME = ("profile", "match", "system_prompt_digest", "repeats", "temperature", "top_p")
"""Fields of a plan in which a control must agree with the audit that it stands for."""
SAME_ENGINE = ("kind", "engine", "version")


@dataclass(frozen=True, slots=True)
class ControlSearch:
    """What was found.

    Attributes:
        documents: audit documents of controls that work.
        warnings: why there is none, or what went wrong on the way, in sentences.
    """

    documents: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...] = ()


def find_positive_control(
    plan: AuditPlan,
    *,
    key_set: KeySetRecord,
    registry: "Registry",
    run: Callable[[Path], "AuditResult"],
) -> ControlSearch:
    """Find a control in the registry, or run own models until one works.

    Args:
        plan: the audit for which a control is wanted.
        key_set: its key set.
        registry: where audits and own models are recorded.
        run: audits a checkpoint under the same settings and engine.
    """
    suspect = plan.suspect["digest"]
    with registry.snapshot() as uow:
        matches = uow.audits.of_own_models(key_set.id, base=key_set.base, verdict=Verdict.MATCH.value)
        recorded = _recorded(matches, plan)
        own = [] if recorded is not None else list(uow.models.own(key_set.id, base=key_set.base, most=MOST_LOOKED_FOR))
    if recorded is not None:
        document = {name: value for name, value in recorded.result.items() if name != TRACE_DOCUMENT}
        return ControlSearch((document | {"recorded": True},))
    paths = [Path(model.location) for model in own if model.id != suspect]
    present = [path for path in dict.fromkeys(paths) if path.is_dir()]
    if not present:
        return ControlSearch((), (_absence(paths),))
    warnings: list[str] = []
    for path in present[:MOST_TRIED]:
        try:
            control = run(path)
        except FpvecError as error:
            warnings.append(f"positive control {path} failed: {error.problem}")
            continue
        if not _same_engine(control.plan.backend, plan):
            warnings.append(f"positive control {path} was answered by another engine and does not count")
            continue
        if control.verdict is Verdict.MATCH:
            return ControlSearch((control.to_json(),), tuple(warnings))
        warnings.append(
            f"positive control {path} says {control.verdict.value} ({control.score.matched} of "
            f"{control.score.issued}): these questions do not find the keys even where they should be"
        )
    return ControlSearch((), tuple(warnings))


def _recorded(matches: Iterable[AuditRecord], plan: AuditPlan) -> AuditRecord | None:
    wanted = plan.to_json()
    for audit in matches:
        same_way = all(audit.plan.get(name) == wanted[name] for name in SAME)
        if same_way and _same_engine(audit.plan.get("backend", {}), plan):
            return audit
    return None


def _same_engine(engine: Mapping[str, Any], plan: AuditPlan) -> bool:
    return all(engine.get(name) == plan.backend[name] for name in SAME_ENGINE)


def _absence(paths: Sequence[Path]) -> str:
    if paths:
        return (
            f"no positive control: the own model {paths[0]} is not there any more, so silence proves nothing; "
            "restore it, or register another fingerprinted or stamped model"
        )
    return (
        "no positive control: no own fingerprinted or stamped model of this key set is registered, so silence proves "
        "nothing"
    )
