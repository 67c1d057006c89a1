"""What a method costs, measured on a few models, and what it would cost on many.

A method does some work once for a base and some for every model. Both parts are measured; what N models cost follows
by multiplying the second part, which is linear because every model of a base has the same size and goes through the
same work. Nothing but that is extrapolated: no other base, size, machine or setting.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import floor
from typing import Any

MODELS = (1, 10, 100)
"""Numbers of protected models that are reported."""
QUANTITIES = ("seconds", "device_seconds")
"""Quantities of a :class:`Cost` that add up."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What some work cost.

    Attributes:
        seconds: wall time.
        device_seconds: proxy of the energy: seconds for which an accelerator was held where one computes, else seconds
            of processor time over all threads.
        peak_memory_bytes: largest resident memory of the process.
        peak_device_memory_bytes: largest memory taken on an accelerator, 0 without one.
    """

    seconds: float = 0.0
    device_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_memory_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both, one after the other: times add up, of peaks the larger counts."""
        return Cost(
            self.seconds + other.seconds,
            self.device_seconds + other.device_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            max(self.peak_device_memory_bytes, other.peak_device_memory_bytes),
        )

    def times(self, count: int) -> "Cost":
        """Return the cost of doing it so many times, one after the other."""
        return Cost(
            self.seconds * count, self.device_seconds * count, self.peak_memory_bytes, self.peak_device_memory_bytes
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MethodCost:
    """What a method was measured to cost.

    Attributes:
        method: its name.
        once: work done once for a base.
        each: work done for every model, the mean of those measured.
        measured: how many models were measured, at least 1.
    """

    method: str
    once: Cost
    each: Cost
    measured: int = 1

    def of(self, models: int) -> Cost:
        """Return what protecting so many models of one base costs, by linear extrapolation."""
        return self.once + self.each.times(models)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "method": self.method,
            "measured_models": self.measured,
            "once": self.once.to_json(),
            "each": self.each.to_json(),
            "models": [
                {"models": count, **self.of(count).to_json(), "extrapolated": count > self.measured} for count in MODELS
            ],
        }


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean of times and the largest of peaks, over at least one measurement."""
    total = sum(costs, Cost())
    return Cost(
        total.seconds / len(costs),
        total.device_seconds / len(costs),
        total.peak_memory_bytes,
        total.peak_device_memory_bytes,
    )


def crossover(method: MethodCost, other: MethodCost, *, quantity: str = "seconds") -> int | None:
    """Return the number of models from which on a method is the cheaper of two; None where that never comes.

    Solves once + N · each < once' + N · each' for the smallest whole N ≥ 1 from which it holds for good.

    Args:
        method: the one that shall be cheaper.
        other: the one that it is compared with.
        quantity: one of :data:`QUANTITIES`.
    """
    once = float(getattr(method.once, quantity)) - float(getattr(other.once, quantity))
    saved = float(getattr(other.each, quantity)) - float(getattr(method.each, quantity))
    if saved > 0:
        return max(1, floor(once / saved) + 1)
    return 1 if saved == 0 and once < 0 else None
