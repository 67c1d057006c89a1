"""Long work leaves a trace: running, then succeeded, failed or cancelled; interrupted, if its process vanished.

Whoever looks at jobs finds those that died and says so. A job can be asked to end from anywhere that reaches the
registry, and one that was begun by a command that knows ``--resume`` can be gone on with.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.addresses import REDACTED
from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.errors import FpvecError, OperationError, UsageError
from fpvec_audit.services.heartbeat import Heartbeat

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

LOGGER = logging.getLogger(__name__)
RESUMABLE = ("fingerprint", "stamp", "audit", "attack")
"""Commands that know ``--resume``."""
_LOOK_SECONDS = 0.2


@contextmanager
def recorded_job(registry: "Registry", kind: str, detail: Mapping[str, Any]) -> Iterator[JobRecord]:
    """Record a job around a piece of work; the transaction is never held while the work goes on.

    While it goes on, a thread says that the job is alive (``services/heartbeat.py``).

    Args:
        registry: where the job is recorded.
        kind: use case ("fingerprint", "stamp", …).
        detail: what it works on; no secrets, no floats.

    Raises:
        KeyboardInterrupt: in the work, where somebody asked for the job's end.
    """
    with registry.unit_of_work() as uow:
        uow.jobs.mark_interrupted()
        job = uow.jobs.start(kind, detail, command=registry.command, directory=_here() if registry.command else "")
    heartbeat = Heartbeat(registry, job.id)
    heartbeat.start()
    try:
        yield job
        heartbeat.stop()
    except BaseException as error:
        heartbeat.stop()
        interrupted = isinstance(error, KeyboardInterrupt)
        ended = JobState.CANCELLED if interrupted else JobState.FAILED
        problem = {} if interrupted else {"problem": registry.redaction.text(str(error))}
        try:
            with registry.unit_of_work() as uow:
                uow.jobs.finish(job.id, ended, {**detail, **problem})
        except FpvecError as unrecorded:  # what went wrong first is what the user should read
            LOGGER.warning("that job %s ended could not be recorded: %s", job.id, unrecorded)
        raise
    with registry.unit_of_work() as uow:
        uow.jobs.finish(job.id, JobState.SUCCEEDED, detail)


def list_jobs(*, registry: "Registry", selection: Selection = EVERYTHING) -> Sequence[JobRecord]:
    """Return jobs, oldest first if nothing else is asked for; those whose process vanished are marked on the way.

    Args:
        registry: where to look.
        selection: filters, order and page.

    Raises:
        UsageError: the selection names nothing.
    """
    _mark_interrupted(registry)
    with registry.snapshot() as uow:
        return uow.jobs.select(selection)


def show_job(reference: str, *, registry: "Registry") -> JobRecord:
    """Return a job as it stands now.

    Args:
        reference: id, which may be shortened.
        registry: where to look.

    Raises:
        UsageError: there is none, or several.
    """
    _mark_interrupted(registry)
    with registry.snapshot() as uow:
        return uow.jobs.get(reference)


def cancel_job(
    reference: str,
    *,
    registry: "Registry",
    patience: float,
    timer: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> JobRecord:
    """Ask for the end of a job, wherever it runs, and wait a little for it.

    Args:
        reference: id, which may be shortened.
        registry: where it is recorded.
        patience: seconds to wait.
        timer: gives seconds from any beginning.
        sleep: waits for seconds.

    Raises:
        UsageError: there is no such job, or it is not running.
        OperationError: it has not ended yet; it will when it hears of it.
    """
    _mark_interrupted(registry)
    with registry.unit_of_work() as uow:
        job = uow.jobs.ask_to_cancel(uow.jobs.get(reference).id)
    until = timer() + patience
    while job.state is JobState.RUNNING:
        if timer() > until:
            raise OperationError(
                f"job {job.id} on {job.host} was asked to end and has not done so within {patience:g} s",
                advice=f"it ends as soon as it hears of it; `fpvec job show {job.id}` tells",
            )
        sleep(_LOOK_SECONDS)
        job = show_job(job.id, registry=registry)
    return job


@dataclass(frozen=True, slots=True)
class Resumption:
    """A command that goes on with what a job left.

    Attributes:
        job: what is gone on with.
        arguments: of the command, without those that say which registry.
        directory: where to give it.
    """

    job: JobRecord
    arguments: tuple[str, ...]
    directory: Path


def resumption(reference: str, *, registry: "Registry") -> Resumption:
    """Return the command that goes on with a job.

    Args:
        reference: id, which may be shortened.
        registry: where it is recorded.

    Raises:
        UsageError: there is no such job, it runs or has succeeded, or no command goes on with it.
    """
    job = show_job(reference, registry=registry)
    command = job.command[:1]
    if job.state is JobState.RUNNING:
        raise UsageError(
            f"job {job.id} is running (process {job.process} on {job.host})",
            advice=f"end it first: `fpvec job cancel {job.id}`",
        )
    if job.state is JobState.SUCCEEDED:
        raise UsageError(f"job {job.id} has succeeded", advice="there is nothing to go on with")
    if job.kind == "fleet":
        raise UsageError(
            f"job {job.id} drove run {job.detail.get('run', '')}",
            advice=f"go on with the run: `fpvec fleet resume {job.detail.get('run', 'RUN')}`",
        )
    if command != (job.kind,) or job.kind not in RESUMABLE:
        how = f"`fpvec {command[0]}`" if command else "no command"
        raise UsageError(
            f"job {job.id} ({job.kind}) was begun by {how}, which cannot go on with what is left",
            advice=f"run it anew; {', '.join(RESUMABLE)} are what can be resumed",
        )
    if any(REDACTED in argument for argument in job.command):
        raise UsageError(
            f"the command of job {job.id} held a secret, which is not recorded",
            advice=f"give the command once more yourself, with --resume: fpvec {' '.join(job.command)} --resume",
        )
    directory = Path(job.directory)
    if not directory.is_dir():
        raise UsageError(
            f"the directory {directory}, where job {job.id} was begun on {job.host}, is not here",
            advice=f"resume it on {job.host}",
        )
    return Resumption(job, (*job.command, *(() if "--resume" in job.command else ("--resume",))), directory)


def job_json(job: JobRecord) -> dict[str, Any]:
    """Return the JSON object of a job that scripts read."""
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "detail": dict(job.detail),
        "host": job.host,
        "process": job.process,
        "command": list(job.command),
        "directory": job.directory,
        "started_at": job.started_at.isoformat(),
        "heartbeat_at": None if job.heartbeat_at is None else job.heartbeat_at.isoformat(),
        "cancel_asked_at": None if job.cancel_asked_at is None else job.cancel_asked_at.isoformat(),
        "ended_at": None if job.ended_at is None else job.ended_at.isoformat(),
    }


def _mark_interrupted(registry: "Registry") -> None:
    """Say of jobs that vanished that they did; who may only read is not kept from looking where there are none."""
    with registry.snapshot() as uow:
        vanished = uow.jobs.vanished()
    if vanished:
        with registry.unit_of_work() as uow:
            uow.jobs.mark_interrupted()


def _here() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
