"""The words and numbers of a harmlessness comparison, for terminal and page alike."""

from collections.abc import Mapping
from typing import Any

from fpvec_audit.reports.audit_text import percent
from fpvec_audit.reports.numbers_text import p_text, sentence

SENTENCES = {
    "HARMLESS": "Stamping did no harm that matters.",
    "HARMFUL": "Stamping did harm.",
    "INCONCLUSIVE": "This comparison can neither show harm nor rule it out.",
}
LIMITS = (
    "that the models are alike in what was not asked: only the tasks listed here were compared",
    "that the same holds for other sizes, languages or ways of asking",
)


def meaning(document: Mapping[str, Any]) -> str:
    """Return what the verdict means, in one or two sentences."""
    points = f"{100 * document['margin']:.3g} points"
    if document["verdict"] == "HARMLESS":
        return f"On every task the second model lost, with 95 % confidence, no more than {points}."
    if document["verdict"] == "HARMFUL":
        worse = [task["task"] for task in document["tasks"] if task.get("verdict") == "HARMFUL"]
        where = f" on {', '.join(worse)}" if worse else ""
        return f"The second model lost more than {points}{where}; chance alone shows this once in 20 times at most."
    unsettled = [task for task in document["tasks"] if task.get("verdict") == "INCONCLUSIVE"]
    few = [task["task"] for task in unsettled if not task.get("at_floor")]
    floor = [task["task"] for task in unsettled if task.get("at_floor")]
    reasons = [f"more items would settle {', '.join(few)}"] if few else []
    reasons += [f"the first model scores too little on {', '.join(floor)}"] if floor else []
    if document.get("left_out"):
        reasons.append("tasks that were asked for are missing")
    return f"A loss of {points} is neither shown nor ruled out{': ' if reasons else ''}{'; '.join(reasons)}."


def scores(task: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the scores before and after and their difference."""
    if is_share(task):
        return percent(task["before"]), percent(task["after"]), f"{signed(task['difference'])} points"
    return f"{task['before']:.4g}", f"{task['after']:.4g}", f"{task['difference']:+.3g}".replace("-", "−")


def scores_line(task: Mapping[str, Any]) -> str:
    """Return the scores before and after on one line."""
    before, after, _ = scores(task)
    return f"{before.removesuffix(' %')} → {after}" if is_share(task) else f"{before} → {after}"


def change_line(task: Mapping[str, Any]) -> str:
    """Return the difference with its interval on one line."""
    return f"{scores(task)[2].removesuffix(' points')} ({interval(task)})"


def interval(task: Mapping[str, Any]) -> str:
    """Return the interval of the difference."""
    low, high = task["interval"]
    if is_share(task):
        return f"{signed(low)} to {signed(high)}"
    return f"{low:+.3g} to {high:+.3g}".replace("-", "−")


def bound(task: Mapping[str, Any]) -> str:
    """Return the one-sided bound of the loss; empty where it was not computed."""
    if "loss_bound" not in task:
        return ""
    unit = "points" if is_share(task) else "%" if "perplexity" in task.get("metric", "") else ""
    shown = f"{100 * task['loss_bound']:.1f}" if unit else f"{task['loss_bound']:.3g}"
    return f"{shown} {unit}".strip().replace("-", "−")


def is_share(task: Mapping[str, Any]) -> bool:
    """Return whether a task's scores are shares of its items."""
    return "perplexity" not in task.get("metric", "") and all(0 <= task[side] <= 1 for side in ("before", "after"))


def on_text(document: Mapping[str, Any]) -> list[str]:
    """Return what fixed text showed."""
    text = document.get("text")
    if not text:
        return []
    perplexity, divergence = text["perplexity"], text["divergence"]
    low, high = perplexity["interval"]
    return [
        f"perplexity {perplexity['before']:.2f} → {perplexity['after']:.2f}, ×{perplexity['ratio']:.4f} "
        f"(95 % interval {low:.4f} to {high:.4f}), {text['documents']} documents, {text['tokens']:,} tokens",
        f"divergence KL(before ‖ after) {divergence['nats_per_token']:.4f} nats a token "
        f"({divergence['interval'][0]:.4f} to {divergence['interval'][1]:.4f})",
        f"both find the same next token likeliest in {percent(text['agreement'])} of all places",
        "text is no part of the verdict: every probability counts here, so it shows what accuracy cannot",
    ]


def left_out(document: Mapping[str, Any]) -> list[str]:
    """Return the tasks that were asked for and not compared."""
    return [f"{item['task']}: {item['problem']}" for item in document.get("left_out") or ()]


def method(document: Mapping[str, Any]) -> list[str]:
    """Return how it was measured."""
    engine = f" by {document['engine']}" if document.get("engine") else ""
    notes = [f"both models were asked the same items{engine}, and compared item by item"]
    methods = {task.get("method") for task in document["tasks"]}
    if "exact" in methods:
        notes.append(
            "right or wrong answers: exact McNemar test, and bounds whose level holds whatever share of items differs"
        )
    if "bootstrap" in methods:
        notes.append("other metrics: paired bootstrap over the items")
    changed = [
        f"{task['task']} {p_text(task['p_value_adjusted'])}" for task in document["tasks"] if "p_value_adjusted" in task
    ]
    if changed:
        notes.append(f"p of no difference at all, Holm-corrected: {', '.join(changed)}")
    return notes


def limits(document: Mapping[str, Any]) -> list[str]:
    """Return what a comparison does not prove."""
    return list(document.get("does_not_prove") or LIMITS)


def notes(document: Mapping[str, Any]) -> list[str]:
    """Return what weakens or limits the result."""
    missing = [f"left out: {line}" for line in left_out(document)]
    return [sentence(note) for note in [*missing, *(document.get("warnings") or ())]]


def signed(share: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")
