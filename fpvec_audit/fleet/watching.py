"""How far a run is, as it is seen while it goes on: counted in memory, never read from the registry."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fpvec_audit.domain.fleet import FleetItem, FleetRun, ItemState, RunTotals
from fpvec_audit.fleet.capacity import Capacity

SHOW_SECONDS = 0.5
RATE_SECONDS = 120.0
"""The rate is that of so many last seconds."""
SHOWN_NODES = 5


@dataclass(slots=True)
class _Node:
    items: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Watch:
    """Counts items and says now and then how far the run is.

    Attributes:
        run: what is watched.
        show: takes how far it is, as a JSON object.
        tell: takes a sentence that the user should read at once.
        timer: gives seconds from any beginning.
    """

    run: FleetRun
    show: Callable[[Mapping[str, Any]], None] = lambda _document: None
    tell: Callable[[str], None] = lambda _sentence: None
    timer: Callable[[], float] = time.monotonic
    _states: dict[ItemState, int] = field(default_factory=dict, init=False)
    _known: dict[int, ItemState] = field(default_factory=dict, init=False)
    _nodes: dict[str, _Node] = field(default_factory=dict, init=False)
    _ended: deque[float] = field(default_factory=deque, init=False)
    _started: float = field(default=0.0, init=False)
    _shown: float = field(default=0.0, init=False)
    _capacity: Capacity | None = field(default=None, init=False)

    def begin(self, totals: RunTotals, capacity: Capacity) -> None:
        """Begin with what the registry knows."""
        self._started = self.timer()
        self._states = {state: totals.count(state) for state in ItemState}
        self._capacity = capacity
        for node in totals.nodes:
            self._nodes[node.node] = _Node(node.items, node.items * node.seconds)
        self.show(self.document())

    def note(self, item: FleetItem) -> None:
        """Count an item that is in another state now."""
        before = self._known.pop(item.number, ItemState.QUEUED)
        self._states[before] -= 1
        self._states[item.state] += 1
        if item.state is ItemState.RUNNING:
            self._known[item.number] = item.state
        if item.state in (ItemState.DONE, ItemState.SET_ASIDE):
            self._ended.append(self.timer())
        if item.state is ItemState.DONE:
            node = self._nodes.setdefault(item.node, _Node())
            node.items += 1
            node.seconds += item.seconds or 0.0

    def set_aside(self, item: FleetItem) -> None:
        """Tell of an item that is set aside."""
        place = f"line {item.line}" if item.line else f"item {item.number}"
        self.tell(f"set aside: {place}, after {item.attempts} attempts: {item.error}")

    def look(self, _in_flight: int) -> None:
        """Show how far the run is, if that was not shown just now."""
        now = self.timer()
        if now - self._shown >= SHOW_SECONDS:
            self._shown = now
            self.show(self.document())

    def document(self) -> dict[str, Any]:
        """Return how far the run is."""
        rate = self._rate()
        left = self._states.get(ItemState.QUEUED, 0) + self._states.get(ItemState.RUNNING, 0)
        slowest = sorted(self._nodes.items(), key=lambda pair: -pair[1].seconds / max(1, pair[1].items))
        capacity = self._capacity
        return {
            "run": self.run.id,
            "action": self.run.action.value,
            "items": sum(self._states.values()),
            **{state.value.replace("-", "_"): self._states.get(state, 0) for state in ItemState},
            "items_per_second": rate,
            "seconds_left": None if not rate else left / rate,
            "seconds": self.timer() - self._started,
            "nodes": 0 if capacity is None else capacity.nodes,
            "slowest": [
                {"node": name, "items": node.items, "seconds": node.seconds / max(1, node.items)}
                for name, node in slowest[:SHOWN_NODES]
            ],
            "dashboard": "" if capacity is None else capacity.dashboard,
        }

    def _rate(self) -> float | None:
        """Return items a second, of those that ended lately; None before the first."""
        now = self.timer()
        while self._ended and self._ended[0] < now - RATE_SECONDS:
            self._ended.popleft()
        if not self._ended:
            return None
        return len(self._ended) / max(1e-3, min(RATE_SECONDS, now - self._started))
