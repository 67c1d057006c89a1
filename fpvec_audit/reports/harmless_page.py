"""A comparison of task scores before and after stamping as a page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fpvec_audit.reports.dot_rows import Axis, Dot, Row, draw_rows
from fpvec_audit.reports.harmless_text import (
    SENTENCES,
    bound,
    interval,
    is_share,
    limits,
    meaning,
    method,
    notes,
    on_text,
    scores,
    signed,
)
from fpvec_audit.reports.numbers_text import p_text, sentence
from fpvec_audit.reports.page import Block, Chart, Group, Page, Pairs, Points, Section, Table, Text, listed, present

TONES = {"HARMLESS": "found", "HARMFUL": "alarm", "INCONCLUSIVE": "open"}


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
            meaning(document),
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
    tasks = document["tasks"]
    if not tasks:
        return (Text(("No task was compared.",)),)
    return present(_chart(document), _parts(document), _on_text(document))


def _chart(document: Mapping[str, Any]) -> Chart:
    tasks, margin = document["tasks"], document["margin"]
    rows = tuple(
        Row(
            str(task["task"]),
            f"{signed(task['difference'])} points",
            (Dot(100 * task["difference"]),),
            span=(100 * task["interval"][0], 100 * task["interval"][1]),
            tone="alarm" if task["interval"][1] < -margin else "ink",
        )
        for task in tasks
        if is_share(task)
    )
    ends = [abs(end) for row in rows if row.span for end in row.span]
    reach = max(150 * margin, *ends) if ends else 150 * margin
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if reach / step <= 4)
    ticks = tuple(
        (place * step, f"{place * step:+g}".replace("-", "−") if place else "0")
        for place in range(-4, 5)
        if abs(place * step) <= reach
    )
    axis = Axis(-reach, reach, ticks, ((-100 * margin, f"margin −{100 * margin:.3g}"),), "points, after − before")
    described = "; ".join(f"{row.label}: {row.note}" for row in rows)
    return Chart(
        name="harmlessness",
        caption="Change of every task's score with its 95 % interval; left of the dashed line is too much.",
        description=f"Differences by task. {described}.",
        table=_table("Scores before and after", "Task", tasks, ">Loss at most", bound),
        draw=partial(draw_rows, rows, axis),
        folded=False,
    )


def _parts(document: Mapping[str, Any]) -> Table | None:
    parts = [
        {**part, "task": f"{task['task']}: {part['kind'].replace('_', ' ')}", "metric": task.get("metric", "")}
        for task in document["tasks"]
        for part in task.get("parts") or ()
    ]
    return _table("The same items by kind; shown, and not judged", "Kind", parts) if parts else None


def _table(
    caption: str,
    first: str,
    tasks: Sequence[Mapping[str, Any]],
    last: str = "",
    more: Callable[[Mapping[str, Any]], str] | None = None,
) -> Table:
    columns = (first, ">Items", ">Before", ">After", ">Difference", ">95 % interval")
    has_p = all("p_value" in task for task in tasks)
    shows_last = more is not None and all(more(task) for task in tasks)
    return Table(
        caption,
        (*columns, *([last] if shows_last else []), *([">p"] if has_p else [])),
        tuple(
            (
                str(task["task"]),
                f"{task['items']:,}",
                *scores(task),
                interval(task),
                *([more(task)] if more is not None and shows_last else []),
                *([p_text(task["p_value"])] if has_p else []),
            )
            for task in tasks
        ),
    )


def _on_text(document: Mapping[str, Any]) -> Group | None:
    lines = on_text(document)
    return Group("On fixed text", (Points(tuple(sentence(line) for line in lines)),)) if lines else None


def _method(document: Mapping[str, Any]) -> tuple[Block, ...]:
    told = tuple(
        (name.replace("_", " "), f"{document[name]:.1f}" if name == "seconds" else str(document[name]))
        for name in ("before_digest", "after_digest", "engine", "seconds", "logs")
        if document.get(name)
    )
    return present(
        Text(
            (
                "Both models answered the same items under the same engine, batch size and tokenisation, so that any "
                "difference comes from the weights. p is of no difference at all, before any correction.",
            )
        ),
        Points(tuple(sentence(line) for line in method(document))),
        Pairs(told) if told else None,
    )


def _limits(document: Mapping[str, Any]) -> tuple[Block, ...]:
    weak = listed(notes(document))
    return present(
        Group("What this does not prove", (Points(tuple(limits(document))),)),
        Group("What weakens or limits this result", (weak,)) if weak else None,
    )
