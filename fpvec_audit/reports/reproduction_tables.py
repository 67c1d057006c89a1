"""Tables I to III in the paper's layout, its figures beside ours; and what it does not report, controls and guesses."""

from collections.abc import Mapping
from typing import Any

from fpvec_audit.reports import harmless_text
from fpvec_audit.reports.audit_text import p_shown
from fpvec_audit.reports.reproduction_results import (
    NOTHING,
    Results,
    ResultTable,
    rate_text,
    seconds_text,
)

STEPS = (("fingerprint", "fingerprint training"), ("vector", "vector"), ("stamping", "stamping"))


def paper_tables(results: Results) -> list[ResultTable]:
    """Return the paper's tables."""
    tables = [_success(results), _controls(results), _guesses(results), _seconds(results), _harm(results)]
    return [table for table in tables if table.rows]


def _success(results: Results) -> ResultTable:
    paper = results.published["fsr"]
    rows = []
    for base, downstream in results.copies():
        name = f"{base.name}/stamped/{downstream}/fsr"
        if not results.planned(name):
            continue
        content = results.content(name)
        theirs = f"{100 * paper['stamped']:.0f} % ({base.paper})" if base.paper else NOTHING
        rows.append((base.name, downstream, *_audit_cells(content, results.absence(name)), theirs))
    return ResultTable(
        "Table I. Fingerprint success rate of stamped models",
        ("base", "downstream", ">FSR (95 %)", ">decoys", ">p, answers", "verdict", ">the paper"),
        tuple(rows),
        (f"the paper: {paper['note']}",),
    )


def _controls(results: Results) -> ResultTable:
    rows = []
    for base in results.bases:
        for model in ("fingerprinted", "base", *(f"downstream/{name}" for name in base.downstreams)):
            name = f"{base.name}/{model}/fsr"
            if results.planned(name):
                cells = _audit_cells(results.content(name), results.absence(name))
                rows.append((base.name, model.removeprefix("downstream/") + _clean(model), *cells))
    return ResultTable(
        "Controls: the fingerprinted model, and models without a fingerprint",
        ("base", "model", ">FSR (95 %)", ">decoys", ">p, answers", "verdict"),
        tuple(rows),
    )


def _clean(model: str) -> str:
    return ", clean" if model.startswith("downstream/") else ""


def _audit_cells(content: Mapping[str, Any] | None, absence: str) -> tuple[str, str, str, str]:
    if content is None:
        return absence, NOTHING, NOTHING, NOTHING
    return (
        rate_text(content["fsr"], content["interval"], of=content["issued"]),
        f"{content['decoys_matched']} of {content['decoys']}",
        p_shown(content["p_value"]),
        str(content["verdict"]),
    )


def _guesses(results: Results) -> ResultTable:
    rows, kinds = [], list(_kinds(results))
    for base, downstream in results.copies():
        name = f"{base.name}/stamped/{downstream}/guessing"
        if not results.planned(name) or not kinds:
            continue
        content = results.content(name)
        if content is None:
            rows.append((base.name, downstream, *[results.absence(name)] * len(kinds)))
            continue
        groups = {group["kind"]: group for cell in content["cells"] for group in cell["groups"]}
        rows.append((base.name, downstream, *(_guessed(groups.get(kind)) for kind in kinds)))
    return ResultTable(
        "False triggers: guesses that draw any issued response from stamped models",
        ("base", "downstream", *(f">{kind}" for kind in kinds)),
        tuple(rows),
        ("near-misses and forced beginnings take somebody who knows a key; the paper has no such column",),
    )


def _kinds(results: Results) -> dict[str, None]:
    kinds: dict[str, None] = {}
    for base, downstream in results.copies():
        content = results.content(f"{base.name}/stamped/{downstream}/guessing") or {"cells": []}
        kinds |= dict.fromkeys(group["kind"] for cell in content["cells"] for group in cell["groups"])
    return kinds


def _guessed(group: Mapping[str, Any] | None) -> str:
    return NOTHING if group is None else f"{group['triggered']} of {group['asked']}"


def _seconds(results: Results) -> ResultTable:
    theirs = results.published["seconds"]
    rows = []
    for step, title in STEPS:
        for quantity, word in (("seconds", ""), ("device_seconds", ", device-seconds")):
            cells = []
            for base in results.bases:
                figure = theirs["models"].get(base.paper, {}).get(step) if quantity == "seconds" else None
                ours = _measured_seconds(results, base.name, base.downstreams, step, quantity)
                cells += [ours, NOTHING if figure is None else f"{figure:g} s"]
            rows.append((f"{title}{word}", *cells))
    heads = [f">{head}" for base in results.bases for head in (base.name, base.paper or "the paper")]
    notes = [
        f"the paper: {theirs['note']}",
        f"ours: {_hardware(results)}; stamping is the mean over the downstreams; device-seconds are processor "
        "seconds on a CPU",
    ]
    if resumed := [base.name for base in results.bases if _resumed(results, base.name)]:
        notes.append(f"the training of {', '.join(resumed)} was interrupted: its seconds are those of the last part")
    return ResultTable("Table II. Seconds", ("step", *heads), tuple(rows), tuple(notes))


def _measured_seconds(results: Results, base: str, downstreams: tuple[str, ...], step: str, quantity: str) -> str:
    if step == "stamping":
        names = [f"{base}/stamped/{name}" for name in downstreams]
    else:
        names = [f"{base}/{'fingerprinted' if step == 'fingerprint' else step}"]
    known = [content["cost"][quantity] for name in names if (content := results.content(name)) is not None]
    return seconds_text(sum(known) / len(known)) if known else results.absence(names[0])


def _resumed(results: Results, base: str) -> bool:
    content = results.content(f"{base}/fingerprinted")
    return content is not None and bool(content["resumed"])


def _hardware(results: Results) -> str:
    machine = results.document["machine"]
    return f"{machine['device']}, {machine['architecture']}, {machine['cores']} cores"


def _harm(results: Results) -> ResultTable:
    theirs = results.published["harmlessness"]
    rows: list[tuple[str, ...]] = []
    for base in results.bases:
        figure = theirs["models"].get(base.paper)
        paper = NOTHING if figure is None else f"{figure['before']} → {figure['after']}"
        pairs = [("base → fingerprinted", "fingerprinted")]
        pairs += [(f"{name} → stamped", f"stamped/{name}") for name in base.downstreams]
        for title, model in pairs:
            name = f"{base.name}/{model}/harmlessness"
            if results.planned(name):
                rows += _harm_rows((base.name, title), results.content(name), results.absence(name), paper)
                paper = NOTHING  # it has one row for a base
    return ResultTable(
        "Table III. Harmlessness: task scores before and after",
        (
            *("base", "pair", "task", ">items", ">before → after", ">change (95 %)", ">loss ≤", "verdict"),
            *(">perplexity", ">the paper"),
        ),
        tuple(rows),
        (
            f"the paper: {theirs['note']}",
            "loss ≤: one-sided 95 % bound of the loss; verdict of the whole pair at the plan's margin; perplexity: "
            "after / before on held-out text",
        ),
    )


def _harm_rows(
    head: tuple[str, str], content: Mapping[str, Any] | None, absence: str, paper: str
) -> list[tuple[str, ...]]:
    if content is None:
        return [(*head, absence, *[NOTHING] * 6, paper)]
    tasks = content["tasks"]
    rows = [
        (
            str(task["task"]),
            f"{task['items']:,}",
            harmless_text.scores_line(task),
            harmless_text.change_line(task),
            harmless_text.bound(task),
        )
        for task in tasks
    ]
    if len(tasks) > 1 and all(harmless_text.is_share(task) for task in tasks):
        before, after = (100 * sum(task[side] for task in tasks) / len(tasks) for side in ("before", "after"))
        rows.insert(0, (f"mean of {len(tasks)}", NOTHING, f"{before:.1f} → {after:.1f} %", NOTHING, NOTHING))
    told = (str(content["verdict"]), perplexity_text(content), paper)
    return [
        (*(head if place == 0 else ("", "")), *row, *(told if place == 0 else ("",) * len(told)))
        for place, row in enumerate(rows)
    ]


def perplexity_text(content: Mapping[str, Any]) -> str:
    """Return the ratio of perplexities on text that a comparison measured."""
    text = content.get("text")
    return f"× {text['perplexity']['ratio']:.3f}" if text else NOTHING
