"""Which process runs a job, so that it is known for gone, and never taken for another one with the same number.

A process id comes again. What does not is the id together with the moment the process started, counted by the kernel
since this boot, in this process namespace. Where a system does not tell that, the id has to do.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_STATE, _START = 0, 19
"""Places in ``/proc/PID/stat`` behind the name, which stands in parentheses and may hold anything."""
_DEAD = ("Z", "X")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as others find it again.

    Attributes:
        host: name of its machine.
        number: its id there.
        identity: boot, process namespace and start, ``BOOT/NAMESPACE/START``; empty where the system does not tell.
    """

    host: str
    number: int
    identity: str = ""


def this_process() -> Process:
    """Return the process that asks."""
    return Process(socket.gethostname(), os.getpid(), _identity(os.getpid()))


def is_gone(process: Process) -> bool:
    """Return whether a process has certainly ended: it ran here and is there no more.

    False for one on another machine, before another boot or in another container: its heartbeat has to tell.
    """
    here = this_process()
    if process.host != here.host:
        return False
    if not process.identity or not here.identity:
        return not _answers(process.number)
    if process.identity.rpartition("/")[0] != here.identity.rpartition("/")[0]:
        return False
    return _identity(process.number) != process.identity


def _identity(number: int) -> str:
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return "" if fields[_STATE] in _DEAD else f"{boot}/{namespace}/{fields[_START]}"


def _answers(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
