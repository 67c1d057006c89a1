"""A harmlessness comparison in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports import harmless_text
from fpvec_audit.reports.terminal import render_bullets, render_list

COLOURS = {"HARMLESS": "green", "HARMFUL": "red", "INCONCLUSIVE": "yellow"}


def render_comparison(document: Mapping[str, Any], console: Console) -> None:
    """Show one comparison: verdict, what it means, tasks, text, what was left out, limits."""
    verdict = document["verdict"]
    console.print(
        Text.assemble((f"{verdict}  ", f"bold {COLOURS[verdict]}"), (harmless_text.SENTENCES[verdict], "bold"))
    )
    console.print(Text(harmless_text.meaning(document)))
    console.print()
    rows = [
        [*_cells(task), harmless_text.bound(task), _coloured(task.get("verdict", ""))] for task in document["tasks"]
    ]
    columns = ("task", ">items", ">before → after", ">change (95 %)", ">loss ≤", "result")
    render_list(console, "Tasks", columns, rows, empty="no task was compared")
    parts = [
        _cells({**part, "task": part["kind"].replace("_", " "), "metric": task.get("metric", "")})
        for task in document["tasks"]
        for part in task.get("parts") or ()
    ]
    if parts:
        render_list(console, "The same items by kind; shown, and not judged", ("kind", *columns[1:4]), parts, empty="")
    render_bullets(console, "On fixed text", harmless_text.on_text(document))
    render_bullets(console, "Left out", harmless_text.left_out(document))
    render_bullets(console, "How it was measured", harmless_text.method(document))
    render_bullets(console, "Notes", document.get("warnings") or [])
    render_bullets(console, "What this does not prove", harmless_text.limits(document))
    if document.get("logs"):
        console.print()
        console.print(Text(f"every item's answers: {document['logs']}"), soft_wrap=True)


def _cells(task: Mapping[str, Any]) -> list[str]:
    return [
        str(task["task"]),
        f"{task['items']:,}",
        harmless_text.scores_line(task),
        harmless_text.change_line(task),
    ]


def _coloured(verdict: str) -> Text:
    return Text(verdict, style=COLOURS.get(verdict, ""))
