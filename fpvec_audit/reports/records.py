"""Lists of what the registry remembers of people and audits, for people to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.terminal import COLOURS, render_audit, render_fields, render_list, short

_POLICIES = ("vocabulary", "again", "skip", "adapter")


def render_licensees(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List licensees."""
    rows = [
        [licensee["name"], licensee["id"], licensee["key_sets"], licensee["stamps"], licensee["created_at"][:19]]
        for licensee in document
    ]
    columns = ("name", "id", ">key sets", ">stamps", "since (UTC)")
    render_list(console, "Licensees", columns, rows, empty="nothing was issued to a licensee yet")


def render_recorded_stamps(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List recorded stamps."""
    rows = [
        [
            short(stamp["stamp_id"]),
            stamp["created_at"][:19],
            stamp["licensee"] or "–",
            stamp["downstream_name"],
            ", ".join(f"{short(vector['vector'])}×{vector['scale']:g}" for vector in stamp["vectors"]),
            stamp["stamped_name"],
        ]
        for stamp in document
    ]
    columns = ("id", "made (UTC)", "licensee", "downstream", "vectors", "copy")
    render_list(
        console, "Stamps", columns, rows, empty="no stamp is recorded: fpvec stamp DOWNSTREAM --vector V --out DIR"
    )


def render_vector(document: Mapping[str, Any], console: Console) -> None:
    """Show a vector, and the newest copies that were stamped with it."""
    render_fields({name: value for name, value in document.items() if name != "latest_stamps"}, console)
    rows = [
        [
            stamp["stamp_id"],
            stamp["licensee"] or "–",
            ", ".join(f"{short(vector['vector'])}×{vector['scale']:g}" for vector in stamp["vectors"]),
            ", ".join(f"{name} {value}" for name, value in stamp["policies"].items() if value and name in _POLICIES),
            stamp["created_at"][:19],
            stamp["location"],
        ]
        for stamp in document["latest_stamps"]
    ]
    if rows:
        columns = ("stamp", "licensee", "vectors", "policy", "when (UTC)", "where")
        render_list(console, "Newest stamps", columns, rows, empty="")


def render_suspects(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List suspects."""
    rows = [
        [short(suspect["id"]), suspect["kind"], suspect["first_seen"][:19], suspect["location"]] for suspect in document
    ]
    columns = ("id", "kind", "met first (UTC)", "where")
    render_list(console, "Suspects", columns, rows, empty="no audit yet: fpvec audit SUSPECT --key KEY")


def render_suspect(document: Mapping[str, Any], console: Console) -> None:
    """Show a suspect and its audits."""
    render_fields({name: value for name, value in document.items() if name != "audits"}, console)
    render_audit_list(document["audits"], console)


def render_audit_list(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List audits."""
    rows = [
        [
            audit["audit_id"],
            Text(audit["verdict"], style=COLOURS.get(audit["verdict"], "")),
            audit["key_set_name"],
            audit["created_at"][:19],
            audit["suspect"],
        ]
        for audit in document
    ]
    columns = ("id", "verdict", "key set", "planned (UTC)", "suspect")
    render_list(console, "Audits", columns, rows, empty="no audit yet: fpvec audit SUSPECT --key KEY")


def render_recorded_audit(document: Mapping[str, Any], console: Console) -> None:
    """Show an audit as it was shown when it ended, or what is known of one that has not ended."""
    (render_audit if "schema" in document else render_fields)(document, console)
