"""Whose carriers a suspect's weights hold, for people: one sentence, and a row for everybody who is named."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.terminal import render_bullets, short, table_of

_LEAST_SHOWN = 1e-12


def render_carriers(document: Mapping[str, Any], console: Console) -> None:
    """Show what a reading of carriers found, and what it means."""
    render_carriers_found(document, console)
    render_bullets(console, "Notes", document["remarks"])
    render_bullets(console, "What this does not prove", document["does_not_prove"])


def render_carriers_found(document: Mapping[str, Any], console: Console) -> None:
    """Show what a reading of carriers found."""
    console.print(Text(_sentence(document), style="bold"))
    findings = [{"licensee": "(your own)", **_without_none(document["owner"])}, *document["named"]]
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
    render_bullets(console, "How it was read", _how(document))


def _sentence(document: Mapping[str, Any]) -> str:
    named = [finding["licensee"] for finding in document["named"]]
    if named:
        return f"The weights hold the carrier of {' and of '.join(named)}."
    if document["owner"]["present"]:
        return "The weights hold your own carrier, and no licensee's that can be told: copies may have been averaged."
    return "No carrier was found."


def _how(document: Mapping[str, Any]) -> list[str]:
    reference = document["reference"]
    model = f" {short(reference['model'])}" if reference["model"] else ""
    lines = [
        f"compared with the {reference['role']}{model} at {reference['path']}",
        f"{document['elements']:,} of {document['shared_elements']:,} weights, {document['seconds']:.1f} s",
        f"{document['candidates']} licensees at once, Holm's correction at α = {document['alpha']:g}; every p times "
        f"{document['grinding_allowance']:.1e}, since you alone chose the secret",
        f"committed to in the ledger at {document['committed_at'][:19]}",
    ]
    if document["largest_z_of_others"] is not None:
        lines.append(f"largest z of the others: {document['largest_z_of_others']:.1f}")
    return lines


def _probability(p: float) -> str:
    return f"< {_LEAST_SHOWN:g}" if p < _LEAST_SHOWN else f"{p:.2g}"


def _without_none(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in finding.items() if value is not None}
