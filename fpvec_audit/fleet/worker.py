"""What runs in a worker: one item at a time, with a registry of the worker's own.

A worker is told ids, paths and public parameters. Where the registry is, and the key to its secrets, it finds in its
own environment and home, as every command does. Whatever befalls an item is told as an outcome, without prompts: an
exception would be kept by Ray with everything that its traceback shows.
"""

import socket
import time
import traceback
from functools import cache

from fpvec_audit.errors import FpvecError, RegistryAwayError, UsageError
from fpvec_audit.fleet.actions import WorkerBench, carry_out
from fpvec_audit.fleet.outcome import Ending, Outcome, Task
from fpvec_audit.settings import load_settings

_TOLD = 2000
"""Characters of a bug's traceback that are told, the last ones."""


def work(task: Task) -> Outcome:
    """Carry out a task and tell how it ended; what was interrupted has cleared away behind itself."""
    started = time.perf_counter()

    def ended(ending: Ending, problem: str = "", *, outcome: str = "", result: str = "") -> Outcome:
        error = _own_bench().redacted(problem) if problem else ""
        return Outcome(ending, outcome, result, error, socket.gethostname(), time.perf_counter() - started)

    try:
        outcome, result = carry_out(task, _own_bench())
    except RegistryAwayError as error:
        return ended(Ending.AWAY, str(error))
    except UsageError as error:
        return ended(Ending.REFUSED, str(error))
    except FpvecError as error:
        return ended(Ending.FAILED, str(error))
    except Exception:  # noqa: BLE001 - a bug that one item meets does not end the others
        return ended(Ending.FAILED, f"a bug in fpvec-audit: {traceback.format_exc()[-_TOLD:]}")
    return ended(Ending.DONE, outcome=outcome, result=result)


@cache
def _own_bench() -> WorkerBench:
    """Return what this process works with; opening a registry for every item would take as long as a small one."""
    return WorkerBench(load_settings({}))
