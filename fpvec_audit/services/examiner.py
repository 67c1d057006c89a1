"""Use case: examine a suspect for somebody else, without knowing which of the questions matter.

An examiner gets a package with the plan, the prompts and the responses, and not the assignment. It finds out for itself
that the suspect is the planned one, asks everything in the order that chance gave, and signs what came back. It needs
neither the owner's registry nor a registry of its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import Engines, EngineSource
from fpvec_audit.domain.audit_plan import AuditPlan
from fpvec_audit.domain.ports import BackendDescription, InferenceBackend
from fpvec_audit.domain.transcript import COMPLETE, END, Answer, Record, chained, genesis
from fpvec_audit.domain.witness import MOST_NAME, printable
from fpvec_audit.errors import EvidenceError, UsageError
from fpvec_audit.evidence.signing import SigningKey, sign_document
from fpvec_audit.evidence.standing import EXAMINER_TYPE, ExaminerStatement
from fpvec_audit.evidence.statement import examiner_statement
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit_settings import EndpointSettings
from fpvec_audit.services.collecting import ENDPOINT_AT_ONCE, PROMPTS_AT_ONCE, Interview, collect
from fpvec_audit.services.examination_files import ExaminationPackage, ExaminedFile, read_package, write_examined
from fpvec_audit.services.suspects import describe_endpoint, describe_suspect, is_endpoint, short_path

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Examination:
    """What an examiner asked and signed.

    Attributes:
        statement: what it says.
        envelope: the statement, signed.
        records: the transcript; secret, as it holds prompts.
        backend: which engine answered.
        errors: questions without an answer.
        warnings: in what the engine differs from the planned one, in sentences.
        out: file it was written to.
    """

    statement: ExaminerStatement
    envelope: Mapping[str, Any]
    records: tuple[Record, ...] = field(repr=False)
    backend: BackendDescription
    errors: int
    warnings: tuple[str, ...]
    out: Path

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no prompt, and says nothing about what matched."""
        said = self.statement
        return {
            "out": str(self.out),
            "plan_digest": said.plan,
            "suspect_digest": said.suspect,
            "transcript": said.transcript,
            "records": said.records,
            "errors": self.errors,
            "engine": f"{self.backend.engine} {self.backend.version}".strip(),
            "name": said.name,
            "time": said.time,
            "examiner": said.examiner,
            "warnings": list(self.warnings),
            "next": f"hand {self.out} back to the owner, who runs `fpvec evidence attach {self.out.name}`",
        }


def examine(
    package_file: Path,
    suspect: str | Path,
    *,
    key: SigningKey,
    name: str,
    out: Path,
    catalog: "Catalog",
    backend: str | EngineSource | None = None,
    endpoint: EndpointSettings | None = None,
    architecture: str | None = None,
    device: str = "auto",
    progress: Progress = NO_PROGRESS,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Examination:
    """Ask a suspect what a package says, and sign what came back.

    Args:
        package_file: what the owner handed over.
        suspect: checkpoint directory, hub id or base URL, as the examiner has it.
        key: the examiner's.
        name: what the examiner calls itself.
        out: new file for transcript and statement; secret, as it holds prompts.
        catalog: plugins.
        backend: ``auto``, ``vllm`` or ``transformers``, or a source of engines; None for the planned kind.
        endpoint: how a suspect behind a URL is reached.
        architecture: adapter to use instead of the detected one, where the owner did so.
        device: torch device of the engine.
        progress: where to report.
        clock: the examiner's.

    Raises:
        UsageError: a name that does not print.
        EvidenceError: the package is none, the suspect or the engine is not the planned one, or ``out`` cannot be
            written.
        CheckpointError: the suspect cannot be read.
        BackendError: the engine cannot load the suspect, or failed; nothing is written then.
    """
    if not name.strip() or len(name) > MOST_NAME or printable(name) != name:
        raise UsageError(f"{name[:80]!a} is no name that can be shown", advice="use 1 to 200 characters that print")
    if out.exists() or out.is_symlink():
        raise EvidenceError(f"{out} exists already", advice="name another file for the examination")
    package = read_package(package_file)
    with ExitStack() as stack:
        if is_endpoint(suspect):
            answering = _connect(str(suspect), package.plan, endpoint or EndpointSettings())
        else:
            answering = _load(str(suspect), package.plan, stack, catalog, backend, architecture, device, progress)
        stack.callback(answering.close)
        warnings = _differences(answering.description, package.plan)
        records = _asked(package, answering, shown=_shown(str(suspect)), progress=progress)
        description = answering.description
    statement = examiner_statement(
        package.plan,
        package.begin,
        records,
        responses=package.responses,
        examiner=key.public_key,
        name=name,
        time=clock().astimezone(UTC).isoformat(timespec="seconds"),
    )
    envelope = sign_document(EXAMINER_TYPE, statement.to_json(), key).to_json()
    errors = sum(bool(record.content.get("error")) for record in records)
    examination = Examination(statement, envelope, records, description, errors, warnings, out)
    write_examined(out, ExaminedFile(description, [record.to_json() for record in records], envelope))
    return examination


def _shown(suspect: str) -> str:
    return suspect if is_endpoint(suspect) else short_path(Path(suspect))


def _load(
    suspect: str,
    plan: AuditPlan,
    stack: ExitStack,
    catalog: "Catalog",
    backend: str | EngineSource | None,
    architecture: str | None,
    device: str,
    progress: Progress,
) -> InferenceBackend:
    """Load a checkpoint after finding out that its weights are the planned ones."""
    described = describe_suspect(suspect, catalog=catalog, architecture=architecture, progress=progress)
    assert described.directory is not None
    _refuse_other_suspect(suspect, described.digest, plan)
    if described.texts != plan.suspect.get("texts", described.texts):
        raise EvidenceError(
            f"{suspect} has the planned weights, but another tokenizer or chat template: the same prompts would ask it "
            "something else",
            advice="ask the owner where the suspect is to be had as its publisher gave it, or for another package",
        )
    wanted = backend or plan.backend.get("kind", "auto")
    if isinstance(wanted, str):
        wanted = stack.enter_context(Engines(wanted, device=device))
    with progress.step(f"load {described.shown}"):
        return wanted.open(described.directory)


def _connect(url: str, plan: AuditPlan, settings: EndpointSettings) -> InferenceBackend:
    """Connect to an endpoint after finding out that it serves the planned model, at the planned address."""
    from fpvec_audit.backends.api import ApiBackend

    chat = plan.template == "endpoint"
    backend = ApiBackend(
        url,
        model=settings.model or plan.suspect.get("model"),
        endpoint="chat" if chat else "completions",
        system_prompt=plan.system_prompt if chat else "",
        api_key=settings.api_key,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        max_requests=settings.max_requests,
        ca_file=settings.ca_file,
    )
    try:
        told = backend.description.settings
        _refuse_other_suspect(url, describe_endpoint(told["url"], told["model"]).digest, plan)
    except BaseException:
        backend.close()
        raise
    return backend


def _refuse_other_suspect(suspect: str, digest: str, plan: AuditPlan) -> None:
    if digest != plan.suspect["digest"]:
        raise EvidenceError(
            f"{suspect} is not the planned suspect: its digest is {digest}, planned was {plan.suspect['digest']} "
            f"({plan.suspect['kind']} {plan.suspect['location']!a})",
            advice="ask the owner where the suspect is to be had, or for another package",
        )


def _differences(engine: BackendDescription, plan: AuditPlan) -> tuple[str, ...]:
    """Refuse another kind of engine than was planned, and say where else this one differs.

    Raises:
        EvidenceError: it is of another kind.
    """
    if engine.kind != plan.backend.get("kind"):
        raise EvidenceError(
            f"the plan says that {plan.backend.get('kind')} answers, here it would be {engine.kind}",
            advice=f"use --backend {plan.backend.get('kind')}, or ask for a package that is planned for {engine.kind}",
        )
    here = {"engine": engine.engine, "version": engine.version, **engine.settings}
    return tuple(
        f"the {name} is {here.get(name) or 'unknown'} here, planned was {value or 'unknown'}"
        for name, value in plan.backend.items()
        if name != "kind" and not re.match("header |tls", name) and here.get(name) != value and name != "first_tokens"
    )


def _asked(
    package: ExaminationPackage, backend: InferenceBackend, *, shown: str, progress: Progress
) -> tuple[Record, ...]:
    """Ask everything and return the whole transcript."""
    given: list[Answer] = []

    def keep(_place: int, answers: Sequence[Answer]) -> bool:
        given.extend(answers)
        return False

    collect(
        [Interview(package.plan, package.begin, package.prompts)],
        backend,
        keep=keep,
        at_once=ENDPOINT_AT_ONCE if package.plan.suspect["kind"] == "endpoint" else PROMPTS_AT_ONCE,
        label=f"ask {shown}",
        progress=progress,
    )
    contents = [*(answer.to_json() for answer in given), {"kind": END, "reason": COMPLETE}]
    return chained(contents, previous=genesis(package.plan.digest, package.begin.nonce))
