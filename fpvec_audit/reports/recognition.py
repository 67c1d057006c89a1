"""What was recognised in a checkpoint, for people: the nearest model in words, the others in a table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.terminal import render_bullets, render_list, short


def render_recognition(document: Mapping[str, Any], console: Console) -> None:
    """Show which recorded models a checkpoint is, or shares tensors with."""
    matches = document["matches"]
    console.print(Text(_sentence(document), style="bold"))
    console.print(Text(f"{document['path']}: {document['tensors']} tensors, {document['parameters']:,} parameters"))
    if matches:
        nearest = matches[0]
        render_bullets(console, "Where it is from", _origin(nearest))
        render_bullets(console, "What differs", _differences(nearest))
    if matches and not matches[0]["exact"]:
        rows = [
            [
                match["name"],
                short(match["id"]),
                match["role"],
                f"{match['shared_tensors']} of {document['tensors']}",
                _percent(match["share"]),
                _percent(match["share_of_model"]),
                ", ".join(stamp["licensee"] or short(stamp["stamp_id"]) for stamp in match["stamps"]) or "–",
            ]
            for match in matches
        ]
        columns = ("model", "id", "role", ">tensors", ">share of it", ">share of the model", "stamped for")
        render_list(console, "Models that share tensors with it", columns, rows, empty="")
    render_bullets(console, "Notes", document["warnings"])


def _sentence(document: Mapping[str, Any]) -> str:
    if not document["matches"]:
        return "Nothing in this registry is recognised in it."
    nearest = document["matches"][0]
    what = f"{nearest['name']} ({nearest['role']})"
    if nearest["exact"]:
        return f"This is {what}, tensor by tensor."
    if nearest["share"] == nearest["share_of_model"] == 1:
        return f"This is {what}, every tensor of it, under other names."
    if nearest["share"] == 1:
        return f"This is a part of {what}: {_percent(nearest['share_of_model'])} of it."
    return f"{_percent(nearest['share'])} of it is from {what}: {nearest['shared_tensors']} tensors."


def _origin(match: Mapping[str, Any]) -> list[str]:
    line = " ← ".join(f"{model['name']} ({model['role']})" for model in match["lineage"])
    lines = [f"{line}; recorded at {match['location']}"]
    for stamp in match["stamps"]:
        vectors = ", ".join(f"{vector['vector']} × {vector['scale']:g}" for vector in stamp["vectors"])
        whom = f"for {stamp['licensee']}" if stamp["licensee"] else "for nobody named"
        downstream = stamp["downstream_name"] or short(stamp["downstream"])
        lines.append(f"stamp {stamp['stamp_id']} {whom}: {downstream} + {vectors}")
    return lines


def _differences(match: Mapping[str, Any]) -> list[str]:
    told = {
        "changed": "have other numbers or another shape than recorded",
        "added": "are not in the recorded model",
        "missing": "of the recorded model are not there",
    }
    lines = []
    for kind, what in told.items():
        if count := match.get(kind, 0):
            shown = ", ".join(match[f"first_{kind}"])
            lines.append(f"{count} {what}: {shown}{', …' if count > len(match[f'first_{kind}']) else ''}")
    if renamed := match.get("renamed", 0):
        lines.append(f"{renamed} have another name than recorded")
    return lines


def _percent(share: float) -> str:
    """Return a share that says 100 % and 0 % only of everything and nothing."""
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{min(max(100 * share, 0.1), 99.9):.1f} %"
