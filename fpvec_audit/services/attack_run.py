"""Carries out the cells of a matrix, copy by copy, and records each as it ends.

The stamped model comes first: what it answers is what every attack is compared with, and the positive control of every
copy that falls silent. After that a copy is made or found, one engine is started for it, and all its cells are carried
out. A copy that cannot be made fails the cells that want it, and no other.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends.kept import KeptEngine
from fpvec_audit.domain.attack_matrix import PlannedCell, WeightSet, seconds_left, weight_sets
from fpvec_audit.domain.records import AttackRunRecord, JobState
from fpvec_audit.domain.robustness import AttackCell, AttackOutcome
from fpvec_audit.errors import BackendError, FpvecError
from fpvec_audit.progress import Step
from fpvec_audit.services.attack_cells import AttackBench, Baseline, OpenCopy, carry_out
from fpvec_audit.services.attack_history import MATRIX_ID

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

MOST_OF_A_PROBLEM = 60
"""Characters of a problem that stand beside the progress."""


@dataclass(slots=True, kw_only=True)
class MatrixRun:
    """One run over a matrix.

    Attributes:
        cells: all cells.
        bench: what carrying them out needs.
        registry: where they are recorded.
        stamped: id of the stamped model.
        key_set: id.
        matrix: what ties the cells together.
        entropy: gives the random bytes of record ids.
        timer: gives seconds from any beginning.
        done: number → recorded result of the cells that an interrupted run finished.
        warnings: what limits the results, in sentences; known afterwards.
        engine_starts: engines started for copies and the stamped model.
    """

    cells: Sequence[PlannedCell]
    bench: AttackBench
    registry: "Registry"
    stamped: str
    key_set: str
    matrix: str
    entropy: Callable[[int], bytes]
    timer: Callable[[], float]
    done: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), init=False)
    engine_starts: int = field(default=0, init=False)
    _ended: dict[int, AttackCell] = field(default_factory=dict, init=False)
    _baseline: Baseline | None = field(default=None, init=False)
    _begun: float = field(default=0.0, init=False)
    _shown: ExitStack = field(default_factory=ExitStack, init=False)
    _line: Step | None = field(default=None, init=False)

    def carry_out(self) -> tuple[AttackCell, ...]:
        """Carry out every cell that is not done, and return all in their order.

        Raises:
            FpvecError: the stamped model itself cannot be asked.
        """
        for number, result in self.done.items():
            self._ended[number] = AttackCell.from_json(number, result)
        pending = [cell for cell in self.cells if cell.number not in self._ended]
        assert self.bench.state is not None, "the stamped model is looked at before the first attack"
        if any(cell.weights and not self.bench.is_kept(cell.weights) for cell in pending):
            self.bench.worker.warm_up()
        with self.bench.progress.step("attacks", len(self.cells), "cells") as step, self._shown:
            step.advance(len(self._ended))
            self._begin_with_stamped(pending, step)
            for weight_set in weight_sets([cell for cell in pending if cell.weights]):
                self._carry_out_set(weight_set, step)
            step.note("")  # nothing is left
        self.bench.store.trim()
        return tuple(self._ended[cell.number] for cell in self.cells)

    def _begin_with_stamped(self, pending: Sequence[PlannedCell], step: Step) -> None:
        """Measure the stamped model where it will be wanted, and carry out what asks it through its service."""
        asked = [cell for cell in pending if not cell.weights]
        compared = len(asked) < len(pending)
        if not pending:
            return
        with KeptEngine(self.bench.engines, self.bench.stamped) as engines:
            copy = OpenCopy(self.bench, self.bench.stamped, engines)
            self._baseline = Baseline(copy)
            if compared:
                with self.bench.progress.step("the stamped model, to compare with"):
                    self._baseline.measure()
            for cell in asked:
                self._carry_out_cell(cell, copy, step)
            self.engine_starts += engines.starts
        self.warnings = self._baseline.warnings

    def _carry_out_set(self, weight_set: WeightSet, step: Step) -> None:
        """Make or find a copy, and carry out the cells that want it."""
        left = list(weight_set.cells)
        self._begin_cell(left[0], step)
        try:
            with ExitStack() as stack:
                self.bench.refuse_changed_source()
                directory = stack.enter_context(self.bench.attacked_copy(weight_set.links))
                engines = stack.enter_context(KeptEngine(self.bench.engines, directory))
                copy = OpenCopy(self.bench, directory, engines)
                while left:
                    self._carry_out_cell(left[0], copy, step)
                    left.pop(0)
                self.engine_starts += engines.starts
        except FpvecError as error:
            for cell in left:
                if self._line is None:
                    self._begin_cell(cell, step)
                self._end_cell(cell, AttackOutcome(), step, problem=str(error), failed=True)

    def _carry_out_cell(
        self,
        cell: PlannedCell,
        copy: OpenCopy,
        step: Step,
    ) -> None:
        """Carry out one cell, which its copy may have begun; its failure is its own."""
        if self._line is None:
            self._begin_cell(cell, step)
        assert self._baseline is not None, "the stamped model comes first"
        try:
            outcome, remark = carry_out(cell, copy, self._baseline, self.bench)
        except FpvecError as error:
            if isinstance(error, BackendError):
                copy.renew()  # an engine that failed may be dead: the next cell gets another
            self._end_cell(cell, AttackOutcome(), step, problem=str(error), failed=True)
        else:
            self._end_cell(cell, outcome, step, problem=remark)

    def _begin_cell(self, cell: PlannedCell, step: Step) -> None:
        self._begun = self.timer()
        left = [(other.chain.name, other.kind) for other in self.cells if other.number not in self._ended]
        seconds = seconds_left([(ended.name, ended.kind, ended.seconds) for ended in self._ended.values()], left)
        estimate = "" if seconds is None else f", ~{_duration(seconds)}"
        step.note(f"{len(left)} left{estimate}")
        label = f"{cell.number}/{len(self.cells)} {cell.chain.text}"
        self._line = self._shown.enter_context(self.bench.progress.step(label))

    def _end_cell(
        self, cell: PlannedCell, outcome: AttackOutcome, step: Step, *, problem: str = "", failed: bool = False
    ) -> None:
        """Record how a cell ended."""
        now = self.timer()
        ended = AttackCell(
            number=cell.number,
            name=cell.chain.name,
            parameters=cell.chain.parameters,
            kind=cell.kind,
            state=JobState.FAILED if failed else JobState.SUCCEEDED,
            seconds=now - self._begun,
            outcome=outcome,
            problem=self.registry.redaction.text(problem),
            run_id=f"at-{self.entropy(8).hex()}",
        )
        self._begun = now
        with self.registry.unit_of_work() as uow:
            uow.attack_runs.add(
                AttackRunRecord(
                    id=ended.run_id,
                    stamped=self.stamped,
                    key_set=self.key_set,
                    attack=ended.name,
                    parameters={**ended.parameters, "seed": self.bench.seed},
                    state=ended.state,
                    result={**ended.to_json(), MATRIX_ID: self.matrix},
                    created_at=self.registry.clock(),
                )
            )
        self._ended[cell.number] = ended
        if self._line is not None:
            self._line.note(_result(ended))
            self._line = None
        self._shown.close()
        step.advance()


def _result(cell: AttackCell) -> str:
    """Return how a cell ended, in a few words."""
    if cell.state is JobState.FAILED:
        return f"failed: {cell.problem[:MOST_OF_A_PROBLEM]}"
    outcome = cell.outcome
    rate = "" if outcome.fsr_after is None else f"{100 * outcome.fsr_after:.3g} %"
    if outcome.fsr_before is None:
        return f"{rate} of the guesses triggered"
    return f"{rate} of the keys, {outcome.verdict}"


def _duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
