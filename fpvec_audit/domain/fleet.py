"""Fleet runs as the registry remembers them: one thing done to thousands of models, and what became of each.

A run is operation, not evidence: what was stamped or audited stands in the records of stamps and audits, and a run only
says what was asked for, how far it is, and which of those records came of which item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class FleetAction(StrEnum):
    """What is done to every model: what the single command of this name does."""

    STAMP = "stamp"
    AUDIT = "audit"
    TRACE = "trace"
    ATTACK = "attack"


class RunState(StrEnum):
    """``filling`` → ``running`` → ``ended``, or ``stopped`` or ``cancelled``, which may be gone on with.

    ``filling``: its items are being recorded, and nothing has begun. ``running`` is also a run whose driver was lost:
    its job tells. ``ended``: every item is done or set aside. ``stopped``: by Ctrl-C. ``cancelled``: by its owner.
    """

    FILLING = "filling"
    RUNNING = "running"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    ENDED = "ended"


class ItemState(StrEnum):
    """``queued`` → ``running`` → ``done`` or ``set-aside``; back to ``queued`` if its attempt came to nothing."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    SET_ASIDE = "set-aside"


@dataclass(frozen=True, slots=True)
class FleetRun:
    """One thing done to many models.

    Attributes:
        id: ``fr-`` and 16 characters.
        action: what is done to each.
        options: what holds for every item that does not say otherwise; public.
        source: manifest or query that the items came from.
        retries: how often an item that failed is tried again before it is set aside.
        state: how far it is.
        items: how many there are; 0 while it is being filled.
        job: id of the job of its last driver, empty before the first.
        created_at: when it was recorded.
        ended_at: when it came to its end, None before.
    """

    id: str
    action: FleetAction
    options: Mapping[str, Any]
    source: str
    retries: int
    state: RunState
    items: int
    job: str
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class FleetItem:
    """One model of a run.

    Attributes:
        number: place in the run, from 1.
        key: digest of what is done to what; no run has two items with one key.
        line: line of the manifest where it begins; 0 for one from a query.
        content: what the item says itself; public.
        state: how far it is.
        attempts: how often it was tried and came to an end of its own.
        outcome: what came of it ("made", "already", a verdict); empty until it is done.
        result: id of the record that holds its result, empty until it is done.
        error: why it failed last, empty if it did not.
        node: machine of its last attempt, empty before.
        seconds: how long that took, None before.
        ended_at: when it was done or set aside, None before.
    """

    number: int
    key: str
    line: int
    content: Mapping[str, Any]
    state: ItemState = ItemState.QUEUED
    attempts: int = 0
    outcome: str = ""
    result: str = ""
    error: str = ""
    node: str = ""
    seconds: float | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeTotals:
    """What a machine has done of a run.

    Attributes:
        node: its name.
        items: how many items it did.
        seconds: how long it took for one, on average.
    """

    node: str
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunTotals:
    """How far a run is.

    Attributes:
        states: items by state.
        outcomes: items that are done, by what came of them.
        nodes: machines, the slowest first.
    """

    states: Mapping[ItemState, int]
    outcomes: Mapping[str, int] = field(default_factory=dict)
    nodes: tuple[NodeTotals, ...] = ()

    def count(self, state: ItemState) -> int:
        """Return how many items are in a state."""
        return self.states.get(state, 0)
