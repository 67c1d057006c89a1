"""Fingerprint vectors beside the methods that train every model: what each achieves, and what it costs."""

from collections.abc import Mapping
from typing import Any

from fpvec_audit.domain.cost import QUANTITIES
from fpvec_audit.reports import harmless_text
from fpvec_audit.reports.reproduction_comparisons import VECTOR, model_of, survival
from fpvec_audit.reports.reproduction_results import (
    NOTHING,
    Results,
    ResultTable,
    percent,
    rate_text,
    seconds_text,
    stranger_rate,
)
from fpvec_audit.reports.reproduction_tables import perplexity_text


def method_tables(results: Results) -> list[ResultTable]:
    """Return a table for every model that several methods were tried on, and what protecting many models costs."""
    tables = [
        _side_by_side(results, base.name, downstream)
        for base, downstream in results.copies()
        if any(results.planned(f"{base.name}/{model_of(name, downstream)}/fsr") for name in results.methods)
    ]
    costs = _costs(results)
    return [*tables, *([costs] if costs.rows else [])]


def _side_by_side(results: Results, base: str, downstream: str) -> ResultTable:
    methods = (VECTOR, *results.methods)
    columns = [_method(results, base, downstream, method) for method in methods]
    names: dict[str, None] = {}
    for column in columns:
        names |= dict.fromkeys(column)
    names = {name: None for name in names if name not in LAST} | dict.fromkeys(LAST)
    budget = results.document["plan"]["keys"]
    return ResultTable(
        f"Table IX. Methods side by side: {base}, {downstream}",
        ("", *(f">{method}" for method in methods)),
        tuple((name, *(column.get(name, NOTHING) for column in columns)) for name in names),
        (
            f"each {budget['issued']} issued keys and {budget['decoys']} decoys under its own scheme, one key set for "
            "each scheme and base, the same audit",
            "false triggers: of what a stranger could ask; loss: the largest one-sided 95 % bound over the tasks",
        ),
    )


ONCE, EACH, DEVICE = "seconds, once", "seconds, each model", "device-seconds, once and each"
LAST = (ONCE, EACH, DEVICE)


def _method(results: Results, base: str, downstream: str, method: str) -> dict[str, str]:
    """Return what is told of a method on one model, by row."""
    model = f"{base}/{model_of(method, downstream)}"
    audit, harm = results.content(f"{model}/fsr"), results.content(f"{model}/harmlessness")
    told = {
        "FSR (95 %)": results.absence(f"{model}/fsr"),
        "decoys answered": NOTHING,
        "audit": NOTHING,
        "false triggers": _guessed(results, model),
        "harmlessness": results.absence(f"{model}/harmlessness"),
        "loss at most": NOTHING,
        "perplexity": NOTHING,
    }
    if audit is not None:
        told["FSR (95 %)"] = rate_text(audit["fsr"], audit["interval"], of=audit["issued"])
        told["decoys answered"] = f"{audit['decoys_matched']} of {audit['decoys']}"
        told["audit"] = str(audit["verdict"])
    if harm is not None:
        told["harmlessness"] = str(harm["verdict"])
        told["loss at most"] = harmless_text.bound(max(harm["tasks"], key=lambda task: task["loss_bound"]))
        told["perplexity"] = perplexity_text(harm)
    for attack, cell in survival(results, base, model_of(method, downstream)).items():
        told[f"FSR after {attack}"] = rate_text(cell["fsr_after"], cell["interval"])
    return {**told, **_seconds(results, base, method)}


def _guessed(results: Results, model: str) -> str:
    rate = stranger_rate(results, model)
    return NOTHING if rate is None else percent(rate)


def _seconds(results: Results, base: str, method: str) -> dict[str, str]:
    for group in results.document["costs"]:
        for cost in group["methods"]:
            if (group["base"], cost["method"]) == (base, method):
                once, each = cost["once"], cost["each"]
                shown = [seconds_text(part["device_seconds"]) if part["seconds"] else NOTHING for part in (once, each)]
                return {
                    ONCE: seconds_text(once["seconds"]) if once["seconds"] else NOTHING,
                    EACH: seconds_text(each["seconds"]),
                    DEVICE: ", ".join(shown),
                }
    return {}


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
