"""How far a run is, while it goes on: a table on a terminal, now and then a line elsewhere, or JSON for programs."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fpvec_audit.cli.streams import ReaderGoneError

if TYPE_CHECKING:
    from fpvec_audit.cli.wiring import Workbench
    from fpvec_audit.domain.fleet import FleetRun
    from fpvec_audit.fleet.watching import Watch

LINE_SECONDS = 10.0
"""Between two lines in a log."""


@contextmanager
def shown_run(bench: "Workbench", run: "FleetRun", *, as_lines: bool) -> Iterator["Watch"]:
    """Give a watch that shows how far a run is until the context ends.

    Args:
        bench: where to show it.
        run: which.
        as_lines: as JSON on stdout, a line each time.
    """
    from fpvec_audit.fleet.watching import Watch

    bench.say(f"run {run.id}: {run.items} items; if this is cut short: fpvec fleet resume {run.id}")
    if as_lines:
        yield Watch(run, show=json_line, tell=lambda sentence: json_line({"sentence": sentence}, event="remark"))
    elif bench.errors.is_terminal:
        with _live(bench) as show:
            yield Watch(run, show=show, tell=bench.say)
    else:
        yield Watch(run, show=_now_and_then(bench), tell=bench.say)


@contextmanager
def _live(bench: "Workbench") -> Iterator[Callable[[Mapping[str, Any]], None]]:
    from rich.live import Live

    from fpvec_audit.reports.fleet import progress_table

    with Live(console=bench.errors, transient=True, auto_refresh=False) as live:
        yield lambda document: live.update(progress_table(document), refresh=True)


def _now_and_then(bench: "Workbench") -> Callable[[Mapping[str, Any]], None]:
    from fpvec_audit.reports.fleet import progress_line

    shown = [time.monotonic()]

    def show(document: Mapping[str, Any]) -> None:
        if time.monotonic() - shown[0] >= LINE_SECONDS:
            shown[0] = time.monotonic()
            bench.say(progress_line(document))

    return show


def json_line(document: Mapping[str, Any], event: str = "progress") -> None:
    """Write a JSON object on a line of its own; a run goes on where nobody reads it."""
    with suppress(ReaderGoneError):
        sys.stdout.write(json.dumps({"event": event, **document}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
