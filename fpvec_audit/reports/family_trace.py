"""Families of a trace in a terminal: marks as a strip of cells, licensees ranked."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.audit_text import p_shown
from fpvec_audit.reports.family_text import family_sentence, marks_of, own_copy, proportions, standing_text, strips
from fpvec_audit.reports.terminal import table_of

MOST_SHOWN = 8
"""Licensees in the table; those that are named come first and are all shown."""


def render_families(document: Mapping[str, Any], console: Console) -> None:
    """Show what a trace read of every family."""
    for family in document.get("families", ()):
        marks = marks_of(document, family)
        console.print(Text(family_sentence(family, marks), style="bold"))
        for number, cells in enumerate(strips(marks)):
            console.print(Text.assemble((f"{number * len(strips(marks)[0]):>5}  ", "dim"), cells))
        shown = [item for place, item in enumerate(family["licensees"]) if item["named"] or place < MOST_SHOWN]
        rows = [
            [
                Text(item["licensee"], style="bold green" if item["named"] else ""),
                f"{item['shared']}/{item['weight']}",
                p_shown(min(item["rules"].values())) if item["rules"] else "–",
                standing_text(item),
            ]
            for item in shown
        ]
        if rows:
            console.print(table_of("", ("licensee", ">marks", ">p", ""), rows))
        for sentence in (family["why"], own_copy(family), proportions(marks)):
            if sentence:
                console.print(Text(sentence, style="dim"))
