"""The one process that drives a run: hands items to a cluster, never more than a few at a time, and records what came.

Invariants: the rows of a run are written by its driver alone, in batches; what a worker did shows in what its service
recorded, so that an item whose outcome was lost with the driver is handed out again and recognised. An item that fails
is tried again a stated number of times and then set aside, and the others go on. No more items are in memory than are
in flight, and a page of those that wait.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.fleet import FleetItem, FleetRun, ItemState, RunState
from fpvec_audit.errors import OperationError, RegistryAwayError, UsageError
from fpvec_audit.fleet.cluster import Cluster
from fpvec_audit.fleet.items import complete
from fpvec_audit.fleet.outcome import Ending, Outcome, Task
from fpvec_audit.fleet.sizing import Sizing
from fpvec_audit.fleet.watching import Watch
from fpvec_audit.services.jobs import recorded_job

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

PAGE = 500
"""Items that are fetched together."""
RECORD_SECONDS = 1.0
RECORD_ITEMS = 200
"""What came is recorded after so long, or so many items, whichever comes first."""
LOOK_SECONDS = 0.5
PAUSE_SECONDS = 5.0
"""Between two attempts of an item, and before a registry that was away is tried again."""
PATIENCE_SECONDS = 15 * 60.0
"""How long a registry may be away before the driver gives up."""
GRACE_SECONDS = 10.0
"""How long items may end by themselves when a run stops, before they are interrupted. Ray 2.60 aborts the driver's
process when a task is cancelled in the moment in which it ends, so what is short is left to end."""
ENDING_SECONDS = 60.0
"""How long items that are under way may take to end after Ctrl-C."""
MOST_IN_FLIGHT = 2000


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run is driven, which does not decide what its items become.

    Attributes:
        sizing: what an item needs.
        in_flight: most items handed out at a time; None for twice as many as fit the cluster's processors.
    """

    sizing: Sizing = field(default_factory=Sizing)
    in_flight: int | None = None


@dataclass(slots=True)
class Driver:
    """Drives one run; use :meth:`drive` once.

    Attributes:
        run: what is driven.
        registry: where it is recorded.
        cluster: where items are carried out.
        manner: how.
        watch: is told how far the run is.
        timer: gives seconds from any beginning.
        sleep: waits for seconds.
    """

    run: FleetRun
    registry: "Registry"
    cluster: Cluster
    manner: Manner
    watch: Watch
    timer: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _waiting: deque[FleetItem] = field(default_factory=deque, init=False)
    _later: list[tuple[float, int, FleetItem]] = field(default_factory=list, init=False)
    _flying: dict[Any, FleetItem] = field(default_factory=dict, init=False)
    _unrecorded: dict[int, FleetItem] = field(default_factory=dict, init=False)
    _last: int = field(default=0, init=False)
    _exhausted: bool = field(default=False, init=False)
    _recorded_at: float = field(default=0.0, init=False)
    _away_since: float | None = field(default=None, init=False)
    _workers_away_since: float | None = field(default=None, init=False)
    _not_before: float = field(default=0.0, init=False)

    def drive(self) -> FleetRun:
        """Hand out all items that wait, until each is done or set aside.

        Raises:
            KeyboardInterrupt: by Ctrl-C, or somebody asked for the end of its job: what was under way has ended or
                rolled back, and the rest waits.
            RegistryError: it is away for too long.
        """
        detail = {"run": self.run.id, "action": self.run.action.value}
        with recorded_job(self.registry, "fleet", detail) as job:
            with self.registry.unit_of_work() as uow:
                uow.fleets.drive(self.run.id, job=job.id)
                totals = uow.fleets.totals(self.run.id)
            self.watch.begin(totals, self.cluster.capacity)
            try:
                self._loop()
                return self._end(RunState.ENDED)
            except BaseException:
                self._stop()
                raise

    def _loop(self) -> None:
        most = self._most_in_flight()
        self._recorded_at = self.timer()
        while True:
            self._fill(most)
            if not self._flying:
                if not self._waiting and not self._later and self._exhausted:
                    break
                self.sleep(min(LOOK_SECONDS, PAUSE_SECONDS))
            else:
                for handle, outcome in self.cluster.finished(list(self._flying), timeout=LOOK_SECONDS):
                    self._take(self._flying.pop(handle), outcome)
            if len(self._unrecorded) >= RECORD_ITEMS or self.timer() - self._recorded_at >= RECORD_SECONDS:
                self._record()
            self.watch.look(len(self._flying))
        while self._unrecorded:
            self._record()
            if self._unrecorded:
                self.sleep(PAUSE_SECONDS)

    def _most_in_flight(self) -> int:
        if self.manner.in_flight is not None:
            return self.manner.in_flight
        cpus = 1.0 if self.manner.sizing.cpus is None else max(self.manner.sizing.cpus, 0.1)
        return max(2, min(MOST_IN_FLIGHT, 2 * int(self.cluster.capacity.cpus / cpus)))

    def _fill(self, most: int) -> None:
        """Hand out items that wait, as long as there is room."""
        now = self.timer()
        if now < self._not_before:
            return
        while self._later and self._later[0][0] <= now:
            self._waiting.append(heapq.heappop(self._later)[2])
        while len(self._flying) < most:
            if not self._waiting and (len(self._later) > PAGE or not self._fetch()):
                return
            if self._waiting:
                self._submit(self._waiting.popleft())

    def _fetch(self) -> bool:
        """Fetch the next page of items that wait; False where there is none, now or at all."""
        if self._exhausted:
            return False
        try:
            with self.registry.snapshot() as uow:
                found = uow.fleets.queued(self.run.id, after=self._last, limit=PAGE)
        except RegistryAwayError as error:
            self._registry_away(error)
            return False
        self._waiting.extend(found)
        self._exhausted = len(found) < PAGE
        if found:
            self._last = found[-1].number
        return bool(found)

    def _submit(self, item: FleetItem) -> None:
        try:
            whole = complete(self.run.action, self.run.options, item.content)
        except UsageError as error:
            self._take(item, Outcome(Ending.REFUSED, error=str(error)))
            return
        try:
            need = self.manner.sizing.need(self.run.action, whole, self.cluster.capacity)
        except OperationError as error:
            self._take(item, Outcome(Ending.REFUSED, error=str(error)))
            return
        task = Task(
            self.run.id,
            item.number,
            self.run.action.value,
            whole,
            item.attempts + 1,
            self._salt(),
            device=need.device,
            tensor_parallel=need.tensor_parallel,
        )
        self._flying[self.cluster.submit(task, need)] = item
        self._note(replace(item, state=ItemState.RUNNING))

    def _salt(self) -> str:
        return self.run.id if self.run.options.get("again") else ""

    def _take(self, item: FleetItem, outcome: Outcome) -> None:
        """Settle what becomes of an item after an attempt."""
        known = replace(item, node=outcome.node or item.node, seconds=outcome.seconds, error=outcome.error)
        if outcome.ending is Ending.DONE:
            self._workers_away_since = None
            done = replace(known, state=ItemState.DONE, attempts=item.attempts + 1, error="")
            self._note(replace(done, outcome=outcome.outcome, result=outcome.result, ended_at=self.registry.clock()))
            return
        if outcome.ending is Ending.CANCELLED:
            self._again(replace(item, state=ItemState.QUEUED), PAUSE_SECONDS)
            return
        if outcome.ending is Ending.AWAY:
            self._away_for_workers(outcome.error)
            self._again(replace(item, state=ItemState.QUEUED), PAUSE_SECONDS)
            return
        tried = replace(known, attempts=item.attempts + 1)
        if outcome.ending is Ending.REFUSED or tried.attempts > self.run.retries:
            self._note(replace(tried, state=ItemState.SET_ASIDE, ended_at=self.registry.clock()))
            self.watch.set_aside(tried)
        else:
            self._again(replace(tried, state=ItemState.QUEUED), PAUSE_SECONDS * tried.attempts)

    def _again(self, item: FleetItem, seconds: float) -> None:
        heapq.heappush(self._later, (self.timer() + seconds, item.number, item))
        self._note(item)

    def _note(self, item: FleetItem) -> None:
        self._unrecorded[item.number] = item
        self.watch.note(item)

    def _record(self) -> None:
        """Record what came since the last time; where the registry is away, it is kept for the next."""
        try:
            with self.registry.unit_of_work() as uow:
                uow.fleets.record(self.run.id, list(self._unrecorded.values()))
        except RegistryAwayError as error:
            self._registry_away(error)
            return
        self._unrecorded.clear()
        self._recorded_at, self._away_since = self.timer(), None

    def _registry_away(self, error: RegistryAwayError) -> None:
        now = self.timer()
        if self._away_since is None:
            self._away_since = now
            self.watch.tell(f"the registry is away, and is tried again every {PAUSE_SECONDS:g} s: {error.problem}")
        if now - self._away_since > PATIENCE_SECONDS:
            raise error
        self._not_before = self._recorded_at = now + PAUSE_SECONDS

    def _away_for_workers(self, problem: str) -> None:
        now = self.timer()
        if self._workers_away_since is None:
            self._workers_away_since = now
            self.watch.tell(f"the registry is away for workers, whose items wait meanwhile: {problem}")
        if now - self._workers_away_since > PATIENCE_SECONDS:
            raise RegistryAwayError(problem, advice=f"go on later: `fpvec fleet resume {self.run.id}`")
        self._not_before = now + PAUSE_SECONDS

    def _end(self, state: RunState) -> FleetRun:
        with self.registry.unit_of_work() as uow:
            return uow.fleets.end(self.run.id, state)

    def _stop(self) -> None:
        """Let what is under way end or roll back, and record how far the run is."""
        try:
            self._let_end()
        except OperationError as error:
            self.watch.tell(f"what became of {len(self._flying)} items is not known: {error.problem}")
        try:
            with self.registry.unit_of_work() as uow:
                uow.fleets.record(self.run.id, list(self._unrecorded.values()))
                totals = uow.fleets.totals(self.run.id)
                left = totals.count(ItemState.QUEUED) + totals.count(ItemState.RUNNING)
                uow.fleets.end(self.run.id, RunState.STOPPED if left else RunState.ENDED)
        except RegistryAwayError as error:
            self.watch.tell(f"that the run stopped could not be recorded: {error.problem}")

    def _let_end(self) -> None:
        if self._flying:
            self.watch.tell(f"{len(self._flying)} items are ending")
        self._take_those_that_end(GRACE_SECONDS)
        if self._flying:
            self.cluster.cancel(list(self._flying))
        self._take_those_that_end(ENDING_SECONDS)

    def _take_those_that_end(self, seconds: float) -> None:
        until = self.timer() + seconds
        while self._flying and self.timer() < until:
            for handle, outcome in self.cluster.finished(list(self._flying), timeout=LOOK_SECONDS):
                item = self._flying.pop(handle)
                if outcome.ending is Ending.DONE:
                    self._take(item, outcome)
                else:
                    self._note(replace(item, state=ItemState.QUEUED))
