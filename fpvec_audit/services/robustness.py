"""Use case: attack a stamped model and see what is left of its fingerprint, and what the attacks cost.

The attacks are a matrix of cells (:mod:`fpvec_audit.domain.attack_matrix`). Every cell stands alone: one that fails is
recorded with its reason and the others go on, and each is a row of the registry as soon as it ends, so that a killed
run is gone on with. Nothing that is reported or recorded holds a prompt or a response.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.attack_matrix import PlannedCell, arrange, plan_digest
from fpvec_audit.domain.attack_spec import bind_spec
from fpvec_audit.domain.attack_suites import Need, suite_specs
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import WeightAttack
from fpvec_audit.domain.records import KeySetRecord, ModelRecord, ModelRole
from fpvec_audit.domain.robustness import RobustnessReport
from fpvec_audit.errors import OutputError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.attack_cells import AttackBench
from fpvec_audit.services.attack_copies import PLACE, CopyFacts, CopyStore, directory_digest
from fpvec_audit.services.attack_history import (
    KIND,
    MATRIX,
    PLAN,
    EarlierRun,
    earlier_runs,
    newest_run,
    run_to_resume,
    unfinished_sentence,
)
from fpvec_audit.services.attack_run import MatrixRun
from fpvec_audit.services.attack_utility import Utility, measure_utility
from fpvec_audit.services.attack_worker import AttackWorker, WeightWorker
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.encoding import text_files_digest
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.likelihoods import BaseModel, BaseModels
from fpvec_audit.services.lineage import other_copies
from fpvec_audit.services.models import register_model
from fpvec_audit.services.rehearsal import Rehearsals
from fpvec_audit.services.rehearsed_family import copy_holders
from fpvec_audit.services.serving import OtherEngines
from fpvec_audit.services.subjects import Bench

if TYPE_CHECKING:
    from fpvec_audit.backends import Engines
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

CACHE_BYTES = 20 << 30
TIME_LIMIT = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackOptions:
    """What to carry out, and how.

    Attributes:
        specs: attacks in the grammar of :mod:`fpvec_audit.domain.attack_spec`.
        suite: name of a suite that comes before them; None for none.
        resume: whether to go on with a run of the same plan that was left unfinished.
        recognise: whether a run of the same plan is gone on with where there is one, and told again where it is whole.
        seed: all randomness of the attacks derives from it.
        architecture: adapter to use instead of the detected one.
        device: torch device of attacks and engine.
        tensor_parallel: over how many GPUs vLLM divides a model; None for as few as hold it.
        time_limit: seconds after which one attack on weights is ended.
        cache_bytes: how much kept copies may take together.
    """

    specs: Sequence[str] = ()
    suite: str | None = None
    resume: bool = False
    recognise: bool = False
    seed: int = 0
    architecture: str | None = None
    device: str = "cpu"
    tensor_parallel: int | None = None
    time_limit: float = TIME_LIMIT
    cache_bytes: int = CACHE_BYTES


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is attacked, and what is known of it."""

    stamped: Path
    model: ModelRecord
    keys: KeySetRecord
    bases: BaseModels
    base: BaseModel | None
    copies: tuple[Path, ...]
    holders: Mapping[Path, str]
    cells: tuple[PlannedCell, ...]
    remarks: tuple[str, ...]
    facts: CopyFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackTools:
    """What a run works with; what is None is made for it.

    Attributes:
        registry: where key set and attack runs are.
        catalog: plugins.
        workspace: directory of the kept copies and of temporary files.
        backend: which engine answers, or engines that are already open.
        worker: carries out attacks on weights; child processes when None.
        utility: measures what a copy is still worth.
        progress: where to report.
        announce: takes a sentence that the user should read before anything is done.
        entropy: gives the random bytes of record ids.
        timer: gives seconds from any beginning.
    """

    registry: "Registry"
    catalog: "Catalog"
    workspace: Path
    backend: "str | Engines" = "auto"
    worker: WeightWorker | None = None
    utility: Utility = measure_utility
    progress: Progress = NO_PROGRESS
    announce: Callable[[str], None] = field(default=lambda _sentence: None)
    entropy: Callable[[int], bytes] = secrets.token_bytes
    timer: Callable[[], float] = time.monotonic


def run_attacks(stamped: Path, *, key_set: str, options: AttackOptions, tools: AttackTools) -> RobustnessReport:
    """Carry out attacks on a stamped model and record each as an attack run.

    Args:
        stamped: checkpoint directory; stays as it is.
        key_set: name or id of the key set it carries.
        options: what to carry out.
        tools: what to work with.

    Raises:
        UsageError: an unknown suite, attack or parameter, a bad value, an unknown key set, nothing to do or to resume.
        CheckpointError: the stamped model cannot be read.
        BackendError: the engine cannot load the stamped model.
        OutputError: the workspace cannot be written.
    """
    from fpvec_audit.backends import Engines

    started = tools.timer()
    scene = _look_around(stamped, key_set, options, tools)
    plan = plan_digest(scene.cells, _settings(scene, options, tools))
    earlier = _earlier(scene, plan, options, tools)
    matrix = earlier.matrix if earlier is not None else f"mx-{tools.entropy(8).hex()}"
    _make_workspace(tools.workspace)
    with ExitStack() as stack:
        engines = tools.backend
        if isinstance(engines, str):
            division = options.tensor_parallel
            engines = stack.enter_context(Engines(engines, device=options.device, tensor_parallel=division))
            engines.warm_up()
        worker = tools.worker
        if worker is None:
            worker = AttackWorker(progress=tools.progress, time_limit=options.time_limit, timer=tools.timer)
            stack.enter_context(worker)
        stack.enter_context(recorded_job(tools.registry, KIND, _detail(scene, options, matrix=matrix, plan=plan)))
        others = stack.enter_context(OtherEngines(engines))
        run = MatrixRun(
            cells=scene.cells,
            bench=_bench(scene, options, tools, engines=engines, others=others, worker=worker),
            registry=tools.registry,
            stamped=scene.model.id,
            key_set=scene.keys.id,
            matrix=matrix,
            entropy=tools.entropy,
            timer=tools.timer,
            done={} if earlier is None else earlier.done(scene.cells),
        )
        cells = run.carry_out()
    return RobustnessReport(
        stamped=str(stamped),
        stamped_digest=scene.model.id,
        key_set=scene.keys.id,
        seed=options.seed,
        cells=cells,
        suite=options.suite or "",
        matrix_id=matrix,
        warnings=(*scene.remarks, *run.warnings),
        resumed=len(run.done),
        engine_starts=run.engine_starts,
        seconds=tools.timer() - started,
    )


def _look_around(stamped: Path, key_set: str, options: AttackOptions, tools: AttackTools) -> _Scene:
    """Find out what is attacked and with what, before anything is done."""
    registry, catalog = tools.registry, tools.catalog
    _refuse_unknown(options, catalog)
    with registry.unit_of_work() as uow:
        keys = uow.key_sets.get(key_set)
    model = register_model(
        stamped,
        registry=registry,
        catalog=catalog,
        role=ModelRole.SUSPECT,  # only where it was unknown: a copy that we stamped is registered as such already
        architecture=options.architecture,
        progress=tools.progress,
    ).record
    bases = BaseModels(registry=registry, catalog=catalog)
    base = bases.of(keys, progress=tools.progress)
    with registry.unit_of_work() as uow:
        copies = other_copies(uow, model.id)
        holders = copy_holders(uow, model.id, stamped)
    specs, remarks = _specs(options, catalog, base=base, copies=copies)
    chains = [chain for spec in specs for chain in bind_spec(spec, lambda name: catalog.attack(name).Parameters)]
    cells = arrange(chains, lambda name: isinstance(catalog.attack(name), WeightAttack))
    if not cells:
        raise UsageError(
            "no attack is asked for",
            advice="name one with --attack, or many with --suite; `fpvec attack list` shows them",
        )
    facts = CopyFacts(
        stamped=model.id,
        texts=text_files_digest(stamped),
        adapter=options.architecture or model.architecture or None,
        seed=options.seed,
        base="" if base is None else base.digest,
        copies=tuple(directory_digest(copy) for copy in copies),
    )
    return _Scene(stamped, model, keys, bases, base, copies, holders, cells, remarks, facts)


def _refuse_unknown(options: AttackOptions, catalog: "Catalog") -> None:
    """Refuse what cannot be meant before any model is read."""
    if options.suite is not None:
        suite_specs(options.suite, installed=(), at_hand=())
    for spec in options.specs:
        bind_spec(spec, lambda name: catalog.attack(name).Parameters)
    if options.time_limit <= 0:
        raise UsageError(f"a time limit of {options.time_limit:g} s", advice="give a number above 0")


def _specs(
    options: AttackOptions, catalog: "Catalog", *, base: BaseModel | None, copies: Sequence[Path]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if options.suite is None:
        return tuple(options.specs), ()
    at_hand = {*([Need.BASE] if base is not None else []), *([Need.COPIES] if copies else [])}
    specs, remarks = suite_specs(options.suite, installed=catalog.attacks, at_hand=at_hand, copies=len(copies))
    return (*specs, *options.specs), remarks


def _settings(scene: _Scene, options: AttackOptions, tools: AttackTools) -> dict[str, Any]:
    """Return everything but the cells that decides the results."""
    used = sorted({link.name for cell in scene.cells for link in cell.chain.links})
    return {
        "stamped": scene.model.id,
        "key_set": scene.keys.id,
        "seed": options.seed,
        "adapter": scene.facts.adapter,
        "base": scene.facts.base,
        "copies": list(scene.facts.copies),
        "attacks": {name: tools.catalog.info(ATTACK, name).owner for name in used},
    }


def _earlier(scene: _Scene, plan: str, options: AttackOptions, tools: AttackTools) -> EarlierRun | None:
    runs = earlier_runs(tools.registry, stamped=scene.model.id, key_set=scene.keys.id)
    if options.recognise:
        return newest_run(runs, plan)
    if options.resume:
        return run_to_resume(runs, scene.cells, plan)
    if sentence := unfinished_sentence(runs, scene.cells, plan):
        tools.announce(sentence)
    return None


def _detail(scene: _Scene, options: AttackOptions, *, matrix: str, plan: str) -> Mapping[str, Any]:
    return {
        "stamped": scene.model.id,
        "key_set": scene.keys.id,
        "attacks": list(options.specs),
        "suite": options.suite,
        "cells": len(scene.cells),
        MATRIX: matrix,
        PLAN: plan,
    }


def _bench(
    scene: _Scene,
    options: AttackOptions,
    tools: AttackTools,
    *,
    engines: "Engines",
    others: OtherEngines,
    worker: WeightWorker,
) -> AttackBench:
    adapter = tools.catalog.architectures.get(scene.facts.adapter or "")
    settings = AuditSettings(architecture=None if adapter is None else adapter.name)
    audit_bench = Bench(
        settings,
        tools.registry,
        tools.catalog,
        engines,
        scene.bases,
        tools.progress,
        tools.entropy,
        tools.timer,
        device=options.device,
    )
    key_set = open_key_set(scene.keys.id, registry=tools.registry, purpose=f"attack {scene.model.name}")
    return AttackBench(
        stamped=scene.stamped,
        catalog=tools.catalog,
        adapter=adapter,
        engines=engines,
        others=others,
        audit_bench=audit_bench,
        rehearsals=Rehearsals(scene.keys, key_set, audit_bench, seed=options.seed),
        facts=scene.facts,
        store=CopyStore(tools.workspace / PLACE, options.cache_bytes),
        worker=worker,
        utility=tools.utility,
        device=options.device,
        seed=options.seed,
        workspace=tools.workspace,
        progress=tools.progress,
        base=scene.base,
        copies=scene.copies,
        holders=scene.holders,
    )


def _make_workspace(workspace: Path) -> None:
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{workspace} cannot be written: {error.strerror}", advice="choose another --home") from error
