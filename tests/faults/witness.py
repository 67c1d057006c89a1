"""Tells a test what a ``fpvec`` process does with its staging directories, and stops it where the test is to act.

It is installed in the process that is watched, and writes one letter to a descriptor just before each event; nothing
of what the process does is changed. A test that reads the letters knows where the process is without looking at any
clock, however busy the machine.
"""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MARK = ".fpvec-staging-"
JOURNAL = "fpvec-progress.jsonl"

MADE = "m"  # a staging directory is about to be made, or one that is there is asked for again
WRITTEN = "w"  # bytes are about to be written to a model file
NOTED = "j"  # a line is about to be added to the journal
CLOSED = "u"  # the journal is about to be removed: all tensors are there
SYNCED = "s"  # something is about to be made durable
RENAMED = "r"  # the staging directory is about to become the target
DELETED = "d"  # a staging directory is about to be removed

EVENTS, STOP = "FAULT_EVENTS", "FAULT_STOP"


class Witness:
    """Writes events, and stops its process when one has come for a certain time.

    Args:
        descriptor: where to write.
        stop: (event, count) before which the process stops itself until it gets SIGCONT; None to never stop.
    """

    def __init__(self, descriptor: int, stop: tuple[str, int] | None) -> None:
        self._descriptor = descriptor
        self._stop = stop
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()

    def see(self, event: str) -> None:
        """Take note of an event."""
        with self._lock:
            os.write(self._descriptor, event.encode())
            self._counts[event] += 1
            if (event, self._counts[event]) == self._stop:
                # to this very thread: sent to the process, another one may take the signal when its turn comes, and
                # until then this one would go on
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def install(descriptor: int, stop: tuple[str, int] | None) -> None:
    """Watch this process from now on."""
    witness = Witness(descriptor, stop)
    write, sync = os.pwrite, os.fsync

    def pwrite(file: int, *arguments: Any) -> int:
        witness.see(WRITTEN)
        return write(file, *arguments)

    def fsync(file: int) -> None:
        witness.see(SYNCED)
        sync(file)

    os.pwrite, os.fsync = pwrite, fsync  # type: ignore[assignment]
    sys.addaudithook(lambda event, arguments: _heed(witness, event, arguments))


def install_from_environment(environment: Mapping[str, str]) -> None:
    """Watch this process if its environment asks for it."""
    if EVENTS in environment:
        event, _, count = environment.get(STOP, "").partition(":")
        descriptor = os.open(environment[EVENTS], os.O_WRONLY | os.O_CLOEXEC)
        install(descriptor, (event, int(count)) if event else None)


def _heed(witness: Witness, event: str, arguments: tuple[Any, ...]) -> None:
    rule = _RULES.get(event)
    if rule is not None and arguments and isinstance(arguments[0], str | os.PathLike):
        found, fits = rule
        path = Path(arguments[0])
        if MARK in str(path) and fits(path, arguments):
            witness.see(found)


def _is_staging(path: Path, arguments: tuple[Any, ...]) -> bool:
    return MARK in path.name


def _is_journal(path: Path, arguments: tuple[Any, ...]) -> bool:
    return path.name == JOURNAL


def _is_addition(path: Path, arguments: tuple[Any, ...]) -> bool:
    return path.name == JOURNAL and arguments[1] == "a"


_RULES: Mapping[str, tuple[str, Callable[[Path, tuple[Any, ...]], bool]]] = {
    "os.mkdir": (MADE, _is_staging),
    "os.rename": (RENAMED, _is_staging),
    "os.remove": (CLOSED, _is_journal),
    "open": (NOTED, _is_addition),
    "shutil.rmtree": (DELETED, _is_staging),
}
