"""A comparison of task scores before and after stamping as a page."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.dot_rows import Axis, Dot, Row, draw_rows
from fpvec_audit.reports.numbers_text import p_text, sentence
from fpvec_audit.reports.page import Block, Chart, Group, Page, Pairs, Points, Section, Table, Text, listed, present

SENTENCES = {
    "HARMLESS": "Stamping did no harm that matters.",
    "HARMFUL": "Stamping did harm.",
    "INCONCLUSIVE": "This comparison can neither show harm nor rule it out.",
}
TONES = {"HARMLESS": "found", "HARMFUL": "alarm", "INCONCLUSIVE": "open"}
LIMITS = (
    "that the models are alike in what was not asked: only the tasks listed here were compared",
    "that the same holds for other sizes, languages or ways of asking",
)


def harmless_page(document: Mapping[str, Any]) -> Page:
    """Return the page of a harmlessness comparison.

    Args:
        document: its JSON document.
    """
    verdict, margin = document["verdict"], document["margin"]
    return Page(
        subject=f"Task scores of {document.get('before_model', 'the model before')} and "
        f"{document.get('after_model', 'the model after')}",
        verdict=verdict,
        tone=TONES.get(verdict, "plain"),
        headline=SENTENCES.get(verdict, str(verdict)),
        facts=(
            ("Tasks", str(len(document["tasks"]))),
            ("Items", f"{sum(task['items'] for task in document['tasks']):,}"),
            ("Margin", f"{100 * margin:.3g} points"),
        ),
        lead=(
            f"Harmless means: with 95 % confidence the scores fell by no more than {100 * margin:.3g} points. The same "
            "items were put to both models, and compared pair by pair.",
        ),
        sections=(
            Section("evidence", "Evidence", _evidence(document)),
            Section("method", "Method", _method(document)),
            Section("limits", "Limits", _limits(document)),
        ),
    )


def _evidence(document: Mapping[str, Any]) -> tuple[Block, ...]:
    tasks, margin = document["tasks"], document["margin"]
    if not tasks:
        return (Text(("No task was compared.",)),)
    rows = tuple(
        Row(
            str(task["task"]),
            f"{_signed(task['difference'])} points",
            (Dot(100 * task["difference"]),),
            span=(100 * task["interval"][0], 100 * task["interval"][1]),
            tone="alarm" if task["interval"][1] < -margin else "ink",
        )
        for task in tasks
    )
    ends = [abs(end) for row in rows if row.span for end in row.span]
    reach = max(150 * margin, *ends)
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if reach / step <= 4)
    ticks = tuple(
        (place * step, f"{place * step:+g}".replace("-", "−") if place else "0")
        for place in range(-4, 5)
        if abs(place * step) <= reach
    )
    axis = Axis(-reach, reach, ticks, ((-100 * margin, f"margin −{100 * margin:.3g}"),), "points, after − before")
    table = Table(
        "Scores before and after",
        ("Task", ">Items", ">Before", ">After", ">Difference", ">95 % interval", ">p"),
        tuple(
            (
                str(task["task"]),
                str(task["items"]),
                percent(task["before"]),
                percent(task["after"]),
                f"{_signed(task['difference'])} points",
                f"{_signed(task['interval'][0])} to {_signed(task['interval'][1])}",
                p_text(task["p_value"]),
            )
            for task in tasks
        ),
    )
    described = "; ".join(f"{row.label}: {row.note}" for row in rows)
    return (
        Chart(
            name="harmlessness",
            caption="Change of every task's score with its 95 % interval; left of the dashed line is too much.",
            description=f"Differences by task. {described}.",
            table=table,
            draw=partial(draw_rows, rows, axis),
            folded=False,
        ),
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _method(document: Mapping[str, Any]) -> tuple[Block, ...]:
    asked = (
        "Both models answered the same items under the same engine, batch size and tokenisation, so that any "
        "difference comes from the weights. p is McNemar's exact test on the items that only one answered right.",
    )
    told = tuple(
        (name.replace("_", " "), str(document[name]))
        for name in ("before_digest", "after_digest", "engine", "seconds")
        if document.get(name)
    )
    return present(Text(asked), Pairs(told) if told else None)


def _limits(document: Mapping[str, Any]) -> tuple[Block, ...]:
    notes = listed([sentence(note) for note in document.get("warnings") or ()])
    return present(
        Group("What this does not prove", (Points(tuple(document.get("does_not_prove") or LIMITS)),)),
        Group("What weakens or limits this result", (notes,)) if notes else None,
    )
