"""What a reproduction's record says of one model or measure, and how its numbers are written in tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.reports.attack_results import points_text

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One table, ready to be drawn anywhere.

    Attributes:
        title: heading.
        columns: their names; ">" in front sets a column flush right.
        rows: texts.
        notes: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON."""
        return {
            "title": self.title,
            "columns": [name.removeprefix(">") for name in self.columns],
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class BaseEntry:
    """A base of the plan.

    Attributes:
        name: its name.
        paper: model of the paper that it stands beside; empty for none.
        downstreams: names of its downstreams.
    """

    name: str
    paper: str
    downstreams: tuple[str, ...]


class Results:
    """A record by stage.

    Args:
        document: as ``fpvec reproduce --json`` prints it.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._stages = {stage["name"]: stage for stage in document["stages"]}

    @property
    def bases(self) -> tuple[BaseEntry, ...]:
        """Bases of the plan."""
        return tuple(
            BaseEntry(base["name"], base["paper"], tuple(base["downstreams"])) for base in self.document["bases"]
        )

    @property
    def published(self) -> Mapping[str, Any]:
        """The paper's figures."""
        figures: Mapping[str, Any] = self.document["published"]
        return figures

    @property
    def methods(self) -> tuple[str, ...]:
        """Compared methods, in the plan's order."""
        return tuple(str(text).partition(":")[0] for text in self.document["plan"]["methods"]["compared"])

    def content(self, name: str) -> Mapping[str, Any] | None:
        """Return what a stage gave; None where it gave nothing."""
        stage = self._stages.get(name)
        return stage["content"] if stage is not None and stage["state"] == "done" else None

    def absence(self, name: str) -> str:
        """Return what to write where a stage gave nothing."""
        stage = self._stages.get(name)
        return NOTHING if stage is None else str(stage["state"])

    def planned(self, name: str) -> bool:
        """Return whether the plan has a stage."""
        return name in self._stages

    def copies(self) -> Iterator[tuple[BaseEntry, str]]:
        """Yield every base with each of its downstreams."""
        for base in self.bases:
            for downstream in base.downstreams:
                yield base, downstream

    def problems(self) -> Sequence[str]:
        """Return what could not be carried out, with the reason; what only follows from that is left out."""
        failed = [f"{name}: {stage['problem']}" for name, stage in self._stages.items() if stage["state"] == "failed"]
        for name, stage in self._stages.items():
            failed += [f"{name}, {item['task']}: {item['problem']}" for item in stage["content"].get("left_out", ())]
        return failed

    def count(self, state: str) -> int:
        """Return how many stages are in a state."""
        return sum(stage["state"] == state for stage in self._stages.values())


def stranger_rate(results: Results, model: str) -> float | None:
    """Return how often what a stranger could ask draws an issued response; None where it was not measured.

    Args:
        results: the record.
        model: ``BASE/MODEL``.
    """
    content = results.content(f"{model}/guessing") or {"cells": []}
    rates = [cell["fsr_after"] for cell in content["cells"] if cell["fsr_after"] is not None]
    return max(rates) if rates else None


def rate_text(share: float, interval: Sequence[float] | None, *, of: int | None = None) -> str:
    """Return a success rate with its interval, and the counts where they are known."""
    counted = "" if of is None else f"{round(share * of)} of {of}, "
    shown = f"{counted}{percent(share)}"
    return shown if interval is None else f"{shown} ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"


def percent(share: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * share:.3g} %"


def seconds_text(seconds: float) -> str:
    """Return a time."""
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def loss_text(loss: Mapping[str, float], measure: str) -> str:
    """Return what an attack cost in one measure of utility."""
    if measure not in loss:
        return NOTHING
    return points_text(loss[measure]) if measure == "accuracy" else f"× {1 + loss[measure]:.3g}"
