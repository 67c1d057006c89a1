"""What is done to one model, by action: the service that the single command calls, made safe to repeat.

Law: called again with the same task, after whatever ended the call before, each gives what it gave, and the registry
holds one record of it. A stamp that is whole is recognised by its output and its record, an audit by the number that
its plan carries, an attack run by its plan. A trace is recorded as audits and has no record of its own: one that was
cut short is carried out anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.carrier import DEFAULT_STRENGTH
from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.errors import OperationError, SettingsError
from fpvec_audit.fleet.asking import audit_settings
from fpvec_audit.fleet.nearby import copy_of
from fpvec_audit.fleet.outcome import Task
from fpvec_audit.services.own_registry import open_own_registry
from fpvec_audit.settings import Settings
from fpvec_audit.storage.scratch import Scratch

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.services.stamped_model import StampedModel


@dataclass
class WorkerBench:
    """What a worker works with, for all of its items: its own registry, opened with its own settings.

    Attributes:
        settings: of the worker's environment and home.
    """

    settings: Settings

    @cached_property
    def registry(self) -> "Registry":
        """The registry that the worker's own settings name."""
        return open_own_registry(self.settings, warn=lambda _sentence: None)

    @cached_property
    def catalog(self) -> "Catalog":
        """Plugins of the worker's machine."""
        from fpvec_audit.catalog import load_catalog

        return load_catalog()

    @property
    def scratch(self) -> Scratch:
        """Room on the worker's machine for what lies elsewhere."""
        return Scratch(self.settings.scratch_directory, self.settings.scratch_bytes)

    def redacted(self, text: str) -> str:
        """Return a text without any prompt that was opened here."""
        return self.registry.redaction.text(text) if "registry" in vars(self) else text


def carry_out(task: Task, bench: WorkerBench) -> tuple[str, str]:
    """Do to one model what its task says.

    Returns:
        what came of it, and the id of the record that holds the result.

    Raises:
        FpvecError: as the service of the single command.
    """
    return _ACTIONS[FleetAction(task.action)](task, bench)


def _stamp(task: Task, bench: WorkerBench) -> tuple[str, str]:
    from fpvec_audit.services.stamp import stamp_models
    from fpvec_audit.services.stored_stamps import LocalPlaces, StampPlaces, stamp_stored

    said: Mapping[str, Any] = task.content
    carrier = float(said.get("carrier", DEFAULT_STRENGTH if "family" in said else 0))

    def make(here: LocalPlaces) -> "list[StampedModel]":
        return stamp_models(
            here.downstreams,
            vectors=here.vectors,
            out=here.out,
            registry=bench.registry,
            catalog=bench.catalog,
            licensees=[said["licensee"]] if "licensee" in said else (),
            family=said.get("family"),
            carrier=carrier or None,
            base=here.base,
            vocabulary=said.get("vocabulary", "refuse"),
            skip=said.get("skip", ()),
            adapter=said.get("adapter"),
            architecture=said.get("architecture"),
            again=bool(said.get("again", False)),
            resume=task.attempt > 1,
        )

    places = StampPlaces((said["downstream"],), tuple(said.get("vector", ())), said["out"], said.get("base"))
    (made,) = stamp_stored(places, make, copies=1, scratch=bench.scratch, registry=bench.registry)
    return ("already" if made.already else "made"), made.stamp_id


def _audit(task: Task, bench: WorkerBench) -> tuple[str, str]:
    from fpvec_audit.services.audit_once import audit_once

    said: Mapping[str, Any] = task.content
    with copy_of(said["suspect"], bench.scratch) as directory:
        done = audit_once(
            said["suspect"],
            key_set=said["key"],
            settings=audit_settings(said, prompt=_prompt(said)),
            registry=bench.registry,
            catalog=bench.catalog,
            backend=_backend(said, bench),
            salt=task.salt,
            device=_device(task, bench),
            tensor_parallel=task.tensor_parallel,
            directory=directory,
        )
    return done.verdict, done.audit_id


def _trace(task: Task, bench: WorkerBench) -> tuple[str, str]:
    from fpvec_audit.services.trace import trace

    said: Mapping[str, Any] = task.content
    with copy_of(said["suspect"], bench.scratch) as directory:
        found = trace(
            said["suspect"],
            settings=audit_settings(said, prompt=_prompt(said)),
            key_sets=said.get("keys", ()),
            families=said.get("family", ()),
            registry=bench.registry,
            catalog=bench.catalog,
            backend=_backend(said, bench),
            device=_device(task, bench),
            tensor_parallel=task.tensor_parallel,
            directory=directory,
        )
    return found.verdict.value, found.trace_id


def _attack(task: Task, bench: WorkerBench) -> tuple[str, str]:
    from fpvec_audit.services.doctor import resolve_device
    from fpvec_audit.services.robustness import TIME_LIMIT, AttackOptions, AttackTools, run_attacks

    said: Mapping[str, Any] = task.content
    options = AttackOptions(
        specs=said.get("attack", ()),
        suite=said.get("suite"),
        recognise=True,
        seed=said.get("seed", 0),
        architecture=said.get("architecture"),
        device=resolve_device(_device(task, bench)),
        tensor_parallel=task.tensor_parallel,
        time_limit=float(said.get("time_limit", TIME_LIMIT)),
        cache_bytes=bench.settings.attack_cache_bytes,
    )
    tools = AttackTools(
        registry=bench.registry,
        catalog=bench.catalog,
        workspace=bench.settings.home,
        backend=said.get("backend", bench.settings.backend),
    )
    report = run_attacks(Path(said["stamped"]), key_set=said["key"], options=options, tools=tools)
    if report.all_failed:
        raise OperationError(f"every attack on {said['stamped']} failed", advice="try one: `fpvec attack run`")
    whole = report.resumed == len(report.cells)
    return ("already" if whole else "attacked"), report.matrix_id


def _backend(said: Mapping[str, Any], bench: WorkerBench) -> str:
    from fpvec_audit.services.suspects import is_endpoint

    return "auto" if is_endpoint(said["suspect"]) else str(said.get("backend", bench.settings.backend))


def _device(task: Task, bench: WorkerBench) -> str:
    """Return where an engine computes: as the item says, else as the driver settled it, else as this machine does."""
    return str(task.content.get("device") or task.device or bench.settings.device)


def _prompt(said: Mapping[str, Any]) -> str:
    if "system_prompt" not in said:
        return ""
    try:
        return Path(said["system_prompt"]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"system prompt {said['system_prompt']} cannot be read: {error}") from error


_ACTIONS: Mapping[FleetAction, Callable[[Task, WorkerBench], tuple[str, str]]] = {
    FleetAction.STAMP: _stamp,
    FleetAction.AUDIT: _audit,
    FleetAction.TRACE: _trace,
    FleetAction.ATTACK: _attack,
}
