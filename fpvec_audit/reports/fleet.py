"""Fleet runs for people to read: how far one is, what became of it, and which there are."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fpvec_audit.reports.terminal import render_bullets, render_fields, render_list, table_of

SHOWN_FAILURES = 50
_COUNTS = ("queued", "running", "done", "set_aside")


def progress_table(document: Mapping[str, Any]) -> Group:
    """Return a table of how far a run is, and of its slowest machines."""
    left = document["seconds_left"]
    columns = [f">{name.replace('_', ' ')}" for name in _COUNTS]
    row = [*(document[name] for name in _COUNTS), _rate(document), "–" if left is None else _duration(left)]
    parts: list[Table | Text] = [
        table_of(f"{document['action']} {document['run']}", [*columns, ">items/s", ">to go"], [row])
    ]
    if len(document["slowest"]) > 1:
        nodes = [[node["node"], node["items"], f"{node['seconds']:.1f}"] for node in document["slowest"]]
        parts.append(table_of("Slowest nodes", ("node", ">items", ">s an item"), nodes))
    if document["dashboard"]:
        parts.append(Text(f"Ray's dashboard: {document['dashboard']}", style="dim"))
    return Group(*parts)


def progress_line(document: Mapping[str, Any]) -> str:
    """Return how far a run is, in a line."""
    left = document["seconds_left"]
    ended = document["done"] + document["set_aside"]
    to_go = "" if left is None else f", about {_duration(left)} to go"
    aside = f", {document['set_aside']} set aside" if document["set_aside"] else ""
    return f"{ended} of {document['items']} items{aside}, {document['running']} running, {_rate(document)}/s{to_go}"


def render_run(document: Mapping[str, Any], console: Console) -> None:
    """Show how far a run is, what came of its items, and what was set aside."""
    counts = {name: document[name] for name in ("items", *_COUNTS)}
    told = {name: document[name] for name in ("run", "action", "state", "source")} | counts
    if document["outcomes"]:
        told["outcomes"] = ", ".join(f"{count} {name}" for name, count in document["outcomes"].items())
    told |= {name: document[name] for name in ("repeated", "skipped") if document[name]}
    if document["seconds"] is not None:
        told["took"] = _duration(document["seconds"])
    render_fields(told, console)
    if len(document["nodes"]) > 1:
        rows = [[node["node"], node["items"], f"{node['seconds']:.1f}"] for node in document["nodes"]]
        console.print(table_of("Nodes, the slowest first", ("node", ">items", ">s an item"), rows))
    render_bullets(console, "Left out", document["skipped_lines"])
    failures = document["failures"]
    render_bullets(console, "Set aside", [_failure(item) for item in failures[:SHOWN_FAILURES]])
    if len(failures) > SHOWN_FAILURES:
        console.print(Text(f"… and {len(failures) - SHOWN_FAILURES} more: --json has them all"))


def render_runs(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List runs."""
    rows = [
        [run["run"], run["action"], run["state"], run["items"], run["created_at"][:19], run["source"]]
        for run in document
    ]
    columns = ("id", "what", "state", ">items", "since (UTC)", "which")
    render_list(
        console, "Fleet runs", columns, rows, empty="no run yet: fpvec fleet stamp MANIFEST --vector V --out DIR"
    )


def _failure(item: Mapping[str, Any]) -> str:
    place = f"line {item['line']}" if item["line"] else f"item {item['item']}"
    tried = "once" if item["attempts"] == 1 else f"{item['attempts']} times"
    return f"{place}, tried {tried}: {item['error']}"


def _rate(document: Mapping[str, Any]) -> str:
    rate = document["items_per_second"]
    return "–" if rate is None else f"{rate:.2f}"


def _duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
