"""How evidence is shown in a terminal: what was checked, what was found, and what that does not prove."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.reports.terminal import render_bullets, render_fields

if TYPE_CHECKING:
    from rich.console import Console

FITS, DOES_NOT_FIT = "✓", "✗"
_LISTS = ("warnings", "not_recomputed", "does_not_prove")


def render_verification(document: Mapping[str, Any], console: "Console") -> None:
    """Show what verifying a bundle found."""
    title = "VALID" if document["valid"] else "NOT VALID"
    said = (
        f"{document['verdict']}, grade {document['grade']}"
        if document["valid"]
        else "no verdict follows from this file"
    )
    _line(console, f"{title}  {said}")
    if document["accusation"]:
        _line(console, document["accusation"])
        for item in document["named"]:
            _line(console, _named(item))
    _line(console, "")
    render_fields({check["name"]: _mark(check) + check["sentence"] for check in document["checks"]}, console)
    _line(console, "")
    render_fields({name: document[name] for name in ("signer", "order") if document[name]}, console)
    render_bullets(console, "What does not fit", document["problems"])
    if document["valid"]:
        render_bullets(console, "Not recomputed", document["not_recomputed"])
        render_bullets(console, "What this does not prove", document["does_not_prove"])


def render_export(document: Mapping[str, Any], console: "Console") -> None:
    """Show a bundle that was written."""
    render_fields({name: value for name, value in document.items() if name not in _LISTS}, console)
    render_bullets(console, "Notes", _lines(document, "warnings"))
    render_bullets(console, "Not recomputed by whoever verifies it", _lines(document, "not_recomputed"))
    render_bullets(console, "What this does not prove", _lines(document, "does_not_prove"))


def render_recording(document: Mapping[str, Any], console: "Console") -> None:
    """Show a bundle that was recorded, or had been."""
    _line(console, "RECORDED" if document["new"] else "RECORDED BEFORE")
    render_fields({name: value for name, value in document.items() if name not in (*_LISTS, "new")}, console)
    render_bullets(console, "Notes", _lines(document, "warnings"))
    render_bullets(console, "Not recomputed", _lines(document, "not_recomputed"))
    render_bullets(console, "What this does not prove", _lines(document, "does_not_prove"))


def render_recorded(documents: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """Show the audits that were handed over and recorded."""
    if not documents:
        _line(console, "no audit was handed over yet")
    for document in documents:
        pinned = "pinned" if document["key_from"] == "verifier" else "not pinned"
        _line(
            console,
            f"{document['id']}  {document['verdict']}, grade {document['grade']}  {document['suspect']}  "
            f"{document['audit']}, signed by {document['signer'][:16]}… ({pinned})  {document['recorded_at'][:16]}",
        )


def _named(item: Mapping[str, Any]) -> str:
    rules = ", ".join(f"{rule} asks for {count}" for rule, count in item["needed"].items())
    return (
        f"  {item['licensee']}: {item['shared']} of the {len(item['word'])} marks of word {item['number']} are PRESENT "
        f"(rule {rules}), which rests on {item['rests_on']}"
    )


def _mark(check: Mapping[str, Any]) -> str:
    return f"{FITS if check['ok'] else DOES_NOT_FIT} "


def _lines(document: Mapping[str, Any], name: str) -> Sequence[str]:
    return list(document[name])


def _line(console: "Console", text: str) -> None:
    console.print(text, markup=False, highlight=False)
