"""The tables of docs/carriers.md, made of benchmarks/carriers.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGE = ("<!-- large: written by benchmarks/carriers.py -->", "<!-- large: end -->")
DEMO = ("<!-- demo: written by benchmarks/carriers.py -->", "<!-- demo: end -->")


def write_between(file: Path, marks: tuple[str, str], text: str) -> None:
    """Write a table between its marks in a document.

    Raises:
        SystemExit: there are no such marks.
    """
    begin, end = marks
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{file} has no place for the table: {begin} … {end}")
    file.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def large_table(document: Mapping[str, Any]) -> str:
    """Return what was read from the large model."""
    lines = []
    for size, found in document.get("large", {}).items():
        lines.append(
            f"\n{size} ({found['elements']:,} weights, bfloat16), strength {found['strength']:g}:\n\n"
            "| suspect | compared with | licensees read | owner's z | smallest z of those in it | largest other z "
            "| seconds, those of a processor | memory |\n"
            "|---|---|---|---|---|---|---|---|\n"
        )
        for row in found["suspects"]:
            lines.append(
                f"| {row['suspect']} | {_reference(row['against'])} | {row['licensees']:,} | {row['owner']:.0f} "
                f"| {row['smallest_own']:.0f} | {row['largest_other']:.1f} | {row['seconds']:.0f}, {_seconds(row)} "
                f"| {row['peak_bytes'] / 1e6:.0f} MB |\n"
            )
        wrong = found.get("wrong")
        if wrong:
            lines.append(
                f"\nOf {wrong['carriers']:,} carriers that nobody was given, read from {wrong['elements']:,} weights "
                f"of the copy, the largest z was {wrong['largest_z']:.2f} (p = {10 ** wrong['smallest_log10_p']:.1g}); "
                f"{wrong['processor_seconds']:.0f} s of a processor.\n"
            )
    return "".join(lines)


def demo_table(document: Mapping[str, Any]) -> str:
    """Return what carriers of several strengths cost and survive on the demo's families."""
    lines = []
    for name, found in document.get("demo", {}).items():
        rows = found["rows"]
        for downstream in dict.fromkeys(row["downstream"] for row in rows):
            plain, *own = [row for row in rows if row["downstream"] == downstream]
            lines.append(
                f"\n{name}, `{downstream}`, {found['parameters']:,} weights, {plain['questions']} questions; without "
                f"carriers {100 * plain['accuracy']:.1f} % and perplexity {plain['perplexity']:.3f}:\n\n"
            )
            lines.append(_row("strength", [f"{row['strength']:g}" for row in own]) + "|---" * (1 + len(own)) + "|\n")
            lost = [f"{100 * (row['accuracy'] - plain['accuracy']):+.1f}" for row in own]
            lines.append(_row("accuracy, points", lost))
            lines.append(_row("perplexity", [f"× {row['perplexity'] / plain['perplexity']:.4f}" for row in own]))
            for label in dict.fromkeys(label for row in own for label in row["z"]):
                found_z = [row["z"].get(label) for row in own]
                lines.append(_row(f"z, {label}", ["" if z is None else f"{z:.1f}" for z in found_z]))
    return "".join(lines)


def _row(label: str, cells: list[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |\n"


def _reference(name: str) -> str:
    return {"down": "downstream", "base": "base"}[name]


def _seconds(row: Mapping[str, Any]) -> str:
    return f"{row['processor_seconds']:.0f}" if "processor_seconds" in row else "–"
