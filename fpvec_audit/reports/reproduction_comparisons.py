"""The comparisons that came with the paper's third version: fine-tuning, transfer, scales, merging, pruning."""

from collections.abc import Iterator, Mapping
from typing import Any

from fpvec_audit.domain.frontier import utility_loss
from fpvec_audit.reports.audit_text import p_shown
from fpvec_audit.reports.reproduction_results import (
    NOTHING,
    Results,
    ResultTable,
    loss_text,
    percent,
    rate_text,
)

VECTOR, DIRECT = "vector", "direct"
MEASURES = ("accuracy", "perplexity")


def comparison_tables(results: Results) -> list[ResultTable]:
    """Return the tables beyond the paper's first three."""
    tables = [
        _attacked(results, "fine_tuning", "Table IV. Further fine-tuning of stamped models"),
        _transferred(results),
        _scales(results),
        _attacked(results, "merging", "Table VII. Merging of stamped models"),
        _attacked(results, "pruning", "Table VIII. Pruning of stamped models"),
    ]
    return [table for table in tables if table.rows]


def model_of(method: str, downstream: str) -> str:
    """Return the stage that made a method's model of a downstream."""
    return f"{'stamped' if method == VECTOR else method}/{downstream}"


def survival(results: Results, base: str, model: str) -> Mapping[str, Mapping[str, Any]]:
    """Return attack → cell of the further fine-tuning of a model, where it was carried out."""
    content = results.content(f"{base}/{model}/fine_tuning") or {"cells": []}
    return {cell["label"]: cell for cell in content["cells"] if cell["fsr_after"] is not None}


def fine_tuned_pairs(results: Results) -> Iterator[tuple[str, str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield (base, downstream, attack, cell of the stamped model, cell of the directly trained one)."""
    for base, downstream in results.copies():
        ours, theirs = (survival(results, base.name, model_of(name, downstream)) for name in (VECTOR, DIRECT))
        for attack in ours:
            if attack in theirs:
                yield base.name, downstream, attack, ours[attack], theirs[attack]


def _attacked(results: Results, part: str, title: str) -> ResultTable:
    rows: list[tuple[str, ...]] = []
    for base, downstream in results.copies():
        name = f"{base.name}/stamped/{downstream}/{part}"
        if not results.planned(name):
            continue
        content = results.content(name)
        if content is None:
            rows.append((base.name, downstream, results.absence(name), *[NOTHING] * 6))
            continue
        rows += [(base.name, downstream, *_cell(cell)) for cell in content["cells"]]
    columns = ("base", "downstream", "attack", ">FSR before", ">FSR after (95 %)", ">p, answers", "verdict")
    return ResultTable(
        title,
        (*columns, ">accuracy", ">perplexity"),
        tuple(rows),
        (
            "accuracy and perplexity: what the attack cost, in points and as a factor, on ordinary questions and text",
            "a MATCH in spite of few answers comes from the likelihood test",
        ),
    )


def _cell(cell: Mapping[str, Any]) -> tuple[str, ...]:
    if cell["fsr_after"] is None:
        return (cell["label"], NOTHING, f"failed: {cell['problem']}", *[NOTHING] * 4)
    loss = cell["utility_loss"]
    return (
        cell["label"],
        percent(cell["fsr_before"]),
        rate_text(cell["fsr_after"], cell["interval"]),
        p_shown(cell["p_value"]),
        cell["verdict"] or NOTHING,
        *(loss_text(loss, measure) for measure in MEASURES),
    )


def _transferred(results: Results) -> ResultTable:
    rows = []
    for base, downstream, attack, ours, theirs in fine_tuned_pairs(results):
        difference = ours["fsr_after"] - theirs["fsr_after"]
        rows.append(
            (
                base,
                downstream,
                attack,
                *(rate_text(cell["fsr_after"], cell["interval"]) for cell in (ours, theirs)),
                f"{100 * difference:+.1f} points".replace("-", "−") if difference else "±0",
            )
        )
    return ResultTable(
        "Table V. Transferred against direct: FSR after further fine-tuning",
        ("base", "downstream", "attack", ">stamped (vector)", ">trained directly", ">vector − direct"),
        tuple(rows),
        ("the same key set and training for both: what differs is the transfer",),
    )


def _scales(results: Results) -> ResultTable:
    rows: list[tuple[str, ...]] = []
    for base, downstream in results.copies():
        name = f"{base.name}/stamped/{downstream}/scales"
        if not results.planned(name):
            continue
        content = results.content(name)
        if content is None:
            rows.append((base.name, downstream, results.absence(name), *[NOTHING] * 5))
            continue
        for scale in content["scales"]:
            losses = {
                measure: loss
                for measure in MEASURES
                if (loss := utility_loss(measure, content["utility_before"], scale["utility"])) is not None
            }
            rows.append(
                (
                    base.name,
                    downstream,
                    f"{scale['scale']:g}",
                    rate_text(scale["fsr"], scale["interval"], of=scale["issued"]),
                    f"{scale['decoys_matched']} of {scale['decoys']}",
                    str(scale["verdict"]),
                    *(loss_text(losses, measure) for measure in MEASURES),
                )
            )
    return ResultTable(
        "Table VI. Scale λ",
        ("base", "downstream", ">λ", ">FSR (95 %)", ">decoys", "verdict", ">accuracy", ">perplexity"),
        tuple(rows),
        ("accuracy and perplexity: beside the downstream without a stamp",),
    )
