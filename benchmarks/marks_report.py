"""What `marks.py` and `marks_memory.py` measured, as the tables of docs/marks-training.md.

Everything is computed from the JSON documents alone, so that the page can be made again, and tested, without measuring.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]

SECTIONS = ("reading", "cost", "training", "memory")
MARKERS = (
    "<!-- benchmarks/marks_report.py {}: begin; do not edit by hand -->",
    "<!-- benchmarks/marks_report.py {}: end -->",
)
MOST_WRONG, MOST_WRONG_TUNED = 0.01, 0.02
"""Shares of marks that may be read wrongly, at once and after further fine-tuning."""

LEAST_FSR = 0.8
"""Share of its keys below which a mark is refused; the first families were trained when it was 0.9."""


def write_docs(page: Path, families: Document, memory: Document | None) -> None:
    """Replace the tables of a page."""
    text = page.read_text(encoding="utf-8")
    for name, lines in sections(families, memory):
        begin, end = (marker.format(name) for marker in MARKERS)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{page} has no section {name}: its markers are missing")
        text = before + begin + "\n" + "\n".join(lines) + "\n" + end + after
    page.write_text(text, encoding="utf-8")


def sections(families: Document, memory: Document | None) -> Iterator[tuple[str, list[str]]]:
    """Yield every section's name and lines."""
    rows = sorted(families["families"], key=lambda row: (row["parameters"], row["architecture"], row["schedule"]))
    yield "reading", reading(rows)
    yield "cost", cost(rows)
    yield "training", training(rows)
    if memory is not None:
        yield "memory", peaks(memory)


def reading(rows: Sequence[Document]) -> list[str]:
    """Say how many marks were read wrongly."""
    lines = header(
        "family", "downstream", "code words", "marks read wrongly", "of their keys answered",
        "keys of absent marks answered", "decoys answered", "marks wrong after fine-tuning", "keys then",
    )  # fmt: skip
    for row, name, found in each(rows):
        tuned = found["tuned_words"]
        read, tuned_read = row["marks"] * len(found["words"]), row["marks"] * tuned
        lines.append(
            line(
                family(row), name, len(found["words"]), judged(found["marks_wrong"], read, MOST_WRONG),
                share(found["keys_answered"]), found["absent_answered"], found["decoys_answered"],
                judged(found["tuned_marks_wrong"], tuned_read, MOST_WRONG_TUNED) if tuned else "–",
                share(found["tuned_keys_answered"]) if tuned else "–",
            )
        )  # fmt: skip
    return lines


def cost(rows: Sequence[Document]) -> list[str]:
    """Say what copies with a code word lose against their downstream."""
    lines = header(
        "family",
        "downstream",
        "code words",
        "accuracy before",
        "points, mean",
        "worst",
        "perplexity ratio, mean",
        "worst",
    )
    for row, name, found in each(rows):
        points = f"{found['points_mean']:+.1f}", f"{found['points_worst']:+.1f}"
        ratios = f"{found['perplexity_ratio_mean']:.3f}", f"{found['perplexity_ratio_worst']:.3f}"
        before = share(found["clean_accuracy"])
        lines.append(line(family(row), name, found["costed_words"], before, *points, *ratios))
    return lines


def training(rows: Sequence[Document]) -> list[str]:
    """Say what training itself measured on the base, by number of marks."""
    lines = header(
        "family", "steps", "FSR in code words", "marks short", "marks", "KL on ordinary text", "perplexity ratio"
    )
    for row in rows:
        report = row["report"]
        standings = report["marks"]
        answered = sum(mark["within_words"] * mark["keys"] for mark in standings) / sum(m["keys"] for m in standings)
        short = sum(mark["within_words"] < LEAST_FSR for mark in standings)
        for number, weight in enumerate(report["cost_by_weight"]):
            first = (family(row), row["steps"], share(answered), short) if number == 0 else ("", "", "", "")
            lines.append(
                line(*first, weight["weight"], f"{weight['divergence']:.4f}", f"{weight['perplexity_ratio']:.3f}")
            )
    return lines


def peaks(memory: Document) -> list[str]:
    """Say how much memory each kind of training took."""
    lines = header("training", "peak", "bytes a parameter over an idle process", "times a single vector's")
    names = {
        "single": "one vector",
        "joint": f"{memory['marks']} marks, `joint`",
        "rounds": f"{memory['marks']} marks, `rounds`",
    }
    for row in memory["trainings"]:
        if row["kind"] in names:
            peak = f"{row['peak_bytes'] / 1e9:.2f} GB"
            lines.append(line(names[row["kind"]], peak, row["bytes_per_parameter"], row["times_single"]))
    return lines


def each(rows: Sequence[Document]) -> Iterator[tuple[Document, str, Document]]:
    """Yield every family's downstreams."""
    for row in rows:
        for name, found in row["downstreams"].items():
            yield row, name, found


def family(row: Document) -> str:
    """Return what a family is called in a table."""
    title = {"gpt2": "GPT-2", "llama2": "Llama"}.get(row["architecture"], row["architecture"])
    size = f"{row['parameters'] / 1e6:.1f} M"
    changed = "".join(f", {name} {value}" for name, value in sorted(row["set"].items()))
    other = f", seed {row['seed']}" if row["seed"] else ""
    return f"{title} {size}, {row['marks']} × {row['keys']}, `{row['schedule']}`{changed}{other}"


def judged(wrong: int, read: int, most: float) -> str:
    """Return a count of errors, bold where the target is missed."""
    text = f"{wrong} of {read}"
    return text if wrong <= most * read else f"**{text}**"


def share(fraction: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * fraction:.1f} %"


def header(*columns: str) -> list[str]:
    """Return the head of a Markdown table."""
    return [line(*columns), "|" + "---|" * len(columns)]


def line(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"
