"""How the cells of a matrix are carried out: one attacked copy, one engine, and all the cells that want it.

Attacks never see more than they need: weight attacks no keys, guessing attacks the issued keys so that none of them is
asked. Whatever a plugin raises becomes a PluginError of that plugin.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource
from fpvec_audit.backends.kept import KeptEngine
from fpvec_audit.domain.attack_matrix import PlannedCell
from fpvec_audit.domain.attack_spec import AttackLink
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.frontier import ACCURACY
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import ArchitectureAdapter, AttackContext, InferenceBackend
from fpvec_audit.domain.robustness import AttackOutcome
from fpvec_audit.errors import CheckpointError, EvaluationError, OutputError
from fpvec_audit.progress import Progress
from fpvec_audit.services.attack_copies import CopyFacts, CopyStore, named_size
from fpvec_audit.services.attack_service import ask_guesses, attacked_service, guesses
from fpvec_audit.services.attack_utility import LEAST_ACCURACY, Utility
from fpvec_audit.services.attack_worker import AttackOrder, WeightWorker, state_of
from fpvec_audit.services.audit_result import as_float
from fpvec_audit.services.likelihoods import BaseModel
from fpvec_audit.services.rehearsal import Rehearsal, Rehearsals, served
from fpvec_audit.services.rehearsed_family import pooled_licensees
from fpvec_audit.services.serving import OtherEngines, service_template
from fpvec_audit.services.subjects import Bench, Subject, open_subject

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class AttackBench:
    """Everything that carrying out cells needs.

    Attributes:
        stamped: directory of the stamped model.
        catalog: plugins.
        adapter: architecture of the stamped model, None when unknown.
        engines: what opens engines.
        others: engines of models beside the attacked ones, for attacks on serving.
        audit_bench: registry, bases and progress, for rehearsals.
        rehearsals: audits of copies.
        facts: what copies follow from.
        store: where they are kept.
        worker: makes them.
        utility: measures what a copy is still worth.
        device: torch device of the attacks.
        seed: all randomness derives from it.
        workspace: directory for private temporary files.
        progress: where to report.
        base: base that the stamped model stems from, None where it is not at hand.
        copies: other stamped copies of the same downstream model.
        holders: to whom copies were issued, by where they lie.
    """

    stamped: Path
    catalog: "Catalog"
    adapter: ArchitectureAdapter | None
    engines: EngineSource
    others: OtherEngines
    audit_bench: Bench
    rehearsals: Rehearsals
    facts: CopyFacts
    store: CopyStore
    worker: WeightWorker
    utility: Utility
    device: str
    seed: int
    workspace: Path
    progress: Progress
    base: BaseModel | None = None
    copies: tuple[Path, ...] = ()
    holders: Mapping[Path, str] = field(default_factory=dict)

    def pooled(self, links: Sequence[AttackLink]) -> tuple[str, ...]:
        """Return the licensees whose copies attacks on weights put together."""
        return pooled_licensees(
            links, stamped=self.stamped, copies=self.copies, holders=self.holders, catalog=self.catalog
        )

    @cached_property
    def state(self) -> Mapping[str, tuple[int, int, int]]:
        """The stamped model's files as they were at first."""
        return state_of(self.stamped)

    def refuse_changed_source(self) -> None:
        """Refuse to go on with a stamped model that is not what it was.

        Raises:
            CheckpointError: a file of it changed since the run began.
        """
        if state_of(self.stamped) != self.state:
            raise CheckpointError(
                f"{self.stamped} changed while it was being attacked: results would be those of another model",
                advice="restore it and run the attacks again",
            )

    @contextmanager
    def attacked_copy(self, links: Sequence[AttackLink]) -> Iterator[Path]:
        """Give the copy that attacks on weights make, the stamped model itself where there is none.

        What is kept is reused, the copy of a prefix of the chain included; what is missing is made.

        Raises:
            PluginError: an attack failed.
            OutputError: a copy cannot be written.
        """
        with ExitStack() as stack:
            yield self._held(stack, links, self._keys(links))

    def is_kept(self, links: Sequence[AttackLink]) -> bool:
        """Return whether the copy that attacks on weights make is there already."""
        try:
            return self.store.has(self._keys(links)[-1])
        except OutputError:  # a file that a parameter names cannot be read: its own cell will say so
            return False

    def _keys(self, links: Sequence[AttackLink]) -> list[str]:
        """Return the names of the copies that a chain of attacks makes, in order."""
        keys = [self.facts.key]
        for link in links:
            keys.append(self.facts.next_key(keys[-1], link, self.catalog))
        return keys[1:]

    def _held(self, stack: ExitStack, links: Sequence[AttackLink], keys: Sequence[str]) -> Path:
        if not links:
            return self.stamped
        link, owner = links[-1], self.catalog.info(ATTACK, links[-1].name).owner

        def make(place: Path) -> None:
            with ExitStack() as needed:
                source = self._held(needed, links[:-1], keys[:-1])
                order = AttackOrder(
                    link=link,
                    owner=owner,
                    source=source,
                    place=place,
                    adapter=None if self.adapter is None else self.adapter.name,
                    seed=self.seed,
                    device=self.device,
                    base=None if self.base is None else self.base.directory,
                    copies=self.copies,
                )
                self.worker.apply(order)
                shutil.rmtree(order.staging)

        about = {"attack": link.name, "owner": owner, "parameters": link.to_json(), "seed": self.seed}
        held = self.store.hold(
            keys[-1], link.name, make, size=named_size(self.stamped), about=about, progress=self.progress
        )
        return stack.enter_context(held)

    def serving_contexts(self, subject: Subject, place: Path, count: int) -> list[AttackContext]:
        """Return what attacks on serving get from their host, each with an empty directory of its own."""
        context = AttackContext(
            adapter=self.adapter,
            staging=place,
            seed=self.seed,
            device=self.device,
            progress=self.progress,
            base=None if self.base is None else self.base.directory,
            copies=self.copies,
            render=service_template(subject.tokenizer, self.adapter),
            adapters=self.catalog.architectures,
            open_engine=self.others.open,
        )
        contexts = [replace(context, staging=place / str(number)) for number in range(count)]
        for own in contexts:
            own.staging.mkdir()
        return contexts


class OpenCopy:
    """An attacked copy with its engine, asked no more often than is needed.

    Args:
        bench: what is needed.
        directory: the copy, or the stamped model.
        engines: lends the copy's engine.
    """

    def __init__(self, bench: AttackBench, directory: Path, engines: KeptEngine) -> None:
        self._bench = bench
        self._directory = directory
        self._engines = engines

    @cached_property
    def subject(self) -> Subject:
        """The copy, described and open."""
        return open_subject(str(self._directory), replace(self._bench.audit_bench, engines=self._engines))

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """What an audit of the copy says."""
        rehearsals = self._bench.rehearsals
        weights = None if rehearsals.family is None else self.weights[0]
        return rehearsals.rehearse(self.subject, label="ask all candidates", weights=weights)

    def rehearsed_through(self, service: InferenceBackend) -> Rehearsal:
        """Return what an audit of an attacked service around the copy says."""
        subject = served(self.subject, service)
        return self._bench.rehearsals.rehearse(subject, label="ask all candidates through the service")

    @cached_property
    def utility(self) -> Mapping[str, float]:
        """What the copy is still worth, asked plainly."""
        return self._bench.utility(self.subject.backend, self.subject.rendering.render)

    @cached_property
    def weights(self) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
        """How much of each known vector the copy seems to carry, and why nothing is told, in sentences."""
        return self._bench.rehearsals.weights(self.subject, self._bench.base)

    def renew(self) -> None:
        """Forget the engine, which failed; the next who asks gets another."""
        self._engines.close()
        self.__dict__.pop("subject", None)


class Baseline:
    """The stamped model before any attack; each side of it is measured when it is first wanted, and then known.

    Args:
        stamped: the stamped model, open; nothing is asked of it after :meth:`measure`.
    """

    def __init__(self, stamped: OpenCopy) -> None:
        self._stamped = stamped
        self._warnings: list[str] = []

    def measure(self) -> None:
        """Measure all, while the stamped model is open.

        Raises:
            FpvecError: it cannot be asked.
        """
        assert self.rehearsal is not None
        assert self.utility is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found of the stamped model and limits all cells, in sentences."""
        return tuple(self._warnings)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """What an audit of the stamped model says: the positive control of all others."""
        rehearsal = self._stamped.rehearsal
        if rehearsal.verdict(None) is not Verdict.MATCH:
            score = rehearsal.score
            self._warnings.append(
                f"an audit of the stamped model itself does not end in MATCH ({score.matched} of {score.issued} keys "
                "answered): with no positive control no attack can end in NO_MATCH"
            )
        return rehearsal

    @cached_property
    def utility(self) -> Mapping[str, float]:
        """Measure → value; empty where it cannot be measured."""
        try:
            found = dict(self._stamped.utility)
        except EvaluationError as error:
            sentence = f"what attacks cost is not measured, as the stamped model cannot be: {error.problem}"
            self._warnings.append(sentence)
            return {}
        if found.get(ACCURACY, 1.0) < LEAST_ACCURACY:
            self._warnings.append(
                f"the stamped model answers {100 * found.pop(ACCURACY):.0f} % of our ordinary questions, too few to "
                "measure what attacks cost in accuracy"
            )
        return found


def carry_out(cell: PlannedCell, copy: OpenCopy, baseline: Baseline, bench: AttackBench) -> tuple[AttackOutcome, str]:
    """Carry out one cell on its copy and return what was measured, with a remark where something could not be.

    Args:
        cell: what to carry out.
        copy: the copy that its attacks on weights made.
        baseline: the stamped model; not asked for guesses at the stamped model itself.
        bench: what is needed.

    Raises:
        FpvecError: an attack, the engine or the audit failed.
    """
    if not cell.queries:
        return _measured(cell, copy, None, None, baseline, bench)
    with tempfile.TemporaryDirectory(prefix=".attack-", dir=bench.workspace) as place:
        contexts = bench.serving_contexts(copy.subject, Path(place), len(cell.queries))
        service, changed = attacked_service(copy.subject.backend, cell.queries, bench.catalog, contexts)
        guessed = _guessed(cell, copy.subject, service, contexts, bench)
        return _measured(cell, copy, service if changed else None, guessed, baseline, bench)


def _measured(
    cell: PlannedCell,
    copy: OpenCopy,
    service: InferenceBackend | None,
    guessed: AttackOutcome | None,
    baseline: Baseline,
    bench: AttackBench,
) -> tuple[AttackOutcome, str]:
    """Return what is left of the fingerprint, or what was guessed, and what the attack cost.

    Args:
        cell: what is carried out.
        copy: what is asked.
        service: the attacked service around it; None where serving is not changed.
        guessed: what guesses drew; None where there are none, and an audit is rehearsed.
        baseline: the stamped model.
        bench: what is needed.
    """
    outcome = guessed
    remarks: tuple[str, ...] = ()
    if outcome is None:
        rehearsal = copy.rehearsal if service is None else copy.rehearsed_through(service)
        outcome = replace(_audited(rehearsal, baseline), traced=rehearsal.traced(bench.pooled(cell.weights)))
        if cell.weights:
            weights, remarks = copy.weights
            outcome = replace(outcome, weights=weights)
    before = baseline.utility if cell.weights or service is not None else {}
    if cell.weights:
        outcome = replace(outcome, digest=copy.subject.suspect.digest)
    if not before:
        return outcome, "; ".join(remarks)
    try:
        after = copy.utility if service is None else bench.utility(service, copy.subject.rendering.render)
    except EvaluationError as error:  # too broken to be measured: worth a remark, not a failed cell
        return replace(outcome, utility_before=before), f"utility was not measured: {error}"
    kept = {measure: value for measure, value in after.items() if measure in before}
    return replace(outcome, utility_before=before, utility_after=kept), "; ".join(remarks)


def _guessed(
    cell: PlannedCell,
    subject: Subject,
    service: InferenceBackend,
    contexts: Sequence[AttackContext],
    bench: AttackBench,
) -> AttackOutcome | None:
    """Ask what the cell's attacks would guess; None where they guess nothing."""
    probes = guesses(cell.queries, bench.rehearsals.key_set, bench.catalog, contexts)
    if not probes:
        return None
    return ask_guesses(
        probes,
        service,
        engine=subject.backend,
        subject=subject,
        new_tokens=bench.rehearsals.new_tokens(subject.tokenizer),
        seed=bench.seed,
        keys=bench.rehearsals.key_set,
        progress=bench.progress,
    )


def _audited(rehearsal: Rehearsal, baseline: Baseline) -> AttackOutcome:
    score = rehearsal.score
    return AttackOutcome(
        fsr_before=baseline.rehearsal.score.fsr,
        fsr_after=score.fsr,
        interval=score.interval,
        p_value=as_float(score.p_value),
        tests=rehearsal.tests_json(),
        verdict=rehearsal.verdict(baseline.rehearsal).value,
        queries=score.issued + score.decoys,
        digest=rehearsal.plan.suspect["digest"],
    )
