"""Long work leaves a trace: running, then succeeded, failed or cancelled; interrupted, if its process vanished."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.domain.selection import EVERYTHING, Selection

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


@contextmanager
def recorded_job(registry: "Registry", kind: str, detail: Mapping[str, Any]) -> Iterator[JobRecord]:
    """Record a job around a piece of work; the transaction is never held while the work goes on.

    Args:
        registry: where the job is recorded.
        kind: use case ("fingerprint", "stamp", …).
        detail: what it works on; no secrets, no floats.
    """
    with registry.unit_of_work() as uow:
        uow.jobs.mark_interrupted()
        job = uow.jobs.start(kind, detail)
    try:
        yield job
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with registry.unit_of_work() as uow:
            if interrupted:
                uow.jobs.finish(job.id, JobState.CANCELLED, detail)
            else:
                uow.jobs.finish(job.id, JobState.FAILED, {**detail, "problem": str(error)})
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
    with registry.unit_of_work() as uow:
        uow.jobs.mark_interrupted()
        return uow.jobs.select(selection)


def job_json(job: JobRecord) -> dict[str, Any]:
    """Return the JSON object of a job that scripts read."""
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "detail": dict(job.detail),
        "host": job.host,
        "process": job.process,
        "started_at": job.started_at.isoformat(),
        "ended_at": None if job.ended_at is None else job.ended_at.isoformat(),
    }
