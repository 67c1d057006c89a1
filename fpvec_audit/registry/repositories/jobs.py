"""Long work under way or ended: ``running`` → succeeded, failed or cancelled, each in a short unit of its own.

A job whose process is gone, or that has given no sign of life for two minutes, is marked ``interrupted`` by whoever
looks. If it was only held up, its next heartbeat says so and it is running again; only its own process can end it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import RegistryError, UsageError
from fpvec_audit.registry.processes import Process, is_gone, this_process
from fpvec_audit.registry.repositories.listing import Equal, Listing
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.tables import JobRow

JOBS = Directory("job", JobRow.id, None, prefix="job-", listing="fpvec job list")
LISTING = Listing(JOBS, JobRow, JobRow.started_at, filters={"state": Equal(JobRow.state), "kind": Equal(JobRow.kind)})
LIFELESS = timedelta(minutes=2)
"""Without a heartbeat for so long a job counts as interrupted, on whatever machine."""
_OPEN = (JobState.RUNNING.value, JobState.INTERRUPTED.value)
"""States in which the process itself can still say how the job ended."""


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

    def start(
        self, kind: str, detail: Mapping[str, Any], *, command: Sequence[str] = (), directory: str = ""
    ) -> JobRecord:
        """Record that this process begins a job.

        Args:
            kind: use case ("fingerprint").
            detail: what it works on, without secrets.
            command: arguments that began it, without secrets; empty where it was not begun by a command.
            directory: where the command was given.
        """
        process, now = this_process(), self._clock()
        row = JobRow(
            id=f"job-{self._entropy(8).hex()}",
            kind=kind,
            state=JobState.RUNNING.value,
            detail=dict(detail),
            process=process.number,
            host=process.host,
            identity=process.identity,
            command=list(command),
            directory=directory,
            started_at=now,
            heartbeat_at=now,
            cancel_asked_at=None,
            ended_at=None,
        )
        self._session.add(row)
        self._session.flush()
        return _record(row)

    def finish(self, identifier: str, state: JobState, detail: Mapping[str, Any]) -> JobRecord:
        """Record how a job ended; ``detail`` adds to what was said at its start.

        Its own process says so, so it holds also where somebody else took the job for interrupted.

        Raises:
            RegistryError: there is no such job, or it ended already.
        """
        row = self._session.get(JobRow, identifier)
        if row is None or row.state not in _OPEN:
            raise RegistryError(f"job {identifier} is not running", advice="`fpvec job list` shows what became of it")
        row.state = state.value
        row.detail = {**row.detail, **detail}
        row.ended_at = self._clock()
        self._session.flush()
        return _record(row)

    def beat(self, identifier: str) -> bool:
        """Record that a job is alive, and return whether somebody asked for its end.

        Raises:
            RegistryError: there is no such job.
        """
        row = self._session.get(JobRow, identifier)
        if row is None:
            raise RegistryError(f"there is no job {identifier}")
        row.heartbeat_at = self._clock()
        if row.state == JobState.INTERRUPTED.value:
            row.state, row.ended_at = JobState.RUNNING.value, None
        self._session.flush()
        return row.cancel_asked_at is not None

    def ask_to_cancel(self, identifier: str) -> JobRecord:
        """Ask for the end of a running job; its own process sees that at its next heartbeat.

        Raises:
            UsageError: it is not running.
        """
        row = self._session.get_one(JobRow, identifier)
        if row.state != JobState.RUNNING.value:
            raise UsageError(f"job {identifier} is not running: it {_ended(row)}", advice="there is nothing to cancel")
        row.cancel_asked_at = row.cancel_asked_at or self._clock()
        self._session.flush()
        return _record(row)

    def vanished(self) -> tuple[JobRecord, ...]:
        """Return the jobs that are said to run, but whose process is gone or has given no sign of life for long."""
        return tuple(_record(row) for row in self._vanished())

    def mark_interrupted(self) -> tuple[JobRecord, ...]:
        """Record that the jobs that :meth:`vanished` names were interrupted, and return them."""
        found = self._vanished()
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

    def _vanished(self) -> Sequence[JobRow]:
        rows = self._session.scalars(select(JobRow).where(JobRow.state == JobState.RUNNING.value)).all()
        if not rows:
            return ()
        own, now = this_process(), self._clock()
        others = [row for row in rows if _process(row) != own]
        return [row for row in others if is_gone(_process(row)) or now - _last_sign(row) > LIFELESS]


def _process(row: JobRow) -> Process:
    return Process(row.host, row.process, row.identity)


def _last_sign(row: JobRow) -> datetime:
    return row.heartbeat_at or row.started_at


def _ended(row: JobRow) -> str:
    return "was " + row.state if row.state in ("cancelled", "interrupted") else row.state


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
        command=tuple(row.command),
        directory=row.directory,
        heartbeat_at=row.heartbeat_at,
        cancel_asked_at=row.cancel_asked_at,
    )
