"""The record of a reproduction: the plan, what every stage gave, the paper's figures, and what methods cost."""

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit import __version__
from fpvec_audit.domain.cost import QUANTITIES, Cost, MethodCost, crossover, mean_cost
from fpvec_audit.reproduction.plan import Plan
from fpvec_audit.reproduction.published import published
from fpvec_audit.reproduction.stage_store import StageResult
from fpvec_audit.reproduction.stages import Stage, method_name

SCHEMA = 1
VECTOR = "vector"


def document_of(plan: Plan, stages: Sequence[Stage], results: Sequence[StageResult], *, device: str) -> dict[str, Any]:
    """Return the record as JSON values.

    Args:
        plan: the plan.
        stages: its stages, or those that were asked for.
        results: how each of them ended, in the same order.
        device: torch device.
    """
    shown = []
    for stage, result in zip(stages, results, strict=True):
        content = {name: value for name, value in result.content.items() if name not in _DIRECTORIES}
        shown.append({**result.to_json(), "content": content, "kind": stage.kind})
    by_name = {result.name: result for result in results if result.done}
    about = {stage.base for stage in stages}
    bases = [base for base in plan.bases if base.name in about]
    costs = [found for base in bases if (found := _costs(plan, base.name, base.downstream_names, by_name))]
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "plan": plan.to_json(),
        "bases": [{"name": base.name, "paper": base.paper, "downstreams": base.downstream_names} for base in bases],
        "machine": {
            "device": device,
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "version": __version__,
        },
        "stages": shown,
        "costs": costs,
        "published": published(),
        "seconds": sum(result.seconds for result in results),
        "carried_out": sum(result.done and not result.reused for result in results),
        "reused": sum(result.reused for result in results),
    }


_DIRECTORIES = ("path", "downstreams", "logs", "before_model", "after_model")
"""What names directories of this machine."""


def _costs(
    plan: Plan, base: str, downstreams: Sequence[str], results: Mapping[str, StageResult]
) -> dict[str, Any] | None:
    """Return what protecting models of a base costs by each method; None where only one was measured."""
    methods = [_vector(base, downstreams, results)]
    for specification in plan.methods.compared:
        name = method_name(specification)
        models = [own for place in downstreams if (own := results.get(f"{base}/{name}/{place}")) is not None]
        if models:
            once = [Cost(**own.content["once"]) for own in models if own.content["once"]]
            each = mean_cost([Cost(**own.content["cost"]) for own in models])
            methods.append(MethodCost(name, mean_cost(once) if once else Cost(), each, len(models)))
    known = [method for method in methods if method is not None]
    if len(known) < 2:
        return None
    return {
        "base": base,
        "methods": [method.to_json() for method in known],
        "crossovers": [
            {
                "method": method.method,
                "against": other.method,
                **{quantity: crossover(method, other, quantity=quantity) for quantity in QUANTITIES},
            }
            for method in known
            for other in known
            if method is not other
        ],
    }


def _vector(base: str, downstreams: Sequence[str], results: Mapping[str, StageResult]) -> MethodCost | None:
    """Return what fingerprint vectors cost: training and subtraction once, a stamp for each model."""
    once = [results.get(f"{base}/{name}") for name in ("fingerprinted", "vector")]
    stamps = [own for place in downstreams if (own := results.get(f"{base}/stamped/{place}")) is not None]
    made = [Cost(**result.content["cost"]) for result in once if result is not None]
    if len(made) < len(once) or not stamps:
        return None
    each = mean_cost([Cost(**own.content["cost"]) for own in stamps])
    return MethodCost(VECTOR, sum(made, Cost()), each, len(stamps))
