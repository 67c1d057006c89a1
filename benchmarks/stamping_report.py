"""What `stamping.py` measured, as tables for the terminal and as a section of docs/benchmarks.md.

Everything is computed from the JSON document alone, so that the page can be made again, and tested, without measuring.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKERS = {
    "warm": (
        "<!-- benchmarks/stamping.py --warm: begin; do not edit by hand -->",
        "<!-- benchmarks/stamping.py --warm: end -->",
    ),
    "dropped": (
        "<!-- benchmarks/stamping.py: begin; do not edit by hand -->",
        "<!-- benchmarks/stamping.py: end -->",
    ),
}
"""Where a document's section of the page begins and ends, by state of the page cache."""
JUDGED_SIZE = "1.1B"  # where the targets of speed stand
TITLES = {"stamp": "Stamping one model", "extract": "Extracting a vector", "many": "Stamping several models at once"}
REFERENCES = {
    "stamp": ("floor", "times the floor"),
    "extract": ("fpvec", "times fpvec"),
    "many": ("one", "times one model"),
}
OURS = ("fpvec", "new", "one", "four")
LARGEST_PEAK = 400e6  # bytes
FILE_WIDTH = 120  # characters


@dataclass(frozen=True, slots=True)
class Row:
    """A contestant's figures, as text.

    Attributes:
        size: of the model.
        name: who.
        median: seconds.
        spread: seconds of the quickest and the slowest run.
        peak: MB.
        throughput: MB written per second.
        ratio: median over the reference's.
    """

    size: str
    name: str
    median: str
    spread: str
    peak: str
    throughput: str
    ratio: str

    def cells(self) -> tuple[str, ...]:
        """Return the cells in the order of the columns."""
        return self.size, self.name, self.median, self.spread, self.peak, self.throughput, self.ratio


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        target: in words.
        size: where.
        measured: the figure.
        met: whether it is reached.
    """

    target: str
    size: str
    measured: str
    met: bool

    def cells(self) -> tuple[str, str, str, str]:
        """Return the cells in the order of the columns."""
        return self.target, self.size, self.measured, "met" if self.met else "**missed**"


def columns(contest: str) -> tuple[str, ...]:
    """Return the head of a contest's table."""
    return "size", "program", "median, s", "min–max, s", "peak, MB", "MB/s", REFERENCES[contest][1]


def rows(document: Mapping[str, Any], contest: str) -> Iterator[Row]:
    """Yield the rows of a contest's table, size by size."""
    for entry in document["contests"]:
        if entry["contest"] != contest:
            continue
        reference = _median(entry, REFERENCES[contest][0])
        for contestant in entry["contestants"]:
            median = contestant["median_seconds"]
            yield Row(
                entry["size"],
                contestant["name"],
                f"{median:.2f}",
                f"{min(contestant['seconds']):.2f}–{max(contestant['seconds']):.2f}",
                f"{contestant['peak_memory_bytes'] / 1e6:.0f}",
                f"{contestant['bytes'] / 1e6 / median:.0f}",
                f"{median / reference:.2f}" if reference else "–",
            )


def absences(document: Mapping[str, Any], contest: str) -> Iterator[str]:
    """Yield who did not take part, and why."""
    for entry in document["contests"]:
        if entry["contest"] == contest:
            for name, reason in entry["skipped"].items():
                yield f"{entry['size']}, {'all' if name == 'contest' else name}: not measured – {reason}."


def verdicts(document: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield the targets that this document can decide."""
    for entry in document["contests"]:
        if entry["size"] != JUDGED_SIZE:
            continue
        speeds = {contestant["role"]: contestant["median_seconds"] for contestant in entry["contestants"]}
        if entry["contest"] == "stamp" and "mergekit" in speeds:
            ratio = speeds["mergekit"] / speeds["fpvec"]
            yield Verdict("stamping at least 5 times faster than mergekit", JUDGED_SIZE, f"{ratio:.2f}", ratio >= 5)
        if entry["contest"] == "stamp" and "floor" in speeds:
            ratio = speeds["fpvec"] / speeds["floor"]
            yield Verdict("stamping in at most 3 times the floor", JUDGED_SIZE, f"{ratio:.2f}", ratio <= 3)
        if entry["contest"] == "extract" and "transformers" in speeds:
            ratio = speeds["transformers"] / speeds["fpvec"]
            target = "extraction at least 4 times faster than transformers"
            yield Verdict(target, JUDGED_SIZE, f"{ratio:.2f}", ratio >= 4)
            if "new" in speeds:
                ratio = speeds["transformers"] / speeds["new"]
                yield Verdict(f"{target}, models new to the registry", JUDGED_SIZE, f"{ratio:.2f}", ratio >= 4)
        if entry["contest"] == "many" and "four" in speeds:
            ratio = speeds["four"] / speeds["one"]
            yield Verdict("4 models in less than 3.4 times one", JUDGED_SIZE, f"{ratio:.2f}", ratio < 3.4)
    for size in dict.fromkeys(entry["size"] for entry in document["contests"]):
        peaks = [
            contestant["peak_memory_bytes"]
            for entry in document["contests"]
            if entry["size"] == size
            for contestant in entry["contestants"]
            if contestant["role"] in OURS
        ]
        if peaks:
            target = "fpvec in at most 400 MB of memory"
            yield Verdict(target, size, f"{max(peaks) / 1e6:.0f} MB", max(peaks) <= LARGEST_PEAK)


def markdown(document: Mapping[str, Any]) -> str:
    """Return the section of the documentation, without its markers."""
    parts = [conditions(document)]
    for contest, title in TITLES.items():
        found = [row.cells() for row in rows(document, contest)]
        missing = list(absences(document, contest))
        if found or missing:
            parts.append(f"### {title}")
        if found:
            parts.append(_markdown_table(columns(contest), found, words=2))
        parts += missing
    decided = [verdict.cells() for verdict in verdicts(document)]
    if decided:
        parts += ["### Targets", _markdown_table(("target", "size", "measured", ""), decided, words=4)]
    return "\n\n".join(parts)


def conditions(document: Mapping[str, Any]) -> str:
    """Return when, where and with what it was measured, as one paragraph."""
    machine = document["machine"]
    used = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    cached = [entry["cached_share"] for entry in document["contests"] if entry["cached_share"] is not None]
    share = f"{max(cached):.0%}" if cached else "unknown"
    if document["page_cache"] == "dropped":
        cache = f"sources dropped from the page cache before each run (share that stayed: {share})"
    else:
        cache = f"sources read into the page cache before each run (share that was there: {share})"
    return (
        f"Measured on {document['date'][:10]} with `{document['command']}`: median of "
        f"{_runs(document)}, {cache}. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory, {machine['filesystem']}, {machine['kernel']}, load "
        f"{machine['load_average']:.2f} at the start. Versions: {used}."
    )


def _runs(document: Mapping[str, Any]) -> str:
    """Return how often each size was measured: "5 alternating runs (0.3B: 3)"."""
    counts = {
        entry["size"]: len(contestant["seconds"])
        for entry in document["contests"]
        for contestant in entry["contestants"]
    }
    most = max(counts.values(), default=document["runs"])
    fewer = ", ".join(f"{size}: {count}" for size, count in counts.items() if count != most)
    return f"{most} alternating run{'s' * (most != 1)}{f' ({fewer})' if fewer else ''}"


def write_docs(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the generated section of a page that is about the document's state of the page cache.

    Raises:
        SystemExit: the page has no such section.
    """
    text = path.read_text(encoding="utf-8")
    first, last = MARKERS[document["page_cache"]]
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{path} has no section between {first!r} and {last!r}: put both lines where it belongs")
    path.write_text(f"{before}{first}\n\n{markdown(document)}\n\n{last}{after}", encoding="utf-8")


def print_report(document: Mapping[str, Any]) -> None:
    """Print all tables on the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for contest, title in TITLES.items():
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns(contest)):
            table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
        for row in rows(document, contest):
            table.add_row(*row.cells())
        if table.rows:
            console.print(table)
        for missing in absences(document, contest):
            console.print(missing, highlight=False)
    decided = Table("target", "size", "measured", "", title="Targets", title_justify="left")
    for verdict in verdicts(document):
        target, size, measured, _ = verdict.cells()
        decided.add_row(target, size, measured, "[green]met[/]" if verdict.met else "[red]missed[/]")
    if decided.rows:
        console.print(decided)


def _median(entry: Mapping[str, Any], role: str) -> float | None:
    return next((item["median_seconds"] for item in entry["contestants"] if item["role"] == role), None)


def _markdown_table(head: tuple[str, ...], body: list[tuple[str, ...]], *, words: int) -> str:
    """Return a table whose first ``words`` columns are text and whose others are numbers."""
    rule = ["---" if number < words else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))
