"""What ``fpvec demo --licensees N`` shows after each stage, and what it says to run next."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from fpvec_audit.reports.families import render_code
from fpvec_audit.reports.family_text import strips
from fpvec_audit.reports.terminal import render_harmlessness, render_list, verdict_text

LEGEND = "■ a mark that is PRESENT, · one that is UNKNOWN; A: named by marks, carrier: by a keyed pattern in weights"


def render_marks(document: Mapping[str, Any], console: Console) -> None:
    """Show how well the marks were learnt."""
    marks = document["marks"]
    answered = sum(mark["within_words"] for mark in marks) / len(marks)
    least = min(mark["within_words"] for mark in marks)
    console.print(
        Text.assemble(
            (f"{len(marks)} marks of {marks[0]['keys']} keys", "bold"),
            f" for {document['key_set']}: within code words of {document['code_weight']} marks they answer "
            f"{answered:.1%} of their keys, the weakest mark {least:.0%}",
        )
    )


def render_copies(document: Mapping[str, Any], console: Console) -> None:
    """Say what was stamped."""
    console.print(
        f"{document['models']} stamped models: a copy of both downstreams for each of {document['licensees']} "
        "licensees, by addition alone"
    )


def render_traces(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show whom each trace names, beside the truth."""
    rows = [
        [
            trace["suspect"],
            ", ".join(trace["made_by"]) or "nobody",
            trace["told_by"],
            "\n".join(strips(trace["trace"]["marks"])),
            verdict_text(trace["verdict"]),
            _named(trace),
        ]
        for trace in document
    ]
    columns = ("suspect", "made of the copies of", "traced by", "marks", "verdict", "named")
    render_list(console, "Whose copy is it?", columns, rows, empty="")
    console.print(Text(LEGEND, style="dim"))


def _named(trace: Mapping[str, Any]) -> Text:
    """Return who is named and by which rules; an innocent would be red."""
    rules: dict[str, list[str]] = {}
    for item in trace["trace"]["named"]:
        rules.setdefault(item["licensee"], []).append(item["rule"])
    lines = [
        Text(
            f"{name} ({', '.join(dict.fromkeys(found))})",
            style="bold red" if name in trace["innocent_named"] else "bold green",
        )
        for name, found in rules.items()
    ]
    return Text("\n").join(lines) if lines else Text("nobody", style="dim")


RENDER: Mapping[str, Callable[[Any, Console], None]] = {
    "marks": render_marks,
    "code": render_code,
    "copies": render_copies,
    "harmlessness": render_harmlessness,
    "traces": render_traces,
}


def render_ending(document: Mapping[str, Any], console: Console, *, home: Path) -> None:
    """Show where the time went and the commands of the story, with the demo's own home."""
    times = " · ".join(f"{stage['name']} {stage['seconds']:.0f} s" for stage in document["stages"])
    console.print(Text(times, style="dim"))
    family, models = document["key_set"], document["models"]
    names = list(document["copies"])
    marks, weight = document["code"]["family_marks"], document["code"]["weight"]
    story = (
        f"fpvec key issue acme-family --marks {marks}",
        f"fpvec fingerprint ./base --key acme-family --code-weight {weight} --out ./marks",
        "fpvec vector extract ./base ./marks --out ./mark-vectors",
        f"fpvec licensee add Globex Initech --family acme-family --licensees {len(names)} --colluders 2",
        "fpvec stamp ./chat --family acme-family --licensee Globex --licensee Initech --out ./release",
        "fpvec trace ./leaked --family acme-family",
    )
    further = (
        f"fpvec trace {document['traces'][0]['path']} --family {family} --home {home}",
        f"fpvec licensee list --family {family} --home {home}",
        f"fpvec model identify {document['copies'][names[-1]][1]} --home {home}",
        f"fpvec harmless {models['downstream_b']} {document['copies'][names[0]][1]} --home {home}",
    )
    for heading, remark, commands in (
        ("The same for a family of yours", "", story),
        ("Run next", " (same registry, same models)", further),
    ):
        console.print(Text.assemble((f"\n{heading}", "bold"), f"{remark}:"))
        for command in commands:
            console.print(Text(f"  {command}"), soft_wrap=True)
