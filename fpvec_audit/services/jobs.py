"""Long work leaves a trace: running, then succeeded, failed or cancelled, whatever happens in between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.records import JobRecord, JobState

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
