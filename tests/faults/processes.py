"""Real ``fpvec`` processes under watch: started, followed event by event, stopped, killed, and waited for.

Nothing here sleeps or looks at a clock: what a process has reached is known from what its witness writes.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import witness

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds after which a process that neither goes on nor ends fails the test."""

Stop = tuple[str, int]
"""(event, count): the process stops itself just before the event comes for that time."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code, negative for a signal.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        events: what its witness wrote.
    """

    code: int
    out: str
    err: str
    events: str

    @property
    def result(self) -> dict[str, Any]:
        """The only stamp of the JSON document."""
        (stamp,) = json.loads(self.out)
        return stamp


@dataclass
class Running:
    """A process under watch; wait for its end with :meth:`end`."""

    pid: int
    place: Path
    reap: Callable[[], int]
    descriptor: int
    events: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def until(self, event: str, count: int = 1) -> bool:
        """Read events until one has come for a certain time; False if the process ended before."""
        while self.counts[event] < count:
            if not self._read(1):
                return False
        return True

    def send(self, *signals: signal.Signals) -> None:
        """Send signals, one after the other."""
        for number in signals:
            os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait until the process has ended."""
        while self._read(4096):
            pass
        os.close(self.descriptor)
        code = self.reap()
        out, err = ((self.place / name).read_text() for name in ("out", "err"))
        return Ended(code, out, err, self.events)

    def _read(self, most: int) -> bool:
        if not select.select([self.descriptor], [], [], PATIENCE)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"fpvec hangs after the events {self.events!r}")
        letters = os.read(self.descriptor, most).decode()
        self.events += letters
        self.counts.update(letters)
        return bool(letters)


class ForkServer:
    """Starts processes in milliseconds; a context manager. See ``fork_server``."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._started = 0

    def __enter__(self) -> "ForkServer":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=REPOSITORY,
            env={**os.environ, "COLUMNS": "1000"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, *arguments: str | Path, stop: Stop | None = None, largest_file: int = 0) -> Running:
        """Start ``fpvec`` with arguments.

        Args:
            arguments: what stands behind ``fpvec``.
            stop: where it stops itself.
            largest_file: bytes that none of its files may exceed; 0 for no limit.
        """
        self._started += 1
        place = _place(self._place / str(self._started))
        files = {name: str(place / name) for name in ("out", "err", "events")}
        options = {"stop": stop, "largest_file": largest_file}
        pid = self._ask({"run": {"arguments": [str(item) for item in arguments], **files, **options}})
        return Running(pid, place, lambda: self._ask({"wait": pid}), _opened(place))

    def start_until(self, stop: Stop, *arguments: str | Path) -> Running:
        """Start ``fpvec`` and return when it has stopped itself just before an event."""
        running = self.start(*arguments, stop=stop)
        if not running.until(*stop):
            raise AssertionError(f"fpvec ended before {stop}: {running.end()}")
        assert self.stops(running)
        return running

    def stops(self, running: Running) -> bool:
        """Wait until a process has stopped itself; False if it ended. Until then it would stop after any SIGCONT."""
        return bool(self._ask({"stopped": running.pid}))

    def run(self, *arguments: str | Path, largest_file: int = 0) -> Ended:
        """Start ``fpvec`` and wait for its end."""
        return self.start(*arguments, largest_file=largest_file).end()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        answer: int = json.loads(self._process.stdout.readline())
        return answer


def start_script(place: Path, arguments: Sequence[str | Path], *, stop: Stop | None = None) -> Running:
    """Start the installed console script, with a witness that comes in by ``sitecustomize``.

    Args:
        place: directory to make for what the process writes.
        arguments: what stands behind ``fpvec``.
        stop: where it stops itself.
    """
    place = _place(place)
    (place / "sitecustomize.py").write_text(
        "import os\nfrom tests.faults.witness import install_from_environment\ninstall_from_environment(os.environ)\n"
    )
    environment = {
        **os.environ,
        witness.EVENTS: str(place / "events"),
        **({} if stop is None else {witness.STOP: f"{stop[0]}:{stop[1]}"}),
        "PYTHONPATH": f"{place}{os.pathsep}{REPOSITORY}",
        "COLUMNS": "1000",
    }
    script = shutil.which("fpvec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert script is not None, "the package is not installed"
    with (place / "out").open("wb") as out, (place / "err").open("wb") as err:
        process = subprocess.Popen([script, *arguments], stdout=out, stderr=err, env=environment)
    return Running(process.pid, place, process.wait, _opened(place))


def _opened(place: Path) -> int:
    return os.open(place / "events", os.O_RDONLY | os.O_NONBLOCK)  # a process that dies at once must not block us


def _place(place: Path) -> Path:
    place.mkdir(parents=True)
    os.mkfifo(place / "events")
    return place
