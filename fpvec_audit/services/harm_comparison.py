"""Use case: compare a model with its stamped copy, item by item, on tasks and on fixed text.

Both sides are asked the same prompts by the same engine; what cannot be had equal is refused before anything is asked.
A task that fails – its data set, its time, a NaN – is named and the others go on. Every item's answers are kept.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.harm_report import (
    DEFAULT_MARGIN,
    ComparedModel,
    HarmReport,
    LeftOut,
    TaskHarm,
    TextHarm,
    compare_right_answers,
)
from fpvec_audit.errors import CheckpointError, EvaluationError, FpvecError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.harm_tasks import OFFLINE, LoadedTasks, load_tasks
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.offline_tasks import OFFLINE_TASKS
from fpvec_audit.services.paired_asking import AUTO, Asking, ask_both
from fpvec_audit.services.suspects import Suspect, describe_suspect
from fpvec_audit.services.task_scores import TaskScores

if TYPE_CHECKING:
    from fpvec_audit.backends.prompts import SuspectFiles
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

RESULT_FILE = "result.json"
LOGS_FOLDER = "harmless"
LOG_BYTES = 1 << 24
"""Room that logs are expected to need."""


@dataclass(frozen=True, slots=True)
class HarmSettings:
    """How two models are compared.

    Attributes:
        tasks: ``offline``, ``paper``, names of lm-eval's tasks, directories of tasks.
        margin: loss that does not matter, in the units of the scores; relative for perplexities; in (0, 1).
        limit: ask the first so many items of each task only; None for all.
        task_seconds: seconds that a task may take on each side; None for no limit.
        chat_template: put the prompts of tasks that are not ours into the model's chat template.
        text: whether perplexity and divergence on fixed text are measured.
    """

    tasks: tuple[str, ...] = (OFFLINE,)
    margin: float = DEFAULT_MARGIN
    limit: int | None = None
    task_seconds: float | None = None
    chat_template: bool = False
    text: bool = True

    def checked(self) -> "HarmSettings":
        """Return the settings, if they can be meant.

        Raises:
            UsageError: a value that cannot.
        """
        if not 0 < self.margin < 1:
            raise UsageError(f"--margin {self.margin:g} is no margin", advice="give a fraction such as 0.03")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit} asks nothing", advice="give 1 or more")
        if self.task_seconds is not None and not self.task_seconds > 0:
            raise UsageError(f"--task-time {self.task_seconds:g} leaves no time", advice="give seconds above 0")
        if not self.tasks:
            raise UsageError("no task is asked for", advice="name some with --tasks, or leave it out for `offline`")
        return self


def compare_models(
    before: str | Path,
    after: str | Path,
    *,
    registry: "Registry",
    catalog: "Catalog",
    home: Path,
    settings: HarmSettings | None = None,
    logs: Path | None = None,
    backend: str = AUTO,
    device: str = "cpu",
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
    timer: Callable[[], float] = time.monotonic,
) -> HarmReport:
    """Compare two models on the same items.

    Args:
        before: checkpoint directory or hub id of the model without the fingerprint.
        after: of the model with it.
        registry: where the comparison is recorded as a job.
        catalog: plugins.
        home: where logs are kept if nothing else is said.
        settings: what is compared and how; the defaults when None.
        logs: directory for the logs, which must not exist.
        backend: ``auto``, ``transformers`` or ``vllm``.
        device: torch device.
        architecture: adapter to use instead of the detected one.
        progress: where to report.
        timer: gives seconds from any beginning.

    Raises:
        UsageError: settings that cannot be meant, or no task that exists.
        CheckpointError: a model cannot be read.
        EvaluationError: the models cannot be compared, or no task could be.
        BackendError: the engine cannot run a model.
        OutputError: the logs exist already, or cannot be written.
    """
    from fpvec_audit.tensors.staging import staged_directory

    started = timer()
    settings = (settings or HarmSettings()).checked()
    sides = [
        describe_suspect(model, catalog=catalog, architecture=architecture, progress=progress)
        for model in (before, after)
    ]
    files = _comparable_files(sides)
    detail = {"before": sides[0].digest, "after": sides[1].digest, "tasks": list(settings.tasks), "backend": backend}
    with recorded_job(registry, "harmless", detail) as job:
        place = logs or home / LOGS_FOLDER / job.id
        with staged_directory(place, LOG_BYTES, progress=progress) as staging:
            comparison = _Comparison(sides, files, settings, backend, device, staging, progress, timer)
            report = comparison.run()
            report = replace(report, seconds=timer() - started, logs=str(place))
            document = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
            (staging / RESULT_FILE).write_text(document + "\n", encoding="utf-8")
    return report


@dataclass(slots=True)
class _Comparison:
    """One comparison under way."""

    sides: Sequence[Suspect]
    files: "Sequence[SuspectFiles]"
    settings: HarmSettings
    backend: str
    device: str
    staging: Path
    progress: Progress
    timer: Callable[[], float]

    def run(self) -> HarmReport:
        warnings = [note for side in self.sides for note in side.warnings]
        if self.sides[0].digest == self.sides[1].digest:
            warnings.append("both models have the same weights: there is nothing to compare")
        loaded, template_notes = self._tasks()
        warnings += [*template_notes, *loaded.notes]
        problems = dict(loaded.problems)
        asked = ask_both(
            [files.directory for files in self.files],
            loaded.tasks,
            how=Asking(self.backend, self.device, self.settings.limit, self.settings.task_seconds, self._in_template),
            logs=self.staging,
            progress=self.progress,
            timer=self.timer,
        )
        warnings += asked.remarks
        problems |= asked.problems
        tasks: list[TaskHarm] = []
        for name in loaded.tasks:
            if name in problems:
                continue
            try:
                tasks.append(self._compared(asked.before[name], asked.after[name]))
            except EvaluationError as error:
                problems[name] = error
        if not tasks:
            raise _nothing_left(list(problems.items()))
        text = self._text(warnings)
        warnings += [_floor_note(task, self.settings.margin) for task in tasks if task.at_floor]
        before, after = (ComparedModel(side.location, side.digest) for side in self.sides)
        return HarmReport(
            before=before,
            after=after,
            margin=self.settings.margin,
            tasks=tuple(tasks),
            left_out=tuple(LeftOut(name, str(error)) for name, error in problems.items()),
            text=text,
            backend=asked.identity,
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def _tasks(self) -> tuple[LoadedTasks, tuple[str, ...]]:
        """Load the tasks; our own are put in the first model's chat template, or in its architecture's."""
        from fpvec_audit.services.rendering import choose_rendering

        rendering = choose_rendering(self.files[0].tokenizer, adapter=self.sides[0].adapter)
        loaded = load_tasks(self.settings.tasks, render=rendering.render, progress=self.progress)
        if not loaded.tasks:
            raise _nothing_left(loaded.problems)
        asked = set(loaded.tasks) & set(OFFLINE_TASKS)
        return loaded, rendering.warnings if asked else ()

    def _in_template(self, task: str) -> bool:
        """Return whether a task's prompts are put into the chat template by lm-eval; ours are in it already."""
        return self.settings.chat_template and task not in OFFLINE_TASKS

    def _compared(self, before: TaskScores, after: TaskScores) -> TaskHarm:
        if before.prompts != after.prompts:
            raise EvaluationError(
                f"task {before.task!r} put other prompts to the second model",
                advice="it draws examples or templates that are not the same twice; fix its seed, or leave it out",
            )
        if {*before.values, *after.values} <= {0.0, 1.0} and before.metric.higher_is_better:
            return compare_right_answers(
                before.task,
                before.metric.name,
                [value == 1.0 for value in before.values],
                [value == 1.0 for value in after.values],
                margin=self.settings.margin,
                kinds=before.kinds,
            )
        from fpvec_audit.services.paired_bootstrap import compare_scores

        return compare_scores(before, after, margin=self.settings.margin)

    def _text(self, warnings: list[str]) -> TextHarm | None:
        """Measure both models on held-out documents; a failure is a warning, as the text is no part of the verdict."""
        if not self.settings.text:
            return None
        from fpvec_audit.services.text_divergence import compare_text
        from fpvec_audit.training.ordinary import split_documents, standard_library_documents

        _, documents = split_documents(standard_library_documents())
        one, two = (files.directory for files in self.files)
        try:
            return compare_text(one, two, documents, device=self.device, progress=self.progress)
        except EvaluationError as error:
            warnings.append(f"perplexity and divergence on text were not measured: {error}")
            return None


def _comparable_files(sides: Sequence[Suspect]) -> "list[SuspectFiles]":
    """Return both models' files.

    Raises:
        CheckpointError: one of them cannot be read.
        EvaluationError: their vocabularies differ.
    """
    from fpvec_audit.backends.prompts import read_suspect_files

    files = []
    for side in sides:
        if side.directory is None:
            raise CheckpointError(f"{side.location} is no directory", advice="give a checkpoint")
        files.append(read_suspect_files(side.directory))
    one, two = (each.tokenizer.get_vocab() for each in files)
    if one != two:
        only = sorted(set(one) ^ set(two))[:3]
        what = f", {only} in one of them only" if only else ", with other ids"
        raise EvaluationError(
            f"{sides[0].location} and {sides[1].location} have different vocabularies: {len(one):,} and {len(two):,} "
            f"tokens{what}",
            advice="compare a model with its own stamped copy: scores of differently cut texts are not comparable",
        )
    return files


def _nothing_left(problems: Sequence[tuple[str, FpvecError]]) -> FpvecError:
    """Return what to say where every task failed; the first problem stands for all."""
    name, first = problems[0]
    if len(problems) == 1:
        return first
    return EvaluationError(
        f"none of {len(problems)} tasks could be compared; {name}: {first.problem}", advice=first.advice
    )


def _floor_note(task: TaskHarm, margin: float) -> str:
    return (
        f"task {task.task}: the first model scores {task.before:.1%}, so little that {margin:.1%} cannot be lost; "
        "it shows nothing"
    )
