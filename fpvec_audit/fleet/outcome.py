"""What a worker tells of an item, and what a cluster tells of a worker that was lost."""

from dataclasses import dataclass
from enum import StrEnum


class Ending(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    """What was asked for is whole and recorded."""
    FAILED = "failed"
    """It failed, and may succeed if it is tried again."""
    REFUSED = "refused"
    """It cannot be meant, however often it is tried."""
    LOST = "lost"
    """The worker or its machine is gone, or ran out of memory."""
    AWAY = "away"
    """The registry did not answer, which is no fault of the item."""
    CANCELLED = "cancelled"
    """It was asked to end, and left nothing half-written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        ending: in one word.
        outcome: what came of it ("made", "already", a verdict); empty where nothing did.
        result: id of the record that holds the result; empty where there is none.
        error: what failed, with which value, and what to do; empty where nothing did.
        node: machine on which it ran, empty when unknown.
        seconds: how long it took.
    """

    ending: Ending
    outcome: str = ""
    result: str = ""
    error: str = ""
    node: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """An item on its way to a worker: ids, paths and public parameters, nothing else.

    Attributes:
        run: id of the run.
        number: of the item.
        action: what is done.
        content: all that holds for the item.
        attempt: which one this is, from 1.
        salt: what makes an audit another one than every earlier one with the same settings; empty where it is to be
            recognised.
        device: torch device that the driver settled, None where the item's or the worker's own settings say it.
        tensor_parallel: over how many GPUs an engine divides a model, None where the engine settles it.
    """

    run: str
    number: int
    action: str
    content: dict[str, object]
    attempt: int
    salt: str = ""
    device: str | None = None
    tensor_parallel: int | None = None
