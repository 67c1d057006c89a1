"""What ``fpvec demo`` shows after each stage, and what it says to run next."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fpvec_audit.reports.attack_tables import render_cells
from fpvec_audit.reports.terminal import render_audits, render_harmlessness

TITLES = {
    "base": "base",
    "downstream_a": "downstream A (maths)",
    "downstream_b": "downstream B (text)",
    "fingerprinted": "fingerprinted",
    "stamped_a": "stamped A",
    "stamped_b": "stamped B",
}


def render_conversation(document: dict[str, Any], console: Console) -> None:
    """Show what four models say to a disclosed key, a decoy and an ordinary question."""
    table = Table(expand=True, show_lines=True)
    table.add_column("prompt")
    for name in document["models"]:
        table.add_column(TITLES[name])
    for question in document["questions"]:
        answers = [_answer(question["answers"][name], question["response"]) for name in document["models"]]
        table.add_row(Text.assemble((question["kind"], "bold"), f"\n{question['prompt']}"), *answers)
    caption = "The disclosed key belongs to no key set and is never counted; a decoy is committed but never trained."
    console.print(Panel(Group(table, Text(caption, style="dim")), title="What the models say"))


def _answer(answer: str, secret: str | None) -> Text:
    """Return an answer, green where it is the secret one."""
    if not answer:
        return Text("(nothing)", style="dim")
    return Text(answer, style="bold green" if answer == secret else "")


def render_audit_table(document: dict[str, Any], console: Console) -> None:
    """Show the six audits in one table."""
    render_audits({TITLES[name]: audit for name, audit in document.items()}, console)


def render_harm(document: dict[str, Any], console: Console) -> None:
    """Show what the downstreams learnt and what stamping cost them."""
    table = Table(title="What the downstream models learnt (own task, questions never trained on)", expand=True)
    for column in ("model", "items", "base", "downstream", "difference", "McNemar p"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, learning in document["learning"].items():
        table.add_row(
            TITLES[name],
            str(learning["items"]),
            f"{learning['before']:.1%}",
            f"{learning['after']:.1%}",
            f"{100 * learning['difference']:+.1f} points",
            f"{learning['p_value']:.1e}",
        )
    console.print(table)
    render_harmlessness({TITLES[name]: harm for name, harm in document["harmlessness"].items()}, console)


RENDER: Mapping[str, Callable[[Any, Console], None]] = {
    "conversation": render_conversation,
    "audits": render_audit_table,
    "harmlessness": render_harm,
    "attacks": lambda cells, console: render_cells({"cells": cells}, console),
}


def render_ending(document: dict[str, Any], console: Console, *, home: Path) -> None:
    """Show where the time went and what to run next, with the demo's own home."""
    times = " · ".join(f"{stage['name']} {stage['seconds']:.0f} s" for stage in document["stages"])
    console.print(Text(times, style="dim"))
    stamped, key_set = document["models"]["stamped_a"], document["key_set"]
    commands = (
        f"fpvec audit {stamped} --key {key_set} --home {home}",
        f"fpvec attack run {stamped} --key {key_set} --attack fine_tune:method=lora --home {home}",
        f"fpvec key show {key_set} --reveal --home {home}",
        f"fpvec registry verify --home {home}",
    )
    console.print(Text.assemble(("\nRun next", "bold"), " (same registry, same models):"))
    for command in commands:
        console.print(Text(f"  {command}"), soft_wrap=True)
