"""Processes side by side, and what each of them, and the database's server for it, took."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def side_by_side(context: Any, count: int, work: Callable[..., None], *arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Run processes, one for each tuple of arguments or several for one, and return what they came to together.

    Each puts its :class:`Spent` into the last of its arguments.
    """
    each = arguments if len(arguments) == count else arguments * count
    processes = [context.Process(target=work, args=own) for own in each]
    for process in processes:
        process.start()
    spent = [each[0][-1].get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    done = sum(one.done for one in spent)
    return {
        "count": done,
        "per_second": round(sum(one.done / one.seconds for one in spent), 1),
        "processor_ms": round(1000 * sum(one.processor_seconds for one in spent) / done, 4),
        "fastest_ms": round(1000 * min(one.fastest for one in spent), 3),
    }


@dataclass(slots=True)
class Spent:
    """What a process did and what it took.

    Attributes:
        done: entries, or stamps.
        seconds: wall time of all its transactions.
        processor_seconds: of the process, and of the server's process that serves it.
        fastest: wall time of the fastest transaction, which other programs disturbed least.
    """

    done: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    fastest: float = math.inf

    def time(self, registry: Any, count: int, work: Callable[[Any], None]) -> None:
        """Do some work in a unit of work, and add what it took."""
        began, worked = time.perf_counter(), time.process_time() + self._served(registry)
        with registry.unit_of_work() as uow:
            work(uow)
        took = time.perf_counter() - began
        self.done += count
        self.seconds += took
        self.processor_seconds += time.process_time() + self._served(registry) - worked
        self.fastest = min(self.fastest, took)

    def _served(self, registry: Any) -> float:
        """Return the processor seconds of the server's process so far; it is this one on SQLite."""
        if registry.engine.dialect.name == "sqlite":
            return 0.0
        pool = registry.engine.raw_connection()
        try:
            pid = pool.driver_connection.info.backend_pid
        finally:
            pool.close()
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
