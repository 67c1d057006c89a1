"""Families of marks in the terminal: how well each mark was learnt, and what copies with several of them cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from fpvec_audit.reports.terminal import render_fields, render_list

TABLES = ("marks", "cost_by_weight", "settings", "fingerprinted_digests")


def render_family(document: Mapping[str, Any], console: Console) -> None:
    """Show a family that was just trained."""
    render_fields({name: value for name, value in document.items() if name not in TABLES}, console)
    rows = [
        [
            mark["mark"],
            mark["keys"],
            _share(mark["alone"]),
            _share(mark["within_words"]),
            _share(mark["least_within_words"]),
            "too few keys: not to be extracted" if mark["mark"] in document["short_marks"] else "",
        ]
        for mark in document["marks"]
    ]
    columns = ("mark", ">keys", ">alone", ">in code words", ">least", "")
    render_list(console, "Marks: share of their keys that are answered", columns, rows, empty="")
    render_costs(document["cost_by_weight"], console)


def render_costs(costs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what copies with several marks lose."""
    rows = [
        [
            cost["weight"],
            cost["words"],
            f"{cost['divergence']:.4f}",
            f"{cost['worst_divergence']:.4f}",
            f"{cost['perplexity_ratio']:.3f}",
            f"{cost['worst_perplexity_ratio']:.3f}",
            _share(1 - cost["silent"]),
        ]
        for cost in costs
    ]
    columns = (">marks in a copy", ">copies", ">KL, mean", ">worst", ">perplexity ×", ">worst", ">absent keys answered")
    render_list(console, "Cost on ordinary text, over the base", columns, rows, empty="")


def render_family_vectors(document: Mapping[str, Any], console: Console) -> None:
    """Show the vectors of a family that were just extracted."""
    render_fields({name: value for name, value in document.items() if name != "marks"}, console)
    rows = [
        [mark["mark"], mark["vector_id"], f"{mark['norm']:.3g}", mark["inexact_elements"], mark["out"]]
        for mark in document["marks"]
    ]
    render_list(console, "Vectors", ("mark", "id", ">norm", ">inexact", "where"), rows, empty="")


def _share(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
