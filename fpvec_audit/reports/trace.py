"""A trace in a terminal: who is named, and what every key set showed."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fpvec_audit.reports.audit_text import p_shown, weights
from fpvec_audit.reports.carriers import render_carriers_found
from fpvec_audit.reports.family_trace import render_families
from fpvec_audit.reports.numbers_text import counted
from fpvec_audit.reports.terminal import COLOURS, render_bullets, render_pairs
from fpvec_audit.reports.trace_text import SENTENCES, identifiers

MOST_SHOWN = 20
"""Key sets in the table; those that are named are always among them, as they come first."""
SHORT = {"exact": "exact", "likelihood": "likely", "gradient": "weights", "vocabulary-gradient": "words"}
"""Tests in so few letters that a table of them fits 80 columns."""


def render_trace(document: Mapping[str, Any], console: Console) -> None:
    """Show one trace."""
    verdict = document["verdict"]
    names = " and ".join(dict.fromkeys(str(item["licensee"]) for item in document["named"]))
    sentence = SENTENCES[verdict].format(named=names)
    console.print(Text.assemble((f"{verdict}  ", f"bold {COLOURS[verdict]}"), (sentence, "bold")))
    candidates = document["candidates"]
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=counted(len(candidates), "key set") + (", the likeliest first" if len(candidates) > 1 else ""),
        title_justify="left",
    )
    for column in ("key set", "for"):
        table.add_column(column, overflow="fold")
    for column in ("keys", "decoys", *(SHORT.get(test["name"], test["name"]) for test in candidates[0]["tests"]), "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for item in candidates[:MOST_SHOWN]:
        table.add_row(
            Text(item["name"]),
            Text(item["licensee"] or "–"),
            f"{item['matched']}/{item['issued']}",
            f"{item['decoys_matched']}/{item['decoys']}",
            *(p_shown(test["p_value"]) for test in item["tests"]),
            p_shown(item["p_value_corrected"]),
            Text("named", style="bold green") if item["named"] else Text("found" if item.get("found") else ""),
        )
    console.print(table)
    render_families(document, console)
    for carriers in document.get("carriers", ()):
        render_carriers_found(carriers, console)
    if len(candidates) > MOST_SHOWN:
        console.print(Text(f"and {len(candidates) - MOST_SHOWN} more that are less likely", style="dim"))
    console.print(
        Text(
            f"{document['queries']} questions, one engine start ({document['backend']['engine']} "
            f"{document['backend']['version']}), {document['seconds']:.1f} s; p by test, then corrected by Holm over "
            f"all tests of all key sets, found at {document['alpha']:g} or less",
            style="dim",
        )
    )
    render_bullets(console, "What the weights look like", weights(document)[:MOST_SHOWN])
    render_bullets(console, "Notes", document["warnings"])
    render_bullets(console, "What this does not prove", document["does_not_prove"])
    render_pairs(console, "Identifiers", identifiers(document))
