"""Codes of families and who has which word, in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.family import render_costs
from fpvec_audit.reports.terminal import COLOURS, render_bullets, render_list, table_of

RULES = {
    "A": "rule A: coalitions of up to {colluders}, whose copies invent no marks",
    "B": "rule B: any coalition; wrongly with a chance of {epsilon} at most",
}
"""How licensees are named, in words."""


def render_code(document: Mapping[str, Any], console: Console) -> None:
    """Show a family's code: what it can bear and what a copy costs."""
    chosen = document["chosen_at"]
    console.print(Text(f"{document['code']} for {document['name']}", style="bold"))
    named = " and ".join(RULES[rule].format(**document) for rule in document["rules"])
    rows = [
        ("chosen", chosen[:19] if chosen else "not yet: this is what would be"),
        ("marks", f"{document['marks']} of the family's {document['family_marks']}"),
        ("in a copy", f"{document['weight']} marks, {document['keys_of_a_copy']} keys"),
        ("words", f"{document['capacity']}: {document['issued']} in use, {document['retired']} retired"),
        ("two words share", f"at most {document['intersection']}, {document['expected_intersection']:.2g} on average"),
        ("names by", named),
        ("most colluders", f"{document['most_colluders']} by rule A"),
    ]
    if document["bound"]:
        shown = ", ".join(f"{copies}: {value:.2g}" for copies, value in document["bound"].items())
        rows.append(("chance of an innocent", f"by number of copies all of whose marks show – {shown}"))
    console.print(table_of("", ("", ""), rows))
    if document["cost_by_weight"]:
        render_costs(document["cost_by_weight"], console)
    else:
        console.print(Text("the family is not trained yet: what a copy costs is not known", style="dim"))
    render_bullets(console, "Notes", document["warnings"])


def render_words(document: Mapping[str, Any], console: Console) -> None:
    """List who has which word, its marks only where they were revealed."""
    family, words = document["family"], document["words"]
    revealed = any("marks" in word for word in words)
    rows = [
        [
            word["number"],
            word["licensee"],
            Text(word["state"], style=COLOURS.get(word["state"], "")),
            " ".join(map(str, word["marks"])) if revealed else f"{word['weight']} marks",
            word["created_at"][:19],
        ]
        for word in words
    ]
    title = f"Words of {family['code']} for {family['name']}"
    columns = (">#", "licensee", "state", "marks" if revealed else "weight", "since (UTC)")
    render_list(console, title, columns, rows, empty="nobody has a word yet")
    render_bullets(console, "Notes", document["warnings"])


def render_retired(document: Mapping[str, Any], console: Console) -> None:
    """Say that a word is out of use."""
    (word,) = document["words"]
    console.print(
        Text(
            f"word {word['number']} of {word['licensee']!r} is {word['state']}: nobody else gets it, and copies that "
            "carry it are still traced to its licensee"
        )
    )
