"""Attacks on weights, each in a child process, so that whatever a plugin does befalls its own cell alone.

An :class:`AttackWorker` is the caller's side of ``attack_host``. It watches what an attack leaves behind: nothing but
its target may be new, and nothing that it was given may have changed. A child that is killed is reported with its
signal, one that takes too long is ended.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, cast

import fpvec_audit
from fpvec_audit.backends.channel import Channel
from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.errors import PluginError
from fpvec_audit.progress import Progress, Step

SECONDS_TO_END = 10.0
LOG_BYTES = 1 << 14
LOG_LINES = 6
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from fpvec_audit.services.attack_host import main; main(int(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOrder:
    """One attack on weights to carry out.

    Attributes:
        link: the attack and its parameters.
        owner: distribution and version of its plugin, for messages.
        source: checkpoint directory that is attacked.
        place: private empty directory; the copy comes into ``target`` in it.
        adapter: name of the architecture adapter, None where it is not known.
        seed: all of the attack's randomness derives from it.
        device: torch device.
        base: directory of the base, None where it is not at hand.
        copies: directories of other stamped copies.
    """

    link: AttackLink
    owner: str
    source: Path
    place: Path
    adapter: str | None
    seed: int
    device: str
    base: Path | None = None
    copies: tuple[Path, ...] = ()

    @property
    def target(self) -> Path:
        """Where the attack writes."""
        return self.place / self.link.name

    @property
    def staging(self) -> Path:
        """Where the attack may keep temporary files."""
        return self.place / ".staging"

    @property
    def given(self) -> tuple[Path, ...]:
        """Directories that must stay as they are."""
        return (self.source, *([self.base] if self.base is not None else []), *self.copies)


class WeightWorker(Protocol):
    """What carries out attacks on weights."""

    def warm_up(self) -> None:
        """Prepare in the background; returns at once."""
        ...

    def apply(self, order: AttackOrder) -> None:
        """Carry out an attack.

        Raises:
            PluginError: it failed, wrote outside its target, was killed, or took too long.
        """
        ...


def watched(order: AttackOrder, carry_out: Callable[[], None]) -> None:
    """Carry out an attack between two looks at what it must leave alone.

    Raises:
        PluginError: it changed something that it was given, or wrote beside its target.
    """
    order.staging.mkdir()
    before = {path: state_of(path) for path in order.given}
    try:
        carry_out()
    finally:
        _refuse_changes(order, before)
    strays = sorted({entry.name for entry in order.place.iterdir()} - {order.target.name, order.staging.name})
    if strays:
        raise PluginError(f"attack {_owned(order)} wrote {', '.join(strays)} outside its target")


def state_of(directory: Path) -> Mapping[str, tuple[int, int, int]]:
    """Return file → (inode, bytes, time of the last change in nanoseconds) of everything in a directory."""
    found = {}
    for parent, _, files in os.walk(directory):
        for name in files:
            path = Path(parent) / name
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[str(path.relative_to(directory))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


class AttackWorker:
    """Carries out attacks in children of a process that has imported torch; use it as a context manager.

    Args:
        progress: where to report.
        time_limit: seconds after which an attack is ended.
        timer: gives seconds from any beginning.
    """

    def __init__(self, *, progress: Progress, time_limit: float, timer: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._time_limit = time_limit
        self._timer = timer
        self._host: _Host | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def warm_up(self) -> None:
        """Begin to import in the background; returns at once."""
        if self._host is None:
            self._host = _Host()

    def apply(self, order: AttackOrder) -> None:
        """Carry out an attack.

        Raises:
            PluginError: it failed, wrote outside its target, was killed, or took too long.
        """
        try:
            watched(order, lambda: self._carry_out(order))
        except BaseException:
            self._end_if_busy()
            raise

    def close(self) -> None:
        """End the process, and with it what it carries out."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _carry_out(self, order: AttackOrder) -> None:
        self.warm_up()
        assert self._host is not None
        with _open_log() as log, ExitStack() as steps:
            told = _Told(self._progress, steps)
            self._host.busy = True
            self._host.send(_document(order), log)
            until = self._timer() + self._time_limit
            result: dict[str, Any] = {}
            while True:
                message = self._host.receive(until - self._timer())
                if message is _NOTHING:
                    raise PluginError(
                        f"attack {_owned(order)} took longer than {self._time_limit:g} s and was ended",
                        advice="give it more with --time-limit",
                    )
                if message is None:
                    self.close()
                    raise PluginError(
                        f"the process of attack {_owned(order)} is gone{_words(log)}", advice="look at the memory"
                    )
                if "step" in message:
                    told.take(message)
                elif "ended" in message:
                    self._host.busy = False
                    return _judge(order, message["ended"], result, log)
                else:
                    result = message

    def _end_if_busy(self) -> None:
        if self._host is not None and self._host.busy:
            self.close()


def _judge(order: AttackOrder, code: int, result: Mapping[str, Any], log: BinaryIO) -> None:
    if failed := result.get("failed"):
        raise PluginError(failed["problem"], advice=failed["advice"])
    if code < 0:
        name = signal.Signals(-code).name
        memory = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
        raise PluginError(f"attack {_owned(order)} was killed by {name}{memory}{_words(log)}")
    if not result.get("done"):
        raise PluginError(f"attack {_owned(order)} ended its process with code {code}{_words(log)}")


class _Host:
    """The process that forks attacks, and the channel to it."""

    def __init__(self) -> None:
        self.busy = False
        self._log = _open_log()
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self._ready = False
        source = str(Path(fpvec_audit.__file__).parent.parent)
        with theirs:
            # A session of its own: Ctrl-C is for the caller, who hangs up, which ends the host and its child.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), source, *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def send(self, document: Mapping[str, Any], log: BinaryIO) -> None:
        """Send an order, once the process is ready."""
        if not self._ready:
            self._ready = self._channel.receive() is not None
        if self._ready:
            with contextlib.suppress(OSError):  # it is gone: there will be no answer either
                self._channel.send(document, [log.fileno()])

    def receive(self, seconds: float) -> Any:
        """Return the next message, None at the end of the stream, and ``_NOTHING`` where none comes in time."""
        if not self._ready:
            return None
        if not self._channel.waiting and not select.select([self._channel], [], [], max(0.0, seconds))[0]:
            return _NOTHING
        try:
            return self._channel.receive()
        except ValueError:  # the child was killed in the middle of a word
            return None

    def close(self) -> None:
        """Hang up, which ends the process and its child."""
        self._channel.close()
        if not self._ready:
            self._process.kill()  # it may be importing: nothing to be tidy about
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


_NOTHING: Any = object()


class _Told:
    """Steps that another process tells of."""

    def __init__(self, progress: Progress, steps: ExitStack) -> None:
        self._progress = progress
        self._all = steps
        self._open: dict[int, tuple[ExitStack, Step]] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        """Do here what was done there."""
        number = message["step"]
        if "label" in message:
            own = self._all.enter_context(ExitStack())
            step = own.enter_context(self._progress.step(message["label"], message["total"], message["unit"]))
            self._open[number] = (own, step)
            return
        own, step = self._open[number]
        if "advance" in message:
            step.advance(message["advance"])
        elif "note" in message:
            step.note(message["note"])
        else:
            own.close()


def _document(order: AttackOrder) -> dict[str, Any]:
    return {
        "attack": order.link.name,
        "parameters": order.link.to_json(),
        "source": str(order.source.resolve()),
        "target": str(order.target.resolve()),
        "staging": str(order.staging.resolve()),
        "adapter": order.adapter,
        "seed": order.seed,
        "device": order.device,
        "threads": _threads(),
        "base": None if order.base is None else str(order.base.resolve()),
        "copies": [str(copy.resolve()) for copy in order.copies],
    }


def _threads() -> int:
    """Return how many threads torch computes with here; 0 where it is not loaded, for its own choice."""
    torch = sys.modules.get("torch")
    return 0 if torch is None else int(torch.get_num_threads())


def _refuse_changes(order: AttackOrder, before: Mapping[Path, Mapping[str, tuple[int, int, int]]]) -> None:
    for path, state in before.items():
        now = state_of(path)
        changed = sorted(name for name in {*state, *now} if state.get(name) != now.get(name))
        if changed:
            raise PluginError(
                f"attack {_owned(order)} wrote outside its target: {', '.join(changed)} in {path} changed",
                advice="restore it; do not use this plugin",
            )


def _owned(order: AttackOrder) -> str:
    return f"{order.link.name} of {order.owner}"


def _open_log() -> BinaryIO:
    """Return a file without a name, which leaves nothing behind however its processes end."""
    return cast(BinaryIO, tempfile.TemporaryFile())


def _words(log: BinaryIO) -> str:
    """Return the last lines of what a child wrote, as the end of a sentence."""
    size = os.fstat(log.fileno()).st_size
    start = max(0, size - LOG_BYTES)
    text = os.pread(log.fileno(), size - start, start).decode(errors="replace")
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()][-LOG_LINES:]
    return f": {'; '.join(lines)}" if lines else ""
