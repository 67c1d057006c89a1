"""Stages that make something: they find or train models, issue keys, subtract and stamp.

Each returns the identity of what it made – a model's digest, a key set's id – by which the stages after it know it.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.reproduction.stage_store import StageResult
from fpvec_audit.reproduction.workshop import Workshop
from fpvec_audit.services.cost_meter import CostMeter
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model, read_rows
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.methods import embed_by_method
from fpvec_audit.services.models import register_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.suspects import locate

Made = tuple[str, dict[str, Any]]
"""Identity, and what is told."""
Needed = Mapping[str, StageResult]
"""Role → result of the stage that was needed."""


def path_of(result: StageResult) -> Path:
    """Return where what a stage made lies."""
    return Path(result.content["path"])


def architecture_of(needed: Needed) -> str | None:
    """Return the adapter that the plan names for the base, None where it is detected."""
    return needed["base"].content["given_architecture"] or None


def emptied(place: Path) -> Path:
    """Return the directory of a stage, without what a killed run left in it."""
    shutil.rmtree(place, ignore_errors=True)
    return place


def find_base(shop: Workshop, settings: Mapping[str, Any], _place: Path, _needed: Needed) -> Made:
    """Find or train a base, and register it."""
    downstreams: dict[str, str] = {}
    architecture = settings["architecture"] or settings["family"] or None
    if settings["family"]:
        from fpvec_audit.demo.family import make_family
        from fpvec_audit.demo.story import single_threaded

        with single_threaded():
            family = make_family(shop.catalog.architecture(settings["family"]), shop.families, progress=shop.progress)
        path = family.base
        downstreams = {"maths": str(family.downstream_a), "text": str(family.downstream_b)}
    else:
        path = locate(settings["path"]).absolute()
    record = register_model(path, role=ModelRole.BASE, architecture=architecture, **shop.tools).record
    return record.id, {
        "path": str(path),
        "digest": record.id,
        "parameters": record.parameters,
        "architecture": record.architecture,
        "given_architecture": architecture,
        "downstreams": downstreams,
    }


def find_downstream(shop: Workshop, settings: Mapping[str, Any], _place: Path, needed: Needed) -> Made:
    """Find a downstream model that is given, and register it as one of its base."""
    embedded = needed["base"].content["downstreams"]
    path = locate(settings["path"]).absolute() if settings["path"] else Path(embedded[settings["name"]])
    return _registered(shop, path, needed)


def fine_tune_downstream(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Fine-tune the base on rows."""
    from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune

    adapter = shop.catalog.architecture(architecture_of(needed) or needed["base"].content["architecture"])
    rows = [(adapter.prompt(prompt), response) for prompt, response in read_rows(Path(settings["data"]))]
    out = emptied(place) / "model"
    report = fine_tune(
        path_of(needed["base"]),
        out,
        rows,
        settings=FineTuneSettings(
            steps=settings["steps"],
            rows_per_step=settings["rows_per_step"],
            learning_rate=settings["learning_rate"],
            warmup_steps=settings["warmup_steps"],
        ),
        adapter=adapter,
        seed=settings["seed"],
        device=settings["device"],
        progress=shop.progress,
        label=f"fine-tuning on {Path(settings['data']).name}",
    )
    identity, told = _registered(shop, out, needed)
    return identity, {**told, "seconds": report.seconds}


def _registered(shop: Workshop, path: Path, needed: Needed) -> Made:
    record = register_model(
        path,
        role=ModelRole.DOWNSTREAM,
        parent=needed["base"].identity,
        architecture=architecture_of(needed),
        **shop.tools,
    ).record
    return record.id, {"path": str(path), "digest": record.id}


def issue_keys(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Issue a key set that the base's tokenizer can encode."""
    base, scheme = place.parent.parent.name, settings["scheme"]
    with shop.registry.unit_of_work() as uow:
        taken = {record.name for record in uow.key_sets.list()}
    stem = f"reproduce-{base}-{scheme}"
    name = next(f"{stem}-{number}" for number in range(1, len(taken) + 2) if f"{stem}-{number}" not in taken)
    specification = KeySetSpecification(scheme, issued=settings["issued"], decoys=settings["decoys"])
    issued = issue_key_set(
        name,
        registry=shop.registry,
        specification=specification,
        owner="fpvec reproduce",
        base=path_of(needed["base"]),
    )
    return issued.record.id, {"name": name, **settings}


def keys_are_there(shop: Workshop, identity: str) -> bool:
    """Return whether a registry knows a key set."""
    try:
        with shop.registry.snapshot() as uow:
            return uow.key_sets.get(identity).id == identity
    except UnknownNameError:
        return False


def train_fingerprint(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Train the fingerprinted model; a training that was killed goes on from its last checkpoint."""
    out = place / "model"
    shutil.rmtree(out, ignore_errors=True)  # whole, but what it cost was not kept
    begun = place.is_dir() and any(place.iterdir())
    options = FingerprintOptions(
        data=Path(settings["data"]) if settings["data"] else None,
        preset=settings["preset"],
        perturbation=settings["perturbation"] or None,
        overrides={name: _text(value) for name, value in settings["settings"].items()},
        seed=settings["seed"],
        resume=True,
        device=settings["device"],
        architecture=architecture_of(needed),
    )
    meter = CostMeter(settings["device"])
    with meter.running():
        made = fingerprint_model(
            path_of(needed["base"]), key_set=needed["keys"].identity, out=out, options=options, **shop.tools
        )
    return made.fingerprinted, {
        "path": str(out),
        "digest": made.fingerprinted,
        "seconds": made.report.seconds,
        "steps": made.report.steps,
        "fsr": made.report.fsr,
        "resumed": begun,
        "cost": meter.each.to_json(),
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def subtract(shop: Workshop, _settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Extract the fingerprint vector."""
    meter = CostMeter(shop.device)
    with meter.running():
        made = extract_vector(
            path_of(needed["base"]),
            path_of(needed["fingerprinted"]),
            out=emptied(place) / "vector",
            key_set=needed["keys"].identity,
            architecture=architecture_of(needed),
            **shop.tools,
        )
    return made.vector_id, {
        "path": str(made.out),
        "vector_id": made.vector_id,
        "norm": made.vector.norm,
        "inexact_elements": made.vector.inexact_elements,
        "seconds": made.seconds,
        "cost": meter.each.to_json(),
    }


def stamp(shop: Workshop, _settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Add the vector to a downstream model."""
    meter = CostMeter(shop.device)
    with meter.running():
        (made,) = stamp_models(
            [path_of(needed["downstream"])],
            vectors=[needed["vector"].identity],
            out=emptied(place) / "model",
            **shop.tools,
        )
    return made.digest, {
        "path": str(made.out),
        "digest": made.digest,
        "applied_ratio": made.applied_ratio,
        "cosine": made.cosine,
        "seconds": made.seconds,
        "cost": meter.each.to_json(),
    }


def embed(shop: Workshop, settings: Mapping[str, Any], place: Path, needed: Needed) -> Made:
    """Embed a key set into a downstream model by a method that fingerprint vectors are compared with."""
    emptied(place)
    made = embed_by_method(
        path_of(needed["downstream"]),
        method=settings["method"],
        key_set=needed["keys"].identity,
        out=place / "model",
        workspace=place,
        base=path_of(needed["base"]),
        seed=settings["seed"],
        device=settings["device"],
        architecture=architecture_of(needed),
        **shop.tools,
    )
    return made.embedded, {
        "path": str(made.out),
        "digest": made.embedded,
        "method": made.method,
        "parameters": dict(made.parameters),
        "scheme": made.scheme,
        "seconds": made.each.seconds,
        "cost": made.each.to_json(),
        "once": None if made.once is None else made.once.to_json(),
    }
