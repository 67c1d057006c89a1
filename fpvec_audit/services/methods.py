"""Use case: embed a key set into one model by any method, so that one audit and the same attacks serve them all.

The key set is bound to the model's base before the first step, and what the method cost is recorded: once for the base,
and for this model.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from fpvec_audit.domain.attack_spec import AttackLink, bind_one, parameter_default, parameter_type, plain
from fpvec_audit.domain.cost import Cost
from fpvec_audit.domain.methods import MethodContext, MethodKeys
from fpvec_audit.domain.plugins import METHOD, PluginInfo
from fpvec_audit.domain.ports import ArchitectureAdapter, FingerprintMethod
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.errors import CheckpointError, OutputError, PluginError, UsageError
from fpvec_audit.plugin_code import plugin_code
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.cost_meter import CostMeter
from fpvec_audit.services.embed import bind_key_set, without_floats
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.lineage import ancestry
from fpvec_audit.services.models import identify_model, register_model
from fpvec_audit.services.shared_work import SharedWork

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

EMBEDDED = "model.embedded"
"""Ledger event of a model that a method embedded a key set into."""
SHARED_DIRECTORY = "methods"
"""Directory in the owner's home for what methods make once."""


@dataclass(frozen=True, slots=True)
class MethodDescription:
    """A method as it is listed.

    Attributes:
        name: name.
        description: how keys get into a model.
        source: paper or measurement.
        schemes: schemes of key sets that it can embed, the usual one first.
        parameters: (name, type, default) as shown and as JSON.
        info: who gave it.
    """

    name: str
    description: str
    source: str
    schemes: tuple[str, ...]
    parameters: tuple[tuple[str, str, Any], ...]
    info: PluginInfo

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "name": self.name,
            "description": self.description,
            "source": self.source,
            "schemes": list(self.schemes),
            "parameters": [{"name": name, "type": kind, "default": default} for name, kind, default in self.parameters],
            "distribution": self.info.distribution,
            "version": self.info.version,
        }


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model into which a method embedded a key set.

    Attributes:
        out: directory.
        method: name of the method.
        parameters: its parameters, as JSON values.
        key_set: id of the key set that it carries.
        scheme: scheme of that key set.
        model: id of the model that it was made of.
        embedded: id of the result.
        bound_to: id of the base that the key set is bound to.
        architecture: adapter name.
        each: what this model cost.
        once: what was made once for the base cost, now or earlier; None where nothing was.
        reused: whether that was there already.
        detail: what the method says of it.
    """

    out: Path
    method: str
    parameters: Mapping[str, Any]
    key_set: str
    scheme: str
    model: str
    embedded: str
    bound_to: str
    architecture: str
    each: Cost
    once: Cost | None
    reused: bool
    detail: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "method": self.method,
            "parameters": dict(self.parameters),
            "key_set": self.key_set,
            "scheme": self.scheme,
            "model_digest": self.model,
            "embedded_digest": self.embedded,
            "base_digest": self.bound_to,
            "architecture": self.architecture,
            "seconds": self.each.seconds,
            "cost": {
                "each": self.each.to_json(),
                "once": None if self.once is None else self.once.to_json(),
                "once_reused": self.reused,
            },
            "detail": dict(self.detail),
        }


def describe_methods(catalog: "Catalog") -> tuple[MethodDescription, ...]:
    """Return every method with its parameters, by name."""
    described = []
    for name, method in sorted(catalog.methods.items()):
        hints = get_type_hints(method.Parameters)
        parameters = tuple(
            (field.name, parameter_type(hints[field.name]), plain(parameter_default(field)))
            for field in fields(method.Parameters)
        )
        info = catalog.info(METHOD, name)
        described.append(
            MethodDescription(name, method.description, method.source, tuple(method.schemes), parameters, info)
        )
    return tuple(described)


def embed_by_method(
    model: Path,
    *,
    method: str,
    key_set: str,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    workspace: Path,
    base: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> EmbeddedModel:
    """Embed a key set into one model and record it, with what it cost.

    Args:
        model: checkpoint directory; stays as it is.
        method: ``NAME[:parameter=VALUE,…]``.
        key_set: name or id of the key set.
        out: directory of the result; must not exist.
        registry: where key set, models and history are.
        catalog: plugins.
        workspace: directory for what a method makes once.
        base: directory of the base that the model stems from; the one that the registry knows when None.
        seed: all randomness derives from it.
        device: torch device.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Raises:
        UsageError: an unknown method or parameter, a value out of range, or a key set of a scheme that the method does
            not embed.
        ArchitectureError: no adapter for the model, or several.
        KeySetError: the key set is retired, compromised or bound to another base, or the tokenizer cannot encode it.
        CheckpointError: the model cannot be read or is quantised.
        OutputError: ``out`` exists, or something cannot be written.
        PluginError: the method failed, or wrote no model.
        FpvecError: whatever else the method refuses.
    """
    from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised

    link = bind_one(method, lambda name: catalog.method(name).Parameters, kind=METHOD)
    chosen, info = catalog.method(link.name), catalog.info(METHOD, link.name)
    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
    with registry.unit_of_work() as uow:
        _refuse_scheme(chosen, uow.key_sets.get(key_set).commitment.scheme, key_set)
    checkpoint = read_checkpoint(model)
    refuse_quantised(checkpoint)
    adapter = catalog.architecture_for(checkpoint.description, override=architecture)
    family = _Family.of(model, base, adapter, registry=registry, catalog=catalog, progress=progress)
    settings = {"method": link.name, "plugin": info.owner, "parameters": link.to_json(), "seed": seed}
    opened = bind_key_set(
        key_set,
        model,
        family.bound_to,
        adapter,
        settings=settings,
        purpose=f"embedding by method {link.name}",
        registry=registry,
    )
    keys = MethodKeys(
        opened.issued,
        frozenset(candidate.prompt for candidate in opened.decoys),
        opened.commitment.scheme,
    )
    with registry.unit_of_work() as uow:
        identifier = uow.key_sets.get(key_set).id
    meter = CostMeter(device)
    shared = SharedWork(
        workspace / SHARED_DIRECTORY,
        {**settings, "parameters": {}, "key_set": identifier, "base": family.bound_to.id, "device": device},
        meter,
    )
    with ExitStack() as stack:
        job = {"key_set": identifier, "model": family.model.id, "method": link.name, "out": str(out)}
        stack.enter_context(recorded_job(registry, "embed", job))
        made, staging = stack.enter_context(_work_beside(out))
        context = MethodContext(adapter, staging, seed, device, progress, shared, family.base)
        detail = _carried_out(chosen, link, model, made, keys, context, meter, info)
        _put(made, out)
        embedded = _registered(out, family, adapter, registry=registry, catalog=catalog, progress=progress)
        result = EmbeddedModel(
            out=out,
            method=link.name,
            parameters=link.to_json(),
            key_set=identifier,
            scheme=keys.scheme,
            model=family.model.id,
            embedded=embedded.id,
            bound_to=family.bound_to.id,
            architecture=adapter.name,
            each=meter.each,
            once=shared.cost,
            reused=shared.reused,
            detail=detail,
        )
        _record(result, info, device, embedded.parameters, registry)
    return result


@dataclass(frozen=True, slots=True)
class _Family:
    """A model and what it stems from.

    Attributes:
        model: its record.
        bound_to: the record of its base; its own where no base is known.
        base: directory of that base; None where it is not at hand.
    """

    model: ModelRecord
    bound_to: ModelRecord
    base: Path | None

    @classmethod
    def of(
        cls,
        model: Path,
        base: Path | None,
        adapter: ArchitectureAdapter,
        *,
        registry: "Registry",
        catalog: "Catalog",
        progress: Progress,
    ) -> "_Family":
        def register(path: Path, role: ModelRole, parent: str | None = None) -> ModelRecord:
            return register_model(
                path, registry=registry, catalog=catalog, role=role, parent=parent, architecture=adapter.name,
                progress=progress,
            ).record  # fmt: skip

        given = None if base is None else register(base, ModelRole.BASE)
        own = register(model, ModelRole.DOWNSTREAM, None if given is None else given.id)
        with registry.unit_of_work() as uow:
            line = ancestry(uow, own.id)
        if given is not None:
            if all(ancestor.id != given.id for ancestor in line):
                raise UsageError(
                    f"{model} stems from {line[-1].name} as the registry knows, not from {base}",
                    advice="leave --base out, or name the right one",
                )
            return cls(own, given, base)
        root = line[-1]
        if root.role is not ModelRole.BASE:
            return cls(own, own, None)
        return cls(own, root, _lying(root, adapter, catalog, progress))


def _lying(model: ModelRecord, adapter: ArchitectureAdapter, catalog: "Catalog", progress: Progress) -> Path | None:
    """Return where a registered model lies, None where it does not lie there any more as it was registered."""
    place = Path(model.location)
    try:
        found = identify_model(place, catalog=catalog, architecture=adapter.name, progress=progress)
    except CheckpointError:
        return None
    return place if found.digest == model.id else None


def _carried_out(
    method: FingerprintMethod,
    link: AttackLink,
    model: Path,
    target: Path,
    keys: MethodKeys,
    context: MethodContext,
    meter: CostMeter,
    info: PluginInfo,
) -> Mapping[str, Any]:
    with plugin_code(info), meter.running():
        detail = method.embed(model, target, keys, link.parameters, context)
    if not (target / "config.json").is_file():
        raise PluginError(f"method {link.name} of {info.owner} wrote no model")
    return detail


def _put(made: Path, out: Path) -> None:
    """Rename what a method made into place, as the last step."""
    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
    made.rename(out)


def _registered(
    out: Path,
    family: _Family,
    adapter: ArchitectureAdapter,
    *,
    registry: "Registry",
    catalog: "Catalog",
    progress: Progress,
) -> ModelRecord:
    return register_model(
        out,
        registry=registry,
        catalog=catalog,
        role=ModelRole.FINGERPRINTED,
        parent=family.model.id,
        architecture=adapter.name,
        progress=progress,
    ).record


def _record(result: EmbeddedModel, info: PluginInfo, device: str, parameters: int, registry: "Registry") -> None:
    document = result.to_json()
    content = {name: document[name] for name in ("method", "parameters", "key_set", "base_digest", "architecture")}
    content |= {
        "plugin": info.owner,
        "model": result.model,
        "out": str(result.out.resolve()),
        "device": device,
        "model_parameters": parameters,
        "cost": document["cost"],
        "detail": document["detail"],
    }
    with registry.unit_of_work() as uow:
        uow.key_sets.embed(result.key_set, result.embedded)
        uow.ledger.append(EMBEDDED, result.embedded, without_floats(content))


def _refuse_scheme(method: FingerprintMethod, scheme: str, key_set: str) -> None:
    if scheme not in method.schemes:
        raise UsageError(
            f"method {method.name} embeds key sets of scheme {' or '.join(method.schemes)}, {key_set} is of scheme "
            f"{scheme}",
            advice=f"issue one with `fpvec key issue NAME --scheme {method.schemes[0]}`",
        )


@contextmanager
def _work_beside(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give where a method writes, which does not exist yet, and an empty directory; both are removed whatever happens.

    Raises:
        OutputError: they cannot be made beside the output.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        directory = tempfile.TemporaryDirectory(prefix=f".{out.name}.method-", dir=out.parent)
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be written: {error.strerror}", advice="choose another --out") from error
    with directory as path:
        staging = Path(path) / "staging"
        staging.mkdir()
        yield Path(path) / out.name, staging
