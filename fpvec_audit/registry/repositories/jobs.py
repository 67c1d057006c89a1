"""Long work under way or ended: ``running`` → succeeded, failed or cancelled, each in a short unit of its own."""

import os
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.repositories.listing import Equal, Listing
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.tables import JobRow

JOBS = Directory("job", JobRow.id, None, prefix="job-", listing="fpvec job list")
LISTING = Listing(JOBS, JobRow, JobRow.started_at, filters={"state": Equal(JobRow.state), "kind": Equal(JobRow.kind)})


class JobRepository:
    """Jobs by id. They are operation, not evidence: no ledger entries.

    Args:
        session: session of the surrounding unit of work.
        clock: gives the times.
        entropy: gives random bytes for ids.
    """

    def __init__(self, session: Session, clock: Callable[[], datetime], entropy: Callable[[int], bytes]) -> None:
        self._session = session
        self._clock = clock
        self._entropy = entropy

    def start(self, kind: str, detail: Mapping[str, Any]) -> JobRecord:
        """Record that this process begins a job.

        Args:
            kind: use case ("fingerprint").
            detail: what it works on, without secrets.
        """
        row = JobRow(
            id=f"job-{self._entropy(8).hex()}",
            kind=kind,
            state=JobState.RUNNING.value,
            detail=dict(detail),
            process=os.getpid(),
            host=socket.gethostname(),
            command=[],
            started_at=self._clock(),
            ended_at=None,
        )
        self._session.add(row)
        self._session.flush()
        return _record(row)

    def finish(self, identifier: str, state: JobState, detail: Mapping[str, Any]) -> JobRecord:
        """Record how a job ended; ``detail`` adds to what was said at its start.

        Raises:
            RegistryError: there is no such job, or it ended already.
        """
        row = self._session.get(JobRow, identifier)
        if row is None or row.state != JobState.RUNNING.value:
            raise RegistryError(f"job {identifier} is not running", advice="`fpvec job list` shows what became of it")
        row.state = state.value
        row.detail = {**row.detail, **detail}
        row.ended_at = self._clock()
        self._session.flush()
        return _record(row)

    def mark_interrupted(self) -> tuple[JobRecord, ...]:
        """Record that the running jobs of this machine whose process is gone were interrupted, and return them."""
        statement = select(JobRow).where(
            JobRow.state == JobState.RUNNING.value, JobRow.host == socket.gethostname(), JobRow.process != os.getpid()
        )
        found = [row for row in self._session.scalars(statement) if not _is_alive(row.process)]
        for row in found:
            row.state = JobState.INTERRUPTED.value
            row.ended_at = self._clock()
        self._session.flush()
        return tuple(_record(row) for row in found)

    def get(self, reference: str) -> JobRecord:
        """Return a job by id or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        return _record(self._session.get_one(JobRow, JOBS.resolve(self._session, reference)))

    def select(self, selection: Selection) -> tuple[JobRecord, ...]:
        """Return the jobs of a selection: by ``state`` and ``kind``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return tuple(_record(row) for row in LISTING.rows(self._session, selection))

    def list(self) -> tuple[JobRecord, ...]:
        """Return all jobs, oldest first."""
        rows = self._session.scalars(select(JobRow).order_by(JobRow.started_at, JobRow.id))
        return tuple(_record(row) for row in rows)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _record(row: JobRow) -> JobRecord:
    return JobRecord(
        id=row.id,
        kind=row.kind,
        state=JobState(row.state),
        detail=row.detail,
        process=row.process,
        host=row.host,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
