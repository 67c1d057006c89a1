"""Fleet runs and their items: recorded in batches by the one driver that a run has, read by whoever looks.

What begins and what ends a run are ledger entries; its items have none of their own, since what was done to each model
has: stamps and audits record themselves.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from fpvec_audit.domain.fleet import FleetAction, FleetItem, FleetRun, ItemState, NodeTotals, RunState, RunTotals
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.selection import Selection
from fpvec_audit.errors import RegistryError, UsageError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.listing import Equal, Listing, in_parts
from fpvec_audit.registry.repositories.lookup import Directory
from fpvec_audit.registry.tables import FleetItemRow, FleetRunRow, JobRow

RUNS = Directory("fleet run", FleetRunRow.id, None, prefix="fr-", listing="fpvec fleet list")
LISTING = Listing(
    RUNS,
    FleetRunRow,
    FleetRunRow.created_at,
    filters={"state": Equal(FleetRunRow.state)},
)
_SLOWEST = 20
"""Machines that are told of, the slowest first."""


class FleetRepository:
    """Runs by id, items by their place in a run.

    Args:
        session: session of the surrounding unit of work.
        ledger: where a run's beginning and end are recorded.
        clock: gives the times.
        entropy: gives random bytes for ids.
    """

    def __init__(
        self, session: Session, ledger: Ledger, clock: Callable[[], datetime], entropy: Callable[[int], bytes]
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy

    def open(self, action: FleetAction, options: Mapping[str, Any], *, source: str, retries: int) -> FleetRun:
        """Record a run that has no items yet.

        Args:
            action: what is done to each model.
            options: what holds for every item that does not say otherwise; public, no floats.
            source: where the items come from.
            retries: how often an item that failed is tried again.
        """
        row = FleetRunRow(
            id=f"fr-{self._entropy(8).hex()}",
            action=action.value,
            options=dict(options),
            source=source,
            retries=retries,
            state=RunState.FILLING.value,
            items=0,
            job_id=None,
            created_at=self._clock(),
            ended_at=None,
        )
        self._session.add(row)
        self._session.flush()
        return _run(row)

    def add(self, run: str, items: Sequence[FleetItem]) -> int:
        """Append items to a run that is being filled; of several with one key the first is kept.

        Args:
            run: id.
            items: their numbers are given here, after those that are there.

        Returns:
            how many were new.
        """
        unique = {item.key: item for item in reversed(items)}
        known = {
            key
            for part in in_parts(list(unique))
            for key in self._session.scalars(
                select(FleetItemRow.key).where(FleetItemRow.run_id == run, FleetItemRow.key.in_(part))
            )
        }
        fresh = [item for item in items if item.key not in known and unique[item.key] is item]
        last = self._session.scalar(select(func.max(FleetItemRow.number)).where(FleetItemRow.run_id == run)) or 0
        if fresh:
            self._session.execute(
                insert(FleetItemRow),
                [_values(item, run=run, number=number) for number, item in enumerate(fresh, start=last + 1)],
            )
        return len(fresh)

    def filled(self, run: str) -> FleetRun:
        """Record that all items of a run are there; from now on it can be driven."""
        row = self._row(run)
        statement = select(func.count()).select_from(FleetItemRow).where(FleetItemRow.run_id == run)
        row.items = self._session.scalar(statement) or 0
        row.state = RunState.STOPPED.value
        self._ledger.append(
            "fleet.begun",
            run,
            {"action": row.action, "options": row.options, "source": row.source, "items": row.items},
        )
        return _run(row)

    def drive(self, run: str, *, job: str) -> int:
        """Record that a job drives a run from now on; what a lost driver left under way is queued again.

        Returns:
            how many items were.

        Raises:
            UsageError: another job drives it.
        """
        row = self._row(run)
        other = None if row.job_id is None else self._session.get(JobRow, row.job_id)
        if row.state == RunState.RUNNING.value and other is not None and other.state == JobState.RUNNING.value:
            raise UsageError(
                f"process {other.process} on {other.host} drives run {run}",
                advice=f"look at it with `fpvec fleet status {run}`, or end it with `fpvec fleet cancel {run}`",
            )
        row.job_id, row.state, row.ended_at = job, RunState.RUNNING.value, None
        self._session.flush()
        return self._moved(run, ItemState.RUNNING, {"state": ItemState.QUEUED.value})

    def try_again(self, run: str) -> int:
        """Queue again what was set aside, with all its attempts; return how many items that were."""
        self._row(run)
        fresh = {"state": ItemState.QUEUED.value, "attempts": 0, "ended_at": None}
        return self._moved(run, ItemState.SET_ASIDE, fresh)

    def queued(self, run: str, *, after: int, limit: int) -> tuple[FleetItem, ...]:
        """Return the next items that wait, in order.

        Args:
            run: id.
            after: number of the last one that is known already.
            limit: most items returned.
        """
        return self._items(run, ItemState.QUEUED, after=after, limit=limit)

    def set_aside(self, run: str, *, after: int = 0, limit: int | None = None) -> tuple[FleetItem, ...]:
        """Return items that were set aside, in order; see :meth:`queued`."""
        return self._items(run, ItemState.SET_ASIDE, after=after, limit=limit)

    def record(self, run: str, items: Sequence[FleetItem]) -> None:
        """Record how far items are."""
        if items:
            self._session.execute(update(FleetItemRow), [_changes(item, run=run) for item in items])

    def end(self, run: str, state: RunState) -> FleetRun:
        """Record that nobody drives a run any more, and where it stands."""
        row = self._row(run)
        row.state, row.ended_at = state.value, self._clock()
        self._session.flush()
        self._moved(run, ItemState.RUNNING, {"state": ItemState.QUEUED.value})
        states = {state.value: count for state, count in self.totals(run).states.items()}
        self._ledger.append(f"fleet.{state.value}", run, {"items": states})
        return _run(row)

    def get(self, reference: str) -> FleetRun:
        """Return a run by id or the beginning of one.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        return _run(self._row(RUNS.resolve(self._session, reference)))

    def select(self, selection: Selection) -> tuple[FleetRun, ...]:
        """Return the runs of a selection: by ``state``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return tuple(_run(row) for row in LISTING.rows(self._session, selection))

    def totals(self, run: str) -> RunTotals:
        """Return how far a run is."""
        of_run = FleetItemRow.run_id == run
        grouped = select(FleetItemRow.state, FleetItemRow.outcome, func.count()).where(of_run)
        states: Counter[ItemState] = Counter()
        outcomes: dict[str, int] = {}
        for state, outcome, count in self._session.execute(
            grouped.group_by(FleetItemRow.state, FleetItemRow.outcome).order_by(FleetItemRow.outcome)
        ):
            states[ItemState(state)] += count
            if state == ItemState.DONE.value:
                outcomes[outcome] = count
        average = func.avg(FleetItemRow.seconds)
        by_node = select(FleetItemRow.node, func.count(), average).where(
            of_run, FleetItemRow.state == ItemState.DONE.value
        )
        nodes = self._session.execute(
            by_node.group_by(FleetItemRow.node).order_by(average.desc(), FleetItemRow.node).limit(_SLOWEST)
        )
        totals = tuple(NodeTotals(node, count, mean or 0.0) for node, count, mean in nodes)
        return RunTotals(dict(states), outcomes, totals)

    def _items(self, run: str, state: ItemState, *, after: int, limit: int | None) -> tuple[FleetItem, ...]:
        statement = select(FleetItemRow).where(
            FleetItemRow.run_id == run, FleetItemRow.state == state.value, FleetItemRow.number > after
        )
        rows = self._session.scalars(statement.order_by(FleetItemRow.number).limit(limit))
        return tuple(_item(row) for row in rows)

    def _moved(self, run: str, state: ItemState, values: Mapping[str, Any]) -> int:
        """Change all items of a run that are in a state, and return how many they were."""
        chosen = (FleetItemRow.run_id == run, FleetItemRow.state == state.value)
        count = self._session.scalar(select(func.count()).select_from(FleetItemRow).where(*chosen)) or 0
        self._session.execute(update(FleetItemRow).where(*chosen).values(**values))
        return count

    def _row(self, run: str) -> FleetRunRow:
        row = self._session.get(FleetRunRow, run)
        if row is None:
            raise RegistryError(f"there is no fleet run {run}")
        return row


def _values(item: FleetItem, *, run: str, number: int) -> dict[str, Any]:
    fixed = {"number": number, "key": item.key, "line": item.line, "content": dict(item.content)}
    return _changes(item, run=run) | fixed


def _changes(item: FleetItem, *, run: str) -> dict[str, Any]:
    """Return the columns of an item that change, with its key."""
    return {
        "run_id": run,
        "number": item.number,
        "state": item.state.value,
        "attempts": item.attempts,
        "outcome": item.outcome,
        "result": item.result,
        "error": item.error,
        "node": item.node,
        "seconds": item.seconds,
        "ended_at": item.ended_at,
    }


def _run(row: FleetRunRow) -> FleetRun:
    return FleetRun(
        id=row.id,
        action=FleetAction(row.action),
        options=row.options,
        source=row.source,
        retries=row.retries,
        state=RunState(row.state),
        items=row.items,
        job=row.job_id or "",
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _item(row: FleetItemRow) -> FleetItem:
    return FleetItem(
        number=row.number,
        key=row.key,
        line=row.line,
        content=row.content,
        state=ItemState(row.state),
        attempts=row.attempts,
        outcome=row.outcome,
        result=row.result,
        error=row.error,
        node=row.node,
        seconds=row.seconds,
        ended_at=row.ended_at,
    )
