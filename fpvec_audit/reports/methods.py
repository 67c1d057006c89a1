"""Methods, models that they embedded keys into, and what that cost, in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from fpvec_audit.reports.terminal import render_bullets, render_fields, render_list


def render_methods(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """List methods with their sources, key schemes and parameters."""
    rows = [
        [
            method["name"],
            f"{method['description']}\n{method['source']}",
            "\n".join(method["schemes"]),
            "\n".join(f"{item['name']}={item['default']}" for item in method["parameters"]) or "–",
        ]
        for method in document
    ]
    columns = ("name", "what it does, and its source", "key schemes", "parameters")
    render_list(console, "Methods", columns, rows, empty="no method is plugged in")


def render_embedded(document: Mapping[str, Any], console: Console) -> None:
    """Show a model that a method embedded a key set into."""
    each, once = document["cost"]["each"], document["cost"]["once"]
    shown = {name: value for name, value in document.items() if name not in ("cost", "detail", "parameters", "seconds")}
    shown["cost of this model"] = _cost(each)
    if once is not None:
        made = "made earlier" if document["cost"]["once_reused"] else "made now"
        shown["cost once for the base"] = f"{_cost(once)} ({made})"
    detail = {name: value for name, value in document["detail"].items() if isinstance(value, (int, float, str))}
    render_fields({**shown, **detail}, console)


def render_costs(document: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Show what methods cost for one model and for many, and from where on one is cheaper than another."""
    for group in document:
        title = f"{group['architecture']}, {group['parameters']:,} parameters, {group['device']}"
        counts = [projection["models"] for projection in group["methods"][0]["models"]]
        rows = [
            [
                method["method"],
                _cost(method["once"]) if method["once"]["seconds"] else "–",
                f"{_cost(method['each'])}\nmean of {method['measured_models']}",
                *(
                    f"{_seconds(projection['seconds'])}{' *' if projection['extrapolated'] else ''}"
                    for projection in method["models"]
                ),
            ]
            for method in group["methods"]
        ]
        columns = (">once", ">each", *(f">{_models(count)}" for count in counts))
        render_list(console, title, ("method", *columns), rows, empty="")
        render_bullets(
            console, "Cheaper in seconds", [_crossed(item) for item in group["crossovers"] if item["seconds"]]
        )
        render_bullets(console, "Notes", [f"* {group['note']}"])
    if not document:
        console.print("no model was embedded by `fpvec embed` yet")


def _crossed(item: Mapping[str, Any]) -> str:
    return f"{item['method']} than {item['against']}, from {_models(item['seconds'])} on"


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _cost(cost: Mapping[str, Any]) -> str:
    memory = f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB"
    if cost["peak_device_memory_bytes"]:
        memory += f", device {cost['peak_device_memory_bytes'] / 2**20:,.0f} MiB"
    return f"{_seconds(cost['seconds'])}, {cost['device_seconds']:.3g} device-s, {memory}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"
