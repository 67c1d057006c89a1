"""Stages that measure: every one of them with the services behind the commands of the same purpose."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.attack_spec import AttackLink, restored
from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.errors import EvaluationError, OperationError
from fpvec_audit.reproduction.making import Made, Needed, architecture_of, emptied, path_of
from fpvec_audit.reproduction.stages import OTHER
from fpvec_audit.reproduction.workshop import Workshop
from fpvec_audit.services.attack_utility import measure_utility
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.harm_comparison import HarmSettings, compare_models
from fpvec_audit.services.rendering import choose_rendering
from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks
from fpvec_audit.services.stamp import stamp_models

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog

OF_AN_AUDIT = (
    *("verdict", "fsr", "issued", "matched", "decoys", "decoys_matched", "false_triggers", "interval", "p_value"),
    *("p_value_corrected", "alpha", "tests", "warnings", "audit_id", "key_set", "backend", "seconds"),
)
"""What is kept of an audit's document."""
OF_A_CELL = (
    *("name", "kind", "state", "fsr_before", "fsr_after", "interval", "p_value", "tests", "verdict"),
    *("utility_before", "utility_after", "utility_loss", "groups", "queries", "seconds", "problem", "attack_run_id"),
)
"""What is kept of an attack's document, beside its label, which has no directories of this machine."""


def measure_fsr(shop: Workshop, _settings: Mapping[str, Any], _place: Path, needed: Needed) -> Made:
    """Audit a model as a suspect."""
    return "", _audited(shop, path_of(needed["model"]), needed)


def _audited(shop: Workshop, model: Path, needed: Needed) -> dict[str, Any]:
    document = audit(
        model,
        key_set=needed["keys"].identity,
        settings=AuditSettings(leave_out=(GRADIENT,), architecture=architecture_of(needed)),
        backend=shop.engines,
        bases=shop.bases,
        device=shop.device,
        **shop.tools,
    ).to_json()
    return {name: document[name] for name in OF_AN_AUDIT}


def attack(shop: Workshop, settings: Mapping[str, Any], _place: Path, needed: Needed) -> Made:
    """Attack a model; copies of a run that was killed are found and not made again.

    Raises:
        OperationError: not a single attack could be carried out.
    """
    other = str(path_of(needed["other"])) if "other" in needed else ""
    report = run_attacks(
        path_of(needed["model"]),
        key_set=needed["keys"].identity,
        options=AttackOptions(
            specs=[attack.replace(OTHER, other) for attack in settings["attacks"]],
            seed=settings["seed"],
            device=settings["device"],
            architecture=architecture_of(needed),
        ),
        tools=AttackTools(
            registry=shop.registry,
            catalog=shop.catalog,
            workspace=shop.directory,
            backend=shop.engines,
            worker=shop.worker,
            progress=shop.progress,
        ),
    )
    if report.all_failed:
        raise OperationError(report.cells[0].problem)
    document = report.to_json()
    cells = [
        {"label": _label(cell, shop.catalog, other), **{name: cell[name] for name in OF_A_CELL}}
        for cell in document["cells"]
    ]
    return "", {"cells": cells, "warnings": document["warnings"]}


def _label(cell: Mapping[str, Any], catalog: "Catalog", other: str) -> str:
    """Return an attack as a user would write it, without directories of this machine."""
    parameters = cell["parameters"]
    links = parameters.get("chain") or [{"name": cell["name"], "parameters": parameters}]
    told = []
    for link in links:
        given = dict(link["parameters"])
        if other and given.get("other") == other:
            given["other"] = None
        if given.get("data"):
            given["data"] = Path(given["data"]).name
        told.append(AttackLink(link["name"], restored(catalog.attack(link["name"]).Parameters, given)).text)
    return "+".join(told)


def measure_harmlessness(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Compare a model with what it was made of."""
    report = compare_models(
        path_of(needed["before"]),
        path_of(needed["after"]),
        home=shop.directory,
        settings=HarmSettings(
            tuple(settings["tasks"]),
            settings["margin"],
            settings["limit"] or None,
            settings["task_seconds"] or None,
            text=settings["text"],
        ),
        logs=emptied(place) / "items",
        backend=settings["backend"],
        device=settings["device"],
        architecture=architecture_of(needed),
        **shop.tools,
    )
    document = report.to_json()
    return "", {name: value for name, value in document.items() if name not in ("does_not_prove", "before_model")}


def scan_scales(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Stamp with other scales, and measure what is answered and what it costs; the copies are not kept.

    Utility is measured as attacks measure it: seconds for each, which a whole harmlessness comparison is not.
    """
    emptied(place)
    before = _utility(shop, path_of(needed["downstream"]), needed)
    scales = []
    with shop.progress.step("scales", len(settings["values"]), "scales") as step:
        for value in settings["values"]:
            scales.append(_at_scale(shop, value, place / f"{value:g}", needed))
            step.advance()
    shutil.rmtree(place, ignore_errors=True)
    return "", {"utility_before": before, "scales": scales}


def _at_scale(shop: Workshop, value: float, out: Path, needed: Needed) -> dict[str, Any]:
    model = path_of(needed["stamped"])
    if value != 1.0:
        (made,) = stamp_models(
            [path_of(needed["downstream"])],
            vectors=[f"{needed['vector'].identity}:{value!r}"],
            out=out,
            **shop.tools,
        )
        model = made.out
    found = {"scale": value, **_audited(shop, model, needed), "utility": _utility(shop, model, needed)}
    shutil.rmtree(out, ignore_errors=True)
    return found


def _utility(shop: Workshop, model: Path, needed: Needed) -> dict[str, float]:
    """Return accuracy and perplexity; nothing where a model is too broken to be measured."""
    from fpvec_audit.backends.prompts import load_tokenizer

    adapter = shop.catalog.architecture(architecture_of(needed) or needed["base"].content["architecture"])
    rendering = choose_rendering(load_tokenizer(model), adapter=adapter)
    backend = shop.engines.open(model)
    try:
        return dict(measure_utility(backend, rendering.render))
    except EvaluationError:
        return {}
    finally:
        backend.close()
