"""Attack runs that were left unfinished, and the cells of them that are done.

A run is a job, and every cell a row that is written when the cell ends; a matrix id ties them together. So whatever
killed a run, what it had finished is there, and a later run with the same plan goes on with the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.attack_matrix import PlannedCell
from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.errors import OperationError, UsageError

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

KIND = "attack"
MATRIX, PLAN = "matrix", "plan"
"""Fields of a job's detail: what ties cells together, and what the run was to do."""
MATRIX_ID = "matrix_id"
"""Field of a cell's recorded result."""


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """An attack run on the same model with the same keys.

    Attributes:
        job: its job.
        results: recorded results of its cells that succeeded, oldest first.
    """

    job: JobRecord
    results: tuple[Mapping[str, Any], ...]

    @property
    def matrix(self) -> str:
        """What ties its cells together."""
        return str(self.job.detail.get(MATRIX, ""))

    def done(self, cells: Sequence[PlannedCell]) -> dict[int, Mapping[str, Any]]:
        """Return number → result of the cells that succeeded."""
        found = {}
        for cell in cells:
            parameters = dict(cell.chain.parameters)
            for result in self.results:
                if (result["name"], result["parameters"]) == (cell.chain.name, parameters):
                    found[cell.number] = result
        return found


def earlier_runs(registry: "Registry", *, stamped: str, key_set: str) -> tuple[EarlierRun, ...]:
    """Return the attack runs on a model with a key set, oldest first; those whose process vanished are marked.

    Args:
        registry: where they are recorded.
        stamped: model id.
        key_set: id.
    """
    with registry.unit_of_work() as uow:
        uow.jobs.mark_interrupted()
        jobs = [
            job
            for job in uow.jobs.list()
            if job.kind == KIND and (job.detail.get("stamped"), job.detail.get("key_set")) == (stamped, key_set)
        ]
        runs = [run for run in uow.attack_runs.list(stamped) if run.state is JobState.SUCCEEDED]
    return tuple(
        EarlierRun(job, tuple(run.result for run in runs if run.result.get(MATRIX_ID) == job.detail.get(MATRIX)))
        for job in jobs
        if job.detail.get(MATRIX)
    )


def newest_run(runs: Sequence[EarlierRun], plan: str) -> EarlierRun | None:
    """Return the newest run of a plan that is not under way, whole or not; None where there is none.

    Args:
        runs: earlier runs, oldest first.
        plan: its digest.

    Raises:
        OperationError: one is under way.
    """
    same = [run for run in runs if run.job.detail.get(PLAN) == plan]
    for run in same:
        if run.job.state is JobState.RUNNING:
            raise OperationError(
                f"this attack run goes on in process {run.job.process} on {run.job.host}",
                advice=f"wait, or end it first: `fpvec job cancel {run.job.id}`",
            )
    return same[-1] if same else None


def run_to_resume(runs: Sequence[EarlierRun], cells: Sequence[PlannedCell], plan: str) -> EarlierRun:
    """Return the newest run of a plan, if something of it is left to do.

    Args:
        runs: earlier runs, oldest first.
        cells: what the plan asks for.
        plan: its digest.

    Raises:
        UsageError: there is none, it is whole, or it is still running.
    """
    same = [run for run in runs if run.job.detail.get(PLAN) == plan]
    if not same:
        others = _unfinished(runs)
        advice = "leave --resume out"
        if others:
            left = others[-1].job
            advice = f"job {left.id} was left unfinished with another plan: `fpvec job resume {left.id}`, or {advice}"
        raise UsageError("no attack run with this plan was begun on this model with this key set", advice=advice)
    running = next((run.job for run in same if run.job.state is JobState.RUNNING), None)
    if running is not None:
        raise UsageError(
            f"this attack run goes on in process {running.process} on {running.host}",
            advice=f"wait, or end it first: `fpvec job cancel {running.id}`",
        )
    newest = same[-1]
    if len(newest.done(cells)) == len(cells):
        raise UsageError("all cells of this attack run succeeded", advice="leave --resume out to run them anew")
    return newest


def unfinished_sentence(runs: Sequence[EarlierRun], cells: Sequence[PlannedCell], plan: str) -> str:
    """Return what to tell who starts anew though a run was left unfinished; empty where none was."""
    left = _unfinished(runs)
    newest = next((run for run in reversed(left) if run.job.detail.get(PLAN) == plan), None)
    if newest is not None:
        done = len(newest.done(cells))
        return (
            f"an attack run with the same plan was left unfinished with {done} of {len(cells)} cells done; "
            "--resume goes on with it"
        )
    if not left:
        return ""
    other = left[-1]
    return (
        f"an attack run on this model was left unfinished after {len(other.results)} cells; "
        f"`fpvec job resume {other.job.id}` goes on with it"
    )


def _unfinished(runs: Sequence[EarlierRun]) -> list[EarlierRun]:
    """Return the runs that did not end well and that nobody goes on with or has gone on with to the end."""
    settled = {run.matrix for run in runs if run.job.state in (JobState.RUNNING, JobState.SUCCEEDED)}
    return [run for run in runs if run.matrix not in settled]
