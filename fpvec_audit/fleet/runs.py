"""Use cases of runs: record one, drive it to its end or go on with it, end it, say how far it is.

What a run is stands in the registry before anything begins, so whoever can reach that goes on with a run whose driver
is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.fleet import FleetItem, FleetRun, ItemState, RunState, RunTotals
from fpvec_audit.domain.records import JobRecord, JobState
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.errors import UsageError
from fpvec_audit.fleet.cluster import ray_cluster
from fpvec_audit.fleet.driver import Driver, Manner
from fpvec_audit.fleet.sources import Source, Survey, batches, survey
from fpvec_audit.fleet.watching import Watch
from fpvec_audit.services.jobs import cancel_job, show_job
from fpvec_audit.settings import Settings

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True)
class RunReport:
    """How far a run is, from the registry alone.

    Attributes:
        run: what is asked for.
        totals: how many items are where.
        failures: what was set aside, in order.
        driver: job of its last driver, None before the first.
        survey: what was found when its items were recorded; None where that was another time.
        seconds: how long the driver took; None where it was another's.
    """

    run: FleetRun
    totals: RunTotals
    failures: Sequence[FleetItem]
    driver: JobRecord | None = None
    survey: Survey | None = None
    seconds: float | None = None

    @property
    def state(self) -> str:
        """The state of the run; ``lost`` where its driver is gone without a word."""
        lost = self.run.state is RunState.RUNNING and (self.driver is None or self.driver.state is not JobState.RUNNING)
        return "lost" if lost else self.run.state.value

    @property
    def whole(self) -> bool:
        """Whether every item is done."""
        return self.totals.count(ItemState.DONE) == self.run.items

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        ended = self.run.ended_at
        return {
            "run": self.run.id,
            "action": self.run.action.value,
            "state": self.state,
            "source": self.run.source,
            "options": dict(self.run.options),
            "items": self.run.items,
            **{state.value.replace("-", "_"): self.totals.count(state) for state in ItemState},
            "repeated": None if self.survey is None else self.survey.repeated,
            "skipped": None if self.survey is None else self.survey.broken,
            "skipped_lines": [] if self.survey is None else list(self.survey.problems),
            "outcomes": dict(self.totals.outcomes),
            "nodes": [{"node": node.node, "items": node.items, "seconds": node.seconds} for node in self.totals.nodes],
            "failures": [failure_json(item) for item in self.failures],
            "driver": None if self.driver is None else {"job": self.driver.id, "host": self.driver.host},
            "created_at": self.run.created_at.isoformat(),
            "ended_at": None if ended is None else ended.isoformat(),
            "seconds": self.seconds,
        }


def failure_json(item: FleetItem) -> dict[str, Any]:
    """Return the JSON object of an item that was set aside."""
    return {
        "item": item.number,
        "line": item.line,
        "content": dict(item.content),
        "attempts": item.attempts,
        "error": item.error,
        "node": item.node,
    }


def record_run(
    source: Source, *, registry: "Registry", retries: int = 2, skip_bad: bool = False
) -> tuple[FleetRun, Survey]:
    """Record a run with all of its items; nothing has begun then.

    Args:
        source: where its items come from.
        registry: where it is recorded.
        retries: how often an item that failed is tried again before it is set aside.
        skip_bad: leave broken items out, instead of refusing all.

    Raises:
        UsageError: the source cannot be read, an item is broken, or there is none.
    """
    if retries < 0:
        raise UsageError(f"--retries {retries}", advice="give 0 or more")
    found = survey(source, registry=registry)
    if found.broken and not skip_bad:
        further = f"; {found.broken - 3} further broken lines" if found.broken > 3 else ""
        raise UsageError(
            f"{source.text}: {'; '.join(found.problems[:3])}{further}",
            advice="nothing was begun: mend them, or leave them out with --skip-bad",
        )
    if not found.items:
        raise UsageError(f"{source.text} names nothing to {source.action.value}", advice="look at what it should name")
    with registry.unit_of_work() as uow:
        run = uow.fleets.open(source.action, source.options, source=source.text, retries=retries)
    for batch in batches(source, registry=registry, skip_bad=skip_bad):
        with registry.unit_of_work() as uow:
            uow.fleets.add(run.id, batch)
    with registry.unit_of_work() as uow:
        return uow.fleets.filled(run.id), found


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a run is carried out.

    Attributes:
        settings: of the driver; workers on this machine inherit them.
        address: of the cluster: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        manner: how it is driven.
    """

    settings: Settings
    address: str = "local"
    manner: Manner = field(default_factory=Manner)


def drive_run(
    run: FleetRun, *, registry: "Registry", place: Place, watch: Watch, found: Survey | None = None
) -> RunReport:
    """Carry out what waits of a run, until every item is done or set aside.

    Args:
        run: which.
        registry: where it is recorded.
        place: where and how.
        watch: is told how far it is.
        found: what recording its items found, for the report.

    Raises:
        UsageError: Ray is not installed, or the address is none.
        OperationError: no cluster answers, or one of its nodes cannot do the work.
        KeyboardInterrupt: what was under way has ended or rolled back, and the rest waits.
    """
    from fpvec_audit.fleet.handshake import driver_greeting

    expected = driver_greeting(registry)
    with ray_cluster(place.address, settings=place.settings, expected=expected) as cluster:
        started = watch.timer()
        Driver(run, registry, cluster, place.manner, watch).drive()
        return run_report(run.id, registry=registry, found=found, seconds=watch.timer() - started)


def run_to_resume(reference: str, *, registry: "Registry", try_again: bool = False) -> FleetRun:
    """Return a run that can be gone on with.

    Args:
        reference: id, which may be shortened.
        registry: where it is recorded.
        try_again: whether what was set aside is tried once more.

    Raises:
        UsageError: there is none, nothing of it is left, it was never whole, or somebody drives it.
    """
    with registry.snapshot() as uow:
        run = uow.fleets.get(reference)
    if run.state is RunState.FILLING:
        raise UsageError(
            f"the items of run {run.id} were not all recorded, and none has begun", advice="start the run anew"
        )
    driver = _driver(run, registry=registry)
    if run.state is RunState.RUNNING and driver is not None and driver.state is JobState.RUNNING:
        raise UsageError(
            f"process {driver.process} on {driver.host} drives run {run.id}",
            advice=f"look at it with `fpvec fleet status {run.id}`, or end it with `fpvec fleet cancel {run.id}`",
        )
    with registry.unit_of_work() as uow:
        moved = uow.fleets.try_again(run.id) if try_again else 0
        totals = uow.fleets.totals(run.id)
    if not moved and not totals.count(ItemState.QUEUED) + totals.count(ItemState.RUNNING):
        aside = totals.count(ItemState.SET_ASIDE)
        raise UsageError(
            f"nothing of run {run.id} is left: {totals.count(ItemState.DONE)} items are done, {aside} set aside",
            advice="--set-aside tries those once more" if aside else "",
        )
    return run


def cancel_run(reference: str, *, registry: "Registry", patience: float) -> RunReport:
    """End a run: what is under way ends or rolls back, and nothing further begins until it is resumed.

    Args:
        reference: id, which may be shortened.
        registry: where it is recorded.
        patience: seconds to wait for its driver.

    Raises:
        UsageError: there is none, or it has ended.
        OperationError: its driver has not ended yet; it will when it hears of it.
    """
    with registry.snapshot() as uow:
        run = uow.fleets.get(reference)
    if run.state in (RunState.ENDED, RunState.CANCELLED):
        how = "has ended" if run.state is RunState.ENDED else "was cancelled before"
        raise UsageError(f"run {run.id} {how}", advice="there is nothing to cancel")
    driver = _driver(run, registry=registry)
    if driver is not None and driver.state is JobState.RUNNING:
        cancel_job(driver.id, registry=registry, patience=patience)
    with registry.unit_of_work() as uow:
        if uow.fleets.get(run.id).state is not RunState.ENDED:  # its last items may have ended meanwhile
            uow.fleets.end(run.id, RunState.CANCELLED)
    return run_report(run.id, registry=registry)


def list_runs(*, registry: "Registry", selection: Selection = EVERYTHING) -> tuple[FleetRun, ...]:
    """Return runs, oldest first if nothing else is asked for.

    Raises:
        UsageError: the selection names nothing.
    """
    with registry.snapshot() as uow:
        return uow.fleets.select(selection)


def run_json(run: FleetRun) -> dict[str, Any]:
    """Return the JSON object of a run in a list."""
    return {
        "run": run.id,
        "action": run.action.value,
        "state": run.state.value,
        "items": run.items,
        "source": run.source,
        "created_at": run.created_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
    }


def run_report(
    reference: str, *, registry: "Registry", found: Survey | None = None, seconds: float | None = None
) -> RunReport:
    """Return how far a run is.

    Args:
        reference: id, which may be shortened.
        registry: where it is recorded.
        found: what recording its items found.
        seconds: how long its driver took.

    Raises:
        UsageError: there is none.
    """
    with registry.snapshot() as uow:
        run = uow.fleets.get(reference)
        totals = uow.fleets.totals(run.id)
        failures = uow.fleets.set_aside(run.id)
    return RunReport(run, totals, failures, _driver(run, registry=registry), found, seconds)


def _driver(run: FleetRun, *, registry: "Registry") -> JobRecord | None:
    return show_job(run.job, registry=registry) if run.job else None
