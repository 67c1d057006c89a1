"""Asks two models the same tasks with one engine, one model after the other, and keeps every answer.

A task that fails on a side – its time, a NaN, its own code – is named and the others go on; what would make the sides
differ for another reason than their weights ends the comparison.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import BackendError, EvaluationError, FpvecError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.lm_eval_models import TRANSFORMERS, VLLM, ServedModel, WatchedModel, serve_transformers
from fpvec_audit.services.suspects import short_path
from fpvec_audit.services.task_scores import TaskScores, ask_task

if TYPE_CHECKING:
    from fpvec_audit.backends import Engines

AUTO = "auto"
BEFORE, AFTER = "before", "after"
_ASKING_FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)
"""What tasks of strangers raise while they are rendered and scored."""

Serve = Callable[[Path], ServedModel]


@dataclass(frozen=True, slots=True)
class Asking:
    """How both models are asked.

    Attributes:
        backend: ``auto``, ``transformers`` or ``vllm``.
        device: torch device.
        limit: ask the first so many items of each task only; None for all.
        task_seconds: seconds that a task may take on each side; None for no limit.
        in_template: whether lm-eval puts a task's prompts into the chat template.
    """

    backend: str
    device: str
    limit: int | None
    task_seconds: float | None
    in_template: Callable[[str], bool]


@dataclass(slots=True)
class AskedSides:
    """What came of it.

    Attributes:
        before: task → scores of the first model.
        after: task → scores of the second.
        problems: task → why it is not in both.
        identity: engine, version and settings, the same for both.
        remarks: what the user should know, in sentences.
    """

    before: dict[str, TaskScores] = field(default_factory=dict)
    after: dict[str, TaskScores] = field(default_factory=dict)
    problems: dict[str, FpvecError] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def ask_both(
    models: Sequence[Path],
    tasks: Mapping[str, Any],
    *,
    how: Asking,
    logs: Path,
    progress: Progress = NO_PROGRESS,
    timer: Callable[[], float] = time.monotonic,
) -> AskedSides:
    """Ask two models all tasks.

    Args:
        models: directories of the first and of the second.
        tasks: name → lm-eval's task.
        how: engine and limits.
        logs: existing directory, in which ``before`` and ``after`` are made.
        progress: where to report.
        timer: gives seconds from any beginning.

    Raises:
        BackendError: the engine that was asked for cannot run the first model.
        EvaluationError: the second model cannot be run as the first was, or one cannot be loaded.
    """
    asker = _Asker(models, tasks, how, logs, progress, timer)
    if how.backend == TRANSFORMERS:
        return asker.ask(asker.transformers, [])
    with ExitStack() as stack:
        from fpvec_audit.backends import Engines

        engines = stack.enter_context(Engines(VLLM, device=how.device))
        engines.warm_up()
        try:
            return asker.ask(lambda model: _serve_vllm(model, engines), [])
        except _FirstCannotBeServed as unserved:
            if how.backend == VLLM:
                raise unserved.error from unserved
            remark = f"both models were asked with transformers: {unserved.error.problem}"
    return asker.ask(asker.transformers, [remark])


class _FirstCannotBeServed(Exception):  # noqa: N818 - says what happened; never leaves this module
    """The engine cannot run the first model, so another may be chosen for both."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Asker:
    models: Sequence[Path]
    tasks: Mapping[str, Any]
    how: Asking
    logs: Path
    progress: Progress
    timer: Callable[[], float]

    def transformers(self, model: Path) -> ServedModel:
        """Load a model with transformers."""
        return serve_transformers(model, device=self.how.device)

    def ask(self, serve: Serve, remarks: list[str]) -> AskedSides:
        """Ask both models with one engine."""
        asked = AskedSides(remarks=remarks)
        for side, model, scores in zip((BEFORE, AFTER), self.models, (asked.before, asked.after), strict=True):
            served = self._served(side, model, serve)
            try:
                if asked.identity and served.identity != asked.identity:
                    raise _otherwise(self.models, asked.identity, served.identity)
                asked.identity = served.identity
                folder = self.logs / side
                folder.mkdir()
                for name in self.tasks:
                    if name not in asked.problems:
                        self._ask_task(side, name, served.model, scores, asked.problems)
            finally:
                served.close()
        return asked

    def _served(self, side: str, model: Path, serve: Serve) -> ServedModel:
        with self.progress.step(f"load {short_path(model)}"):
            try:
                return serve(model)
            except BackendError as error:
                if side == BEFORE:
                    raise _FirstCannotBeServed(error) from error
                raise EvaluationError(
                    f"vLLM ran {self.models[0]}, and cannot run {model}: {error.problem}",
                    advice="two engines are not compared; use --backend transformers for both",
                ) from error

    def _ask_task(
        self, side: str, name: str, model: Any, scores: dict[str, TaskScores], problems: dict[str, FpvecError]
    ) -> None:
        """Ask one task and keep its log, or say why that failed."""
        task = self.tasks[name]
        with self.progress.step(f"{name}, {side}", _requests(task, self.how.limit), "requests") as step:
            watched = WatchedModel(model, step, limit=self.how.task_seconds, timer=self.timer)
            try:
                found = ask_task(watched, name, task, limit=self.how.limit, chat_template=self.how.in_template(name))
            except (EvaluationError, BackendError) as error:
                step.note("left out")
                problems[name] = EvaluationError(f"{side}: {error.problem}", advice=error.advice)
                return
            except _ASKING_FAILURES as error:
                step.note("left out")
                said = (str(error).strip().splitlines() or [type(error).__name__])[0]
                told = f"{side}: it cannot be asked: {said}"
                problems[name] = EvaluationError(told, advice="check the task, or leave it out")
                return
        scores[name] = found
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in found.log]
        (self.logs / side / f"{name.replace('/', '_')}.jsonl").write_text("".join(lines), encoding="utf-8")


def _serve_vllm(model: Path, engines: "Engines") -> ServedModel:
    from fpvec_audit.services.lm_eval_models import serve_vllm

    return serve_vllm(model, engines=engines)


def _otherwise(models: Sequence[Path], first: Mapping[str, Any], second: Mapping[str, Any]) -> EvaluationError:
    return EvaluationError(
        f"{models[0]} was asked with {_told(first)}, {models[1]} would be with {_told(second)}",
        advice="two engines or number formats differ by themselves: convert one model",
    )


def _told(identity: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in identity["settings"].items())
    return f"{identity['engine']} {identity['version']} ({settings})"


def _requests(task: Any, limit: int | None) -> float | None:
    """Return how many requests a task makes, where its shape tells; a multiple choice asks one a choice."""
    if getattr(task, "OUTPUT_TYPE", "") == "multiple_choice":
        return None
    items = len(task.eval_docs)
    return items if limit is None else min(items, limit)
