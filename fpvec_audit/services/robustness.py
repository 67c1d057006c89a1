"""Use case: attack a stamped model and see what is left of its fingerprint, and what the attack cost.

Every cell stands alone: one that fails is recorded with its reason and the others go on. Attacked copies live in a
staging directory and are removed; nothing that is reported or recorded holds a prompt or a response.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from fpvec_audit.domain.attack_spec import AttackChain, bind_spec, parameter_default, parameter_type, plain
from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import ArchitectureAdapter, WeightAttack
from fpvec_audit.domain.records import AttackRunRecord, JobState, ModelRole
from fpvec_audit.domain.robustness import AttackCell, AttackOutcome, RobustnessReport
from fpvec_audit.errors import FpvecError, OutputError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.attack_cells import AttackBench, Audit, Utility
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.lineage import other_copies
from fpvec_audit.services.models import register_model

if TYPE_CHECKING:
    from fpvec_audit.backends import Engines
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

WEIGHT, QUERY = "weight", "query"
DOCUMENTS = 600
"""Documents from which the held-out tenth is scored for perplexity."""


@dataclass(frozen=True, slots=True)
class AttackDescription:
    """An attack as it is listed.

    Attributes:
        name: name.
        kind: ``weight`` or ``query``.
        description: what an infringer does.
        parameters: (name, type, default) as shown and as JSON.
        distribution: which installed package it comes from.
        version: version of that package.
    """

    name: str
    kind: str
    description: str
    parameters: tuple[tuple[str, str, Any], ...]
    distribution: str
    version: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "parameters": [{"name": name, "type": kind, "default": default} for name, kind, default in self.parameters],
            "distribution": self.distribution,
            "version": self.version,
        }


def describe_attacks(catalog: "Catalog") -> tuple[AttackDescription, ...]:
    """Return every attack with its parameters, by name."""
    described = []
    for name, attack in sorted(catalog.attacks.items()):
        info = catalog.info(ATTACK, name)
        hints = get_type_hints(attack.Parameters)
        parameters = tuple(
            (field.name, parameter_type(hints[field.name]), plain(parameter_default(field)))
            for field in fields(attack.Parameters)
        )
        kind = WEIGHT if isinstance(attack, WeightAttack) else QUERY
        described.append(AttackDescription(name, kind, attack.description, parameters, info.distribution, info.version))
    return tuple(described)


def run_attacks(
    stamped: Path,
    *,
    key_set: str,
    specs: Sequence[str],
    registry: "Registry",
    catalog: "Catalog",
    workspace: Path,
    backend: "str | Engines" = "auto",
    device: str = "cpu",
    seed: int = 0,
    architecture: str | None = None,
    utility: Utility | None = None,
    audit: Audit | None = None,
    progress: Progress = NO_PROGRESS,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    timer: Callable[[], float] = time.monotonic,
) -> RobustnessReport:
    """Carry out attacks on a stamped model and record each as an attack run.

    Args:
        stamped: checkpoint directory; stays as it is.
        key_set: name or id of the key set it carries.
        specs: what to carry out, in the grammar of :mod:`fpvec_audit.domain.attack_spec`.
        registry: where key set, audits and attack runs are.
        catalog: plugins.
        workspace: directory for attacked copies; they are removed.
        backend: which engine answers, or engines that are already open.
        device: torch device of attacks and engine.
        seed: all randomness of the attacks derives from it.
        architecture: adapter to use instead of the detected one.
        utility: measures what a checkpoint is still worth; perplexity on held-out documents when None.
        audit: audits a checkpoint; the audit service when None.
        progress: where to report.
        entropy: gives the random bytes of record ids.
        timer: gives seconds from any beginning.

    Raises:
        UsageError: an unknown attack or parameter, a bad value, an unknown key set, or nothing to do.
        CheckpointError: the stamped model cannot be read.
        OutputError: the workspace cannot be written.
    """
    from fpvec_audit.backends import Engines
    from fpvec_audit.services.likelihoods import BaseModels

    chains = [chain for spec in specs for chain in bind_spec(spec, lambda name: catalog.attack(name).Parameters)]
    if not chains:
        raise UsageError("no attack is asked for", advice="name one with --attack; `fpvec attack list` shows them")
    with registry.unit_of_work() as uow:
        keys = uow.key_sets.get(key_set)
    model = register_model(
        stamped,
        registry=registry,
        catalog=catalog,
        role=ModelRole.SUSPECT,  # only where it was unknown: a copy that we stamped is registered as such already
        architecture=architecture,
        progress=progress,
    ).record
    adapter = catalog.architectures.get(architecture or model.architecture)
    base = BaseModels(registry=registry, catalog=catalog).of(keys, progress=progress)
    with registry.unit_of_work() as uow:
        copies = other_copies(uow, model.id)
    detail = {"stamped": model.id, "key_set": keys.id, "attacks": list(specs)}
    with ExitStack() as stack:
        if isinstance(backend, str):
            backend = stack.enter_context(Engines(backend, device=device))
            backend.warm_up()
        stack.enter_context(recorded_job(registry, "attack", detail))
        bench = AttackBench(
            stamped=stamped,
            stamped_digest=model.id,
            key_set=keys.id,
            registry=registry,
            catalog=catalog,
            adapter=adapter,
            engines=backend,
            device=device,
            seed=seed,
            staging=Path(stack.enter_context(_staging(workspace))),
            progress=progress,
            audit=audit or _audit_service(keys.id, registry, catalog, backend, adapter, progress),
            utility=utility or _perplexity(device, progress),
            base=None if base is None else base.directory,
            copies=copies,
        )
        cells = _run_cells(chains, bench, entropy, timer)
    return RobustnessReport(str(stamped), model.id, keys.id, seed, cells)


def _run_cells(
    chains: Sequence[AttackChain], bench: AttackBench, entropy: Callable[[int], bytes], timer: Callable[[], float]
) -> tuple[AttackCell, ...]:
    cells = []
    with bench.progress.step("attacks", len(chains), "attacks") as step:
        for chain in chains:
            step.note(chain.name)
            cells.append(_run_cell(chain, bench, f"at-{entropy(8).hex()}", timer))
            step.advance()
    return tuple(cells)


def _audit_service(
    key_set: str,
    registry: "Registry",
    catalog: "Catalog",
    engines: "Engines",
    adapter: ArchitectureAdapter | None,
    progress: Progress,
) -> Audit:
    from fpvec_audit.services.audit_settings import AuditSettings
    from fpvec_audit.services.likelihoods import BaseModels

    settings = AuditSettings(architecture=None if adapter is None else adapter.name, leave_out=(GRADIENT,))
    bases = BaseModels(registry=registry, catalog=catalog)

    def audit(checkpoint: Path) -> Mapping[str, Any]:
        from fpvec_audit.services.audit import audit as audit_suspect

        return audit_suspect(
            checkpoint,
            key_set=key_set,
            registry=registry,
            catalog=catalog,
            backend=engines,
            bases=bases,
            settings=settings,
            progress=progress,
        ).to_json()

    return audit


def _perplexity(device: str, progress: Progress) -> Utility:
    def utility(checkpoint: Path) -> Mapping[str, float]:
        from fpvec_audit.services.harmlessness import evaluate
        from fpvec_audit.training.ordinary import split_documents, standard_library_documents

        _, held_out = split_documents(standard_library_documents(most=DOCUMENTS))
        return {
            "perplexity": evaluate(
                checkpoint, tasks=(), documents=held_out, device=device, progress=progress
            ).perplexity
        }

    return utility


def _run_cell(chain: AttackChain, bench: AttackBench, identifier: str, timer: Callable[[], float]) -> AttackCell:
    """Carry out one chain and record how it ended; its failure is its own."""
    started = timer()
    outcome, state, problem = AttackOutcome(), JobState.SUCCEEDED, ""
    try:
        outcome, problem = bench.carry_out(chain)
    except FpvecError as error:
        state, problem = JobState.FAILED, str(error)
    problem = bench.registry.redaction.text(problem)
    cell = AttackCell(
        chain=chain,
        kind="+".join(dict.fromkeys(_kind(bench.catalog, link.name) for link in chain.links)),
        state=state,
        seconds=timer() - started,
        outcome=outcome,
        problem=problem,
        run_id=identifier,
    )
    with bench.registry.unit_of_work() as uow:
        uow.attack_runs.add(
            AttackRunRecord(
                id=cell.run_id,
                stamped=bench.stamped_digest,
                key_set=bench.key_set,
                attack=chain.name,
                parameters={**chain.parameters, "seed": bench.seed},
                state=state,
                result=cell.to_json(),
                created_at=bench.registry.clock(),
            )
        )
    return cell


def _kind(catalog: "Catalog", name: str) -> str:
    return WEIGHT if isinstance(catalog.attack(name), WeightAttack) else QUERY


def _staging(workspace: Path) -> "tempfile.TemporaryDirectory[str]":
    """Return a private directory that is removed whatever happens.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".attack-", dir=workspace)
    except OSError as error:
        raise OutputError(f"{workspace} cannot be written: {error.strerror}", advice="choose another --home") from error
