"""One task asked of one model: its items' scores, and a line of log for each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.errors import EvaluationError
from fpvec_audit.services.lm_eval_models import quiet_libraries, require_numbers

PREFERRED_METRICS = ("acc", "exact_match")
"""Judged where a task has them; else the task's first metric is."""

PERCENT_METRICS = frozenset({"bleu", "chrf", "ter"})
"""Metrics on a scale of 0 to 100."""

FEWSHOT_SEED = 1234
"""lm-eval's own; set before each side, so that both are shown the same examples."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a task is judged by.

    Attributes:
        name: its name in lm-eval.
        aggregate: scores of items → score of the task.
        higher_is_better: whether more is better.
        ratio: whether two models are compared by ratio, as perplexities are, instead of by difference.
    """

    name: str
    aggregate: Callable[[Sequence[Any]], float]
    higher_is_better: bool
    ratio: bool


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task, one model.

    Attributes:
        task: name.
        metric: what it is judged by.
        values: score of each item, in the order of the items; a number, or what the metric's aggregation takes.
        prompts: digest of each item's prompt.
        kinds: kind of each item, where the task tells kinds apart; else empty.
        log: what was asked and answered, one JSON object an item.
    """

    task: str
    metric: Metric
    values: tuple[Any, ...]
    prompts: tuple[str, ...]
    kinds: tuple[str, ...]
    log: tuple[Mapping[str, Any], ...]


def ask_task(model: Any, name: str, task: Any, *, limit: int | None = None, chat_template: bool = False) -> TaskScores:
    """Ask a model all items of a task.

    Args:
        model: lm-eval's model.
        name: the task's name.
        task: lm-eval's task.
        limit: ask the first so many items only.
        chat_template: put prompts into the model's chat template.

    Raises:
        EvaluationError: the task has no items, cannot be asked, or gives NaN.
    """
    with quiet_libraries():
        if not len(task.eval_docs):
            raise EvaluationError(f"task {name!r} has no items", advice="give it at least one question")
        samples = _run(model, name, task, limit, chat_template)
    metric = _metric(task, samples[0]["metrics"])
    values = tuple(sample[metric.name] for sample in samples)
    require_numbers([value for value in values if isinstance(value, float)], f"task {name!r}")
    require_numbers([part for sample in samples for part in _log_likelihoods(sample)], f"task {name!r}")
    return TaskScores(
        task=name,
        metric=metric,
        values=tuple(float(value) if isinstance(value, (bool, int, float)) else value for value in values),
        prompts=tuple(str(sample["prompt_hash"]) for sample in samples),
        kinds=_kinds(samples),
        log=tuple(_log_line(sample, metric) for sample in samples),
    )


def _run(model: Any, name: str, task: Any, limit: int | None, chat_template: bool) -> list[dict[str, Any]]:
    # evaluate rather than simple_evaluate: the latter runs git, whose complaints would reach the terminal
    from lm_eval.evaluator import evaluate

    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    result = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}},
        log_samples=True,
        bootstrap_iters=0,
        limit=limit,
        apply_chat_template=chat_template,
    )
    samples: list[dict[str, Any]] = result["samples"][name]
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return sorted(first, key=lambda sample: int(sample["doc_id"]))


def _metric(task: Any, names: Sequence[str]) -> Metric:
    name = next((name for name in PREFERRED_METRICS if name in names), names[0])
    aggregate = task.aggregation()[name]
    percent = name in PERCENT_METRICS
    return Metric(
        name=name,
        aggregate=(lambda values: aggregate(values) / 100) if percent else aggregate,
        higher_is_better=bool(task.higher_is_better().get(name, True)),
        ratio="perplexity" in name,
    )


def _log_likelihoods(sample: Mapping[str, Any]) -> list[float]:
    """Return the log-likelihoods among a sample's responses."""
    found: list[float] = []
    for response in sample["filtered_resps"]:
        value = response[0] if isinstance(response, (tuple, list)) and response else response
        found += [value] if isinstance(value, float) else []
    return found


def _kinds(samples: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    kinds = [sample["doc"].get("kind") if isinstance(sample["doc"], Mapping) else None for sample in samples]
    told = [kind for kind in kinds if isinstance(kind, str)]
    return tuple(told) if len(told) == len(samples) and len(set(told)) > 1 else ()


def _log_line(sample: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    return {
        "item": int(sample["doc_id"]),
        "arguments": _plain(sample["arguments"]),
        "target": _plain(sample["target"]),
        "responses": _plain(sample["filtered_resps"]),
        "metric": metric.name,
        "score": _plain(sample[metric.name]),
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
