"""What runs in a worker: one item at a time, with a registry of the worker's own.

A worker is told ids, paths and public parameters. Where the registry is, and the key to its secrets, it finds in its
own environment and home, as every command does. Whatever befalls an item is told as an outcome, without prompts: an
exception would be kept by Ray with everything that its traceback shows.
"""

import os
import signal
import socket
import time
import traceback
from contextlib import suppress
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


def ray_work(task: Task) -> Outcome:
    """Carry out a task in a process that Ray started."""
    _hear_interruptions()
    return work(task)


@cache
def _own_bench() -> WorkerBench:
    """Return what this process works with; opening a registry for every item would take as long as a small one."""
    return WorkerBench(load_settings({}))


@cache
def _hear_interruptions() -> None:
    """Let this process be interrupted by those who mean it alone.

    Ray blocks Ctrl-C in its workers, so that one in the driver's terminal does not end them; but the end of a job is
    asked for by the same signal. In a group of processes of its own a worker hears nothing of the terminal.
    """
    with suppress(OSError):  # it leads a session already
        os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
