"""Use case: audit a suspect once, however often that is tried: after a lost worker, a lost driver, a second run.

An audit that repeats what was done counts as a further test and would correct every later one. So what is to be asked
gets a number of its own – a digest of key set, settings and engine – which the plan carries where a single audit's is
drawn. Whoever tries again finds by it the audit that is whole, or goes on with the one that was cut short.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.records import AuditRecord
from fpvec_audit.errors import OperationError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.suspects import describe_endpoint, describe_suspect, is_endpoint, printable

if TYPE_CHECKING:
    from fpvec_audit.backends import EngineSource
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

_NUMBER_BYTES = 8
"""Random bytes that an audit's number is drawn from."""


@dataclass(frozen=True, slots=True)
class AuditedOnce:
    """An audit that is whole.

    Attributes:
        audit_id: its id.
        verdict: what it came to.
        already: whether it was whole before.
    """

    audit_id: str
    verdict: str
    already: bool


def audit_once(
    suspect: str,
    *,
    key_set: str,
    settings: AuditSettings,
    registry: "Registry",
    catalog: "Catalog",
    backend: "str | EngineSource" = "auto",
    salt: str = "",
    device: str = "auto",
    tensor_parallel: int | None = None,
    directory: Path | None = None,
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> AuditedOnce:
    """Audit one suspect, unless the very same audit is whole already.

    Args:
        suspect: checkpoint directory, the id of a repository on the hub, or the base URL of an endpoint.
        key_set: name or id of the key set to ask for.
        settings: how the suspect is asked; those of an endpoint name its model.
        registry: where key set, plan and result are recorded.
        catalog: plugins.
        backend: ``auto``, ``vllm`` or ``transformers``, or a source of engines.
        salt: what makes an audit another one with the same settings; empty where it is to be found again.
        device: torch device of the engine.
        tensor_parallel: over how many GPUs vLLM divides a model; None for as few as hold it.
        directory: where a copy of a suspect that lies elsewhere is; None for one that is found by what it is called.
        progress: where to report.
        entropy: gives the random bytes of nonces.

    Raises:
        OperationError: the same audit is under way in another process.
        FpvecError: as :func:`fpvec_audit.services.audit.audit`.
    """
    with registry.snapshot() as uow:
        record = uow.key_sets.get(key_set)
    digest = _digest(suspect, settings, directory, catalog=catalog, progress=progress)
    number = _number(record.id, settings, backend=backend if isinstance(backend, str) else "", salt=salt)
    known = _known(registry, digest, record.id, number)
    if known is not None and known.ended_at is not None:
        return AuditedOnce(known.id, known.verdict, already=True)
    if known is not None:
        _refuse_under_way(registry, suspect, record.id)

    def ask(*, resume: bool) -> AuditedOnce:
        result = audit(
            suspect,
            key_set=record.id,
            registry=registry,
            catalog=catalog,
            settings=settings,
            backend=backend,
            resume=resume,
            device=device,
            tensor_parallel=tensor_parallel,
            directory=directory,
            progress=progress,
            entropy=_numbered(bytes.fromhex(number), entropy),
        )
        return AuditedOnce(result.audit_id, result.verdict.value, already=False)

    if known is None:
        return ask(resume=False)
    try:
        return ask(resume=True)
    except UsageError:  # another engine answers here than where it was cut short: that is another plan
        return ask(resume=False)


def _digest(
    suspect: str, settings: AuditSettings, directory: Path | None, *, catalog: "Catalog", progress: Progress
) -> str:
    """Return what identifies a suspect."""
    if not is_endpoint(suspect):
        described = describe_suspect(
            suspect, catalog=catalog, architecture=settings.architecture, directory=directory, progress=progress
        )
        return described.digest
    if settings.endpoint.model is None:
        raise UsageError(
            f"{suspect} is an endpoint, and nothing says which of its models is meant",
            advice="name the model, so that an audit of it is found again",
        )
    return describe_endpoint(suspect, settings.endpoint.model).digest


def _number(key_set: str, settings: AuditSettings, *, backend: str, salt: str) -> str:
    """Return 16 hexadecimal digits that follow from what is asked and how."""
    asked: Mapping[str, Any] = asdict(settings)
    endpoint = {name: value for name, value in asked["endpoint"].items() if name in ("model", "endpoint")}
    how = {name: _plain(value) for name, value in {**asked, "endpoint": endpoint}.items()}
    named = {"key_set": key_set, "settings": how, "backend": backend, "salt": salt}
    return canonical_digest(named)[: 2 * _NUMBER_BYTES]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _known(registry: "Registry", digest: str, key_set: str, number: str) -> AuditRecord | None:
    with registry.snapshot() as uow:
        audits = uow.audits.of_suspect(digest, key_set=key_set)
    own = [audit for audit in audits if audit.plan.get("audit") == number]
    return next((audit for audit in own if audit.ended_at is not None), own[-1] if own else None)


def _refuse_under_way(registry: "Registry", suspect: str, key_set: str) -> None:
    """Refuse to go on with an audit whose process is alive."""
    from fpvec_audit.domain.records import JobState
    from fpvec_audit.domain.selection import Selection
    from fpvec_audit.services.jobs import list_jobs

    running = list_jobs(registry=registry, selection=Selection({"kind": "audit", "state": JobState.RUNNING.value}))
    wanted = {"suspect": printable(suspect), "key_set": key_set}
    for job in running:
        if {name: job.detail.get(name) for name in wanted} == wanted:
            raise OperationError(
                f"this audit of {printable(suspect)} is under way in process {job.process} on {job.host}",
                advice=f"wait, or end it first: `fpvec job cancel {job.id}`",
            )


def _numbered(number: bytes, entropy: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return entropy whose first draw of an audit's number is this one; everything else is drawn."""
    left = [number]

    def draw(count: int) -> bytes:
        return left.pop() if count == len(number) and left else entropy(count)

    return draw
