"""Whose carriers a suspect's weights hold, for people: one sentence, and a row for everybody who is named."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.carriers_text import carriers_sentence, findings_of, how_read
from fpvec_audit.reports.terminal import render_bullets, table_of

_LEAST_SHOWN = 1e-12


def render_carriers(document: Mapping[str, Any], console: Console) -> None:
    """Show what a reading of carriers found, and what it means."""
    render_carriers_found(document, console)
    render_bullets(console, "Notes", document["remarks"])
    render_bullets(console, "What this does not prove", document["does_not_prove"])


def render_carriers_found(document: Mapping[str, Any], console: Console) -> None:
    """Show what a reading of carriers found."""
    console.print(Text(carriers_sentence(document), style="bold"))
    own, *others = findings_of(document)
    findings = [own, *(finding for finding in others if finding["present"])]
    rows = [
        [
            Text(str(finding["licensee"])),
            f"{finding['z']:.1f}",
            _probability(finding["p_value"]),
            _probability(finding["p_value_corrected"]),
            "there" if finding["present"] else "not found",
        ]
        for finding in findings
    ]
    console.print(table_of("Carriers", ("whose", ">z", ">p", ">corrected", ""), rows))
    render_bullets(console, "How it was read", how_read(document))


def _probability(p: float) -> str:
    return f"< {_LEAST_SHOWN:g}" if p < _LEAST_SHOWN else f"{p:.2g}"
