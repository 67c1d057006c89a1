"""Several bases at the same time: a process for each, whose results meet in the directory of the reproduction."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import OutputError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench
    from fpvec_audit.reproduction.stages import Stage

LOGS = "logs"
POLL_SECONDS = 2.0
SECONDS_TO_END = 20.0
_PROGRAM = "import sys; from fpvec_audit.cli.main import run; sys.exit(run(sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Child:
    """What a process is started with, but for its base.

    Attributes:
        preset: name of the preset; None for the default, or where there is a plan.
        config: file of the plan.
        data: directory that ``{data}`` stands for.
        place: directory of the reproduction.
        backend: engine that was asked for.
        only: stages that were asked for.
        again: stages that are repeated.
    """

    preset: str | None
    config: Path | None
    data: Path | None
    place: Path
    backend: str | None
    only: tuple[str, ...]
    again: tuple[str, ...]

    def command(self, base: str, bench: "Workbench", *, one_thread: bool) -> list[str]:
        """Return the command of a base."""
        settings = bench.settings
        given: list[tuple[str, Any]] = [("--preset", self.preset), ("--config", self.config), ("--data", self.data)]
        given += [("--dir", self.place), ("--backend", self.backend), ("--bases", base), ("--device", bench.device)]
        given += [("--home", settings.home), ("--registry", settings.registry or None)]
        given += [("--only", name) for name in self.only] + [("--again", name) for name in self.again]
        options = [part for name, value in given if value is not None for part in (name, str(value))]
        program = [sys.executable, "-c", _PROGRAM, "reproduce", *options, "--json"]
        env = shutil.which("env")
        # threads of tiny models that share cores wait for each other; their own children inherit this
        return [env, "OMP_NUM_THREADS=1", *program] if one_thread and env else program


def work_side_by_side(
    child: Child, bases: Sequence[str], stages: "Sequence[Stage]", *, jobs: int, bench: "Workbench"
) -> None:
    """Carry stages out in processes of their own, so many at a time; each writes a log.

    Args:
        child: how processes are started.
        bases: one process each.
        stages: what they carry out, for the progress.
        jobs: how many run at the same time.
        bench: settings and progress.

    Raises:
        OutputError: the logs cannot be written.
    """
    from fpvec_audit.reproduction.run import collect
    from fpvec_audit.reproduction.stage_store import StageStore

    bench.registry.close()  # it exists now, so that no two of them begin with making it
    store, pending = StageStore(child.place), list(bases)
    running: dict[str, subprocess.Popen[bytes]] = {}
    with bench.progress.step("reproduce", len(stages), "stages") as step, _ended_with(running):
        done = 0
        while pending or running:
            while pending and len(running) < jobs:
                base = pending.pop(0)
                running[base] = _started(child, base, bench, one_thread=jobs > 1)
            time.sleep(POLL_SECONDS)
            for base, process in list(running.items()):
                if process.poll() is not None:
                    del running[base]
                    _tell(base, process.returncode, child.place, bench)
            now = sum(result.done for result in collect(stages, store))
            step.note(f"working on {', '.join(running) or 'tables'}")
            step.advance(now - done)
            done = now


def _started(child: Child, base: str, bench: "Workbench", *, one_thread: bool) -> "subprocess.Popen[bytes]":
    log = child.place / LOGS / f"{base}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            return subprocess.Popen(  # noqa: S603 - our own command
                child.command(base, bench, one_thread=one_thread),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
    except OSError as error:
        raise OutputError(f"{log} cannot be written: {error.strerror}", advice="name another --dir") from error


def _tell(base: str, code: int, place: Path, bench: "Workbench") -> None:
    if code:
        bench.say(f"warning: {base} ended with exit code {code}; {place / LOGS / base}.log says why")


@contextmanager
def _ended_with(running: "dict[str, subprocess.Popen[bytes]]") -> Iterator[None]:
    """End what still runs when the context ends, however that comes: nothing that it keeps is half-written."""
    try:
        yield
    finally:
        until = time.monotonic() + SECONDS_TO_END
        for process in running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))  # Ctrl-C in a terminal has reached it too
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
