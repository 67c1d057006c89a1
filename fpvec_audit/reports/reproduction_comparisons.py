"""The comparisons that came with the paper's third version, and the methods side by side."""

from collections.abc import Iterator, Mapping
from typing import Any

from fpvec_audit.domain.cost import QUANTITIES
from fpvec_audit.domain.frontier import utility_loss
from fpvec_audit.reports import harmless_text
from fpvec_audit.reports.audit_text import p_shown
from fpvec_audit.reports.reproduction_results import (
    NOTHING,
    Results,
    ResultTable,
    loss_text,
    percent,
    rate_text,
    seconds_text,
)
from fpvec_audit.reports.reproduction_tables import perplexity_text

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
        _side_by_side(results),
        _costs(results),
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


def _side_by_side(results: Results) -> ResultTable:
    attacks = _attacks(results)
    rows = []
    for base, downstream in results.copies():
        if not any(results.planned(f"{base.name}/{model_of(name, downstream)}/fsr") for name in results.methods):
            continue
        for method in (VECTOR, *results.methods):
            rows.append((base.name, downstream, method, *_method(results, base.name, downstream, method, attacks)))
    columns = ("base", "downstream", "method", ">FSR (95 %)", ">decoys", ">guessed", ">loss ≤", "harmlessness")
    budget = results.document["plan"]["keys"]
    return ResultTable(
        "Table IX. Methods side by side",
        (*columns, ">perplexity", *(f">{attack}" for attack in attacks), ">seconds once", ">seconds each"),
        tuple(rows),
        (
            f"each {budget['issued']} issued keys and {budget['decoys']} decoys under its own scheme, one key set for "
            "each scheme and base, the same audit",
            "guessed: false triggers of what a stranger could ask; loss ≤: largest bound over the tasks; last columns "
            "before seconds: FSR after further fine-tuning",
        ),
    )


def _attacks(results: Results) -> list[str]:
    found: dict[str, None] = {}
    for base, downstream in results.copies():
        for method in results.methods:
            found |= dict.fromkeys(survival(results, base.name, model_of(method, downstream)))
    return list(found)


def _method(results: Results, base: str, downstream: str, method: str, attacks: list[str]) -> tuple[str, ...]:
    model = f"{base}/{model_of(method, downstream)}"
    audit, guesses = results.content(f"{model}/fsr"), results.content(f"{model}/guessing")
    harm = results.content(f"{model}/harmlessness")
    survived = survival(results, base, model_of(method, downstream))
    return (
        results.absence(f"{model}/fsr")
        if audit is None
        else rate_text(audit["fsr"], audit["interval"], of=audit["issued"]),
        NOTHING if audit is None else f"{audit['decoys_matched']} of {audit['decoys']}",
        _guessed(guesses),
        NOTHING if harm is None else _largest_bound(harm),
        results.absence(f"{model}/harmlessness") if harm is None else str(harm["verdict"]),
        NOTHING if harm is None else perplexity_text(harm),
        *(percent(survived[attack]["fsr_after"]) if attack in survived else NOTHING for attack in attacks),
        *_method_seconds(results, base, method),
    )


def _guessed(guesses: Mapping[str, Any] | None) -> str:
    rates = [cell["fsr_after"] for cell in (guesses or {"cells": []})["cells"] if cell["fsr_after"] is not None]
    return percent(max(rates)) if rates else NOTHING


def _largest_bound(harm: Mapping[str, Any]) -> str:
    return harmless_text.bound(max(harm["tasks"], key=lambda task: task["loss_bound"]))


def _method_seconds(results: Results, base: str, method: str) -> tuple[str, str]:
    for group in results.document["costs"]:
        for cost in group["methods"]:
            if (group["base"], cost["method"]) == (base, method):
                once = cost["once"]["seconds"]
                return seconds_text(once) if once else NOTHING, seconds_text(cost["each"]["seconds"])
    return NOTHING, NOTHING


def _costs(results: Results) -> ResultTable:
    rows = []
    counts: list[int] = []
    for group in results.document["costs"]:
        for cost in group["methods"]:
            counts = [projection["models"] for projection in cost["models"]]
            shown = [_projected(own) for own in cost["models"]]
            memory = max(cost[part]["peak_memory_bytes"] for part in ("once", "each")) / 2**30
            rows.append((group["base"], cost["method"], *shown, _crossing(group, cost["method"]), f"{memory:.2g} GiB"))
    heads = [f">{count} model{'' if count == 1 else 's'}" for count in counts]
    return ResultTable(
        "Table X. Cost of protecting N models of one base",
        ("base", "method", *heads, ">vector is cheaper from", ">peak memory"),
        tuple(rows),
        (
            "each as wall seconds and device-seconds: those for which an accelerator was held, or processor seconds of "
            "all threads on a CPU",
            "* extrapolated: the cost of what is made once, plus that of one model times their number; nothing else is",
            f"the paper: {results.published['methods']['note']}: {_minutes(results)}",
        ),
    )


def _projected(cost: Mapping[str, Any]) -> str:
    mark = " *" if cost["extrapolated"] else ""
    return f"{seconds_text(cost['seconds'])}, {seconds_text(cost['device_seconds'])}{mark}"


def _crossing(group: Mapping[str, Any], method: str) -> str:
    for item in group["crossovers"]:
        if item["method"] == VECTOR and item["against"] == method:
            return ", ".join(_models(item[quantity]) for quantity in QUANTITIES)
    return NOTHING


def _models(count: int | None) -> str:
    return "never" if count is None else f"{count} model{'' if count == 1 else 's'}"


def _minutes(results: Results) -> str:
    return ", ".join(f"{name} {minutes:g}" for name, minutes in results.published["methods"]["minutes"].items())
