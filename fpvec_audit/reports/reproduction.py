"""A reproduction in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.reproduction_findings import findings
from fpvec_audit.reports.reproduction_results import Results
from fpvec_audit.reports.reproduction_text import all_tables, summary
from fpvec_audit.reports.terminal import render_bullets, render_list


def render_reproduction(document: Mapping[str, Any], console: Console) -> None:
    """Show what reproduced and what did not, and every table."""
    results = Results(document)
    held, failed = findings(results)
    console.print(Text(summary(document), style="bold"))
    for table in all_tables(document):
        console.print()
        render_list(console, table.title, table.columns, table.rows, empty="")
        for note in table.notes:
            console.print(Text(note, style="dim"))
    render_bullets(console, "What reproduced", held)
    render_bullets(console, "What did not reproduce", failed)
    render_bullets(console, "What could not be carried out", results.problems())


def render_check(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what a plan needs on this machine."""
    rows = [
        [item["subject"], Text("there", "green") if item["there"] else Text("missing", "red"), item["detail"]]
        for item in document
    ]
    render_list(console, "What the plan needs", ("what", "", "found"), rows, empty="")
    render_bullets(console, "What to do", [f"{item['subject']}: {item['mend']}" for item in document if item["mend"]])
