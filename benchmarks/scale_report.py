"""What `scale.py` computed and `scale_registry.py` measured, as the tables of docs/scale.md.

Everything follows from the two JSON documents, so that the page can be made again, and tested, without measuring.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]

MARKERS = (
    "<!-- benchmarks/scale_report.py {}: begin; do not edit by hand -->",
    "<!-- benchmarks/scale_report.py {}: end -->",
)


def write_docs(page: Path, scale: Document, registry: Document) -> None:
    """Replace the tables of a page.

    Raises:
        SystemExit: the page lacks a section.
    """
    text = page.read_text(encoding="utf-8")
    for name, lines in sections(scale, registry):
        begin, end = (marker.format(name) for marker in MARKERS)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{page} has no section {name}: its markers are missing")
        text = before + begin + "\n" + "\n".join(lines) + "\n" + end + after
    page.write_text(text, encoding="utf-8")


def sections(scale: Document, registry: Document) -> Iterator[tuple[str, list[str]]]:
    """Yield every section's name and lines."""
    yield "fleets", fleets(scale["items"])
    yield "items", items(scale["items"])
    yield "saturation", saturation(scale["items"])
    yield "week", week(scale["items"])
    yield "inputs", inputs(scale["inputs"])
    yield "checks", checks(scale["checks"])
    yield "measured", measured(registry)
    yield "writes", writes(registry["databases"])
    for name, table in {"ledger": ledger, "chains": chains, "stamps": stamps}.items():
        databases = [database for database in registry["databases"] if name in database]
        yield name, table(databases) if databases else UNMEASURED


UNMEASURED = ["", "Not measured yet: `python benchmarks/scale_registry.py` on a machine with nothing else to do.", ""]


def fleets(rows: Sequence[Document]) -> list[str]:
    """Say how many nodes do so many items in a day, or how long the largest useful fleet takes."""
    counts = [fleet["count"] for fleet in rows[0]["fleets"]]
    lines = header("item", "model", *(f"{count:,}" for count in counts), text=2)
    for row in rows:
        lines.append(line(row["kind"], row["size"], *(nodes_and_time(fleet) for fleet in row["fleets"])))
    return lines


def nodes_and_time(fleet: Document) -> str:
    """Return a fleet and its time; one that does not do it in a day is bold."""
    told = f"{fleet['nodes']:,} {'node' if fleet['nodes'] == 1 else 'nodes'}, {duration(fleet['hours'])}"
    return told if fleet["hours"] <= 24.05 else f"**{told}**"


def duration(hours: float) -> str:
    """Return hours in the unit that reads best."""
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.0f} d"


def items(rows: Sequence[Document]) -> list[str]:
    """Say where one item spends its time, and what a node does in an hour."""
    lines = header("item", "model", "network", "disk", "processors", "accelerator", "way to the store", "registry",
                   "items a node and hour", text=2)  # fmt: skip
    for row in rows:
        found = row["stations"]
        times = [
            seconds(found.get(name))
            for name in (
                *("network of a node", "disk of a node", "processors of a node", "accelerator of a node"),
                *("object store", "registry"),
            )
        ]
        lines.append(line(row["kind"], row["size"], *times, f"{row['node_per_hour']:,.0f}"))
    return lines


def saturation(rows: Sequence[Document]) -> list[str]:
    """Say with how many nodes what they share is full, and how many items a second that is."""
    lines = header("item", "model", "full first", "nodes", "items a second", "then", "nodes", "items a second", text=3)
    for row in rows:
        cells = [
            cell
            for place in row["saturation"]
            for cell in (place["name"], f"{place['nodes']:,}", f"{place['per_second']:,.1f}")
        ]
        lines.append(line(row["kind"], row["size"], *cells))
    return lines


def week(rows: Sequence[Document]) -> list[str]:
    """Say what the largest number of items asks for in a week."""
    lines = header("item", "model", "nodes", "way to the store, each way", "registries", text=2)
    for row in rows:
        found = row["week"]
        store = f"{found['store_bytes_per_second'] / 1e9:,.0f} GB/s"
        lines.append(line(row["kind"], row["size"], f"{found['nodes']:,.0f}", store, f"{found['registries']:,.0f}"))
    return lines


def inputs(found: Document) -> list[str]:
    """Say what everything is computed from."""
    lines = header("input", "from", "value", text=2)
    return lines + [line(f"`{name}`", one["source"], f"{one['value']:.4g}") for name, one in found.items()]


def checks(rows: Sequence[Document]) -> list[str]:
    """Hold the analysis against the simulation."""
    lines = header("item", "model", "nodes", "bound", "analysis", "simulation", text=2)
    for row in rows:
        rates = [f"{row[name]:,.2f}" for name in ("bound", "analysis", "simulation")]
        lines.append(line(row["kind"], row["size"], f"{row['nodes']:,}", *rates))
    return lines


def measured(document: Document) -> list[str]:
    """Say where and when the registry was measured."""
    machine, versions = document["machine"], document["versions"]
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    loads = [load for database in document["databases"] for load in database["load"].values()]
    return [
        "",
        f"Measured on {document['date'][:10]} with `benchmarks/scale_registry.py`. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['kernel']}, **load {min(loads):.0f}–{max(loads):.0f}**. Versions: {told}, "
        + ", ".join(one["version"] for one in document["databases"])
        + ".",
        "",
    ]


def writes(databases: Sequence[Document]) -> list[str]:
    """Say what an item writes."""
    lines = header("database", "item", "transactions", "ledger entries", "kB of a tiny model's", text=2)
    for database in databases:
        for kind, found in database["items"].items():
            counts = (f"{found[name]:.0f}" for name in ("transactions", "ledger_entries"))
            lines.append(line(database["version"], kind, *counts, f"{found['bytes'] / 1000:.0f}"))
    return lines


def ledger(databases: Sequence[Document]) -> list[str]:
    """Say how many entries a second go in where so many share a transaction, and how many are verified."""
    batches = [one["batch"] for one in databases[0]["ledger"]]
    lines = header("database", *(f"{batch:,} a transaction" for batch in batches), "verified", text=1)
    for database in databases:
        rates = (f"{one['per_second']:,.0f}" for one in database["ledger"])
        lines.append(line(database["version"], *rates, f"{database['walked_per_second']:,.0f}"))
    return lines


def chains(databases: Sequence[Document]) -> list[str]:
    """Say how many entries a second several chains take together, and what an anchor over them costs."""
    lines = header("database", "chains", "1 a transaction", "100 a transaction", "one anchor, ms", text=1)
    for database in databases:
        single, batched = ([one for one in database["chains"] if one["batch"] == batch] for batch in (1, 100))
        for one, many in zip(single, batched, strict=True):
            rates = f"{one['per_second']:,.0f}", f"{many['per_second']:,.0f}"
            lines.append(line(database["version"], one["chains"], *rates, f"{many['anchor_ms']:.1f}"))
    return lines


def stamps(databases: Sequence[Document]) -> list[str]:
    """Say how many stamps a second a registry records."""
    lines = header("database", "stamps in it before", "processes", "stamps a transaction", "a second", text=1)
    for database in databases:
        for one in database["stamps"]:
            rate = f"{one['per_second']:,.0f}"
            lines.append(line(database["version"], f"{one['rows']:,}", one["processes"], one["batch"], rate))
    return lines


def seconds(value: float | None) -> str:
    """Return seconds of one item at one station, with a unit."""
    if value is None:
        return "–"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def header(*names: str, text: int) -> list[str]:
    """Return the head of a table whose first columns are text and whose others are numbers."""
    return ["", line(*names), line(*("---" if place < text else "---:" for place in range(len(names))))]


def line(*cells: object) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
