"""Which tasks a harmlessness comparison asks: groups of ours, tasks of lm-eval by name, or a directory of the user's.

A name that means nothing, and a data set that cannot be had, cost their own task and no other.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from fpvec_audit.errors import EvaluationError, FpvecError, UnknownNameError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.lm_eval_models import quiet_libraries
from fpvec_audit.services.offline_tasks import OFFLINE_TASKS, Render, offline_task_config

OFFLINE, PAPER = "offline", "paper"


@dataclass(frozen=True, slots=True)
class PaperTask:
    """One of the 17 tasks that the paper measures harmlessness with.

    Attributes:
        paper: its name in the paper's table.
        task: the task of lm-eval that is asked.
        folder: where lm-eval keeps it; reading one folder takes a hundredth of reading all.
        instead: why it is not the paper's own task; empty where it is.
    """

    paper: str
    task: str
    folder: str
    instead: str = ""


PAPER_TASKS = (
    PaperTask("ANLI r1", "anli_r1", "anli"),
    PaperTask("ANLI r2", "anli_r2", "anli"),
    PaperTask("ANLI r3", "anli_r3", "anli"),
    PaperTask("BoolQ", "boolq", "super_glue"),
    PaperTask("CoPA", "copa", "super_glue"),
    PaperTask("MultiRC", "multirc", "super_glue"),
    PaperTask("RTE", "rte", "glue"),
    PaperTask("LAMBADA (standard)", "lambada_standard", "lambada"),
    PaperTask("WiC", "wic", "super_glue"),
    PaperTask("Winogrande", "winogrande", "winogrande"),
    PaperTask("WSC", "wsc", "super_glue"),
    PaperTask("ARC-c", "arc_challenge", "arc"),
    PaperTask("ARC-e", "arc_easy", "arc"),
    PaperTask(
        "LogiQA",
        "agieval_logiqa_en",
        "agieval",
        "EleutherAI/logiqa is a loading script, which `datasets` ≥ 4 refuses; AGIEval holds the same test set as data",
    ),
    PaperTask("OpenBookQA", "openbookqa", "openbookqa"),
    PaperTask("SciQ", "sciq", "sciq"),
    PaperTask("CB", "cb", "super_glue"),
)
"""Source: FP-VEC, arXiv:2409.08846, Table II; asked without examples, as there."""


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """Tasks that are asked for by one name.

    Attributes:
        name: what the user wrote, or the member of a group that it means.
        load: gives task name → lm-eval's task.
        note: what is to be known of it, one sentence; empty where there is nothing.
    """

    name: str
    load: Callable[[], Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """What came of the orders.

    Attributes:
        tasks: task name → lm-eval's task, in the order asked for.
        problems: (name, why) of what could not be loaded.
        notes: what is to be known of the tasks.
    """

    tasks: Mapping[str, Any]
    problems: tuple[tuple[str, FpvecError], ...]
    notes: tuple[str, ...]


def load_tasks(wanted: Sequence[str], *, render: Render, progress: Progress = NO_PROGRESS) -> LoadedTasks:
    """Load all tasks that are asked for; what cannot be had is named.

    Args:
        wanted: ``offline``, ``paper``, names of tasks or groups of lm-eval, and directories or files of tasks.
        render: question → prompt, for our own tasks.
        progress: where to report.
    """
    tasks: dict[str, Any] = {}
    problems: list[tuple[str, FpvecError]] = []
    notes: list[str] = []
    orders = [order for name in wanted for order in _orders(name, render)]
    with progress.step("load tasks", len(orders), "tasks") as step, _hub() as hub:
        for order in orders:
            step.note(order.name)
            try:
                with quiet_libraries():
                    found = order.load()
            except FpvecError as error:
                problems.append((order.name, error))
            except _loading_failures() as error:
                problems.append((order.name, hub.explained(error)))
            else:
                tasks |= found
                notes += [order.note] if order.note else []
            step.advance()
        step.note("")
    return LoadedTasks(tasks, tuple(problems), tuple(notes))


def _orders(name: str, render: Render) -> list[TaskOrder]:
    if name == OFFLINE:
        return [TaskOrder(task, partial(_ours, task, render)) for task in OFFLINE_TASKS]
    if name in OFFLINE_TASKS:
        return [TaskOrder(name, partial(_ours, name, render))]
    if name == PAPER:
        return [
            TaskOrder(
                item.task,
                partial(_from_folder, item),
                f"{item.paper} is asked as {item.task}: {item.instead}" if item.instead else "",
            )
            for item in PAPER_TASKS
        ]
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_directory(path)
    if path.is_file():
        return [TaskOrder(name, partial(_from_file, path))]
    return [TaskOrder(name, partial(_by_name, name))]


def _ours(name: str, render: Render) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    return dict(TaskManager(include_defaults=False).load([offline_task_config(name, render)])["tasks"])


def _from_folder(item: PaperTask) -> dict[str, Any]:
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / item.folder
    found = dict(lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False).load([item.task])["tasks"])
    for task in found.values():
        task.set_config(key="num_fewshot", value=0)
    return found


def _in_directory(path: Path) -> list[TaskOrder]:
    """Return an order for each task of a directory, so that a broken one is not the others' trouble."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(path), include_defaults=False)
    names = list(manager.all_subtasks)
    return [TaskOrder(name, partial(_of, manager, name)) for name in names] or [
        TaskOrder(str(path), partial(_refuse_empty, path))
    ]


def _of(manager: Any, name: str) -> dict[str, Any]:
    return dict(manager.load([name])["tasks"])


def _refuse_empty(path: Path) -> dict[str, Any]:
    raise EvaluationError(
        f"{path} holds no task", advice="give a directory of lm-eval's YAML files, each with a line `task: NAME`"
    )


def _from_file(path: Path) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    return _of(TaskManager(include_defaults=False), str(path))


def _by_name(name: str) -> dict[str, Any]:
    manager = _all_tasks()
    if name not in manager.task_index:
        raise UnknownNameError("task", name, [OFFLINE, PAPER, *OFFLINE_TASKS, *manager.all_tasks])
    return _of(manager, name)


@cache
def _all_tasks() -> Any:
    """Return lm-eval's own tasks; reading the list takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _loading_failures() -> tuple[type[Exception], ...]:
    """Return what lm-eval and the libraries below it raise for tasks and data sets that they cannot use."""
    import yaml
    from datasets.exceptions import DatasetsError

    kinds = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, AssertionError)
    return (*kinds, DatasetsError, yaml.YAMLError)


class _Hub:
    """Explains what went wrong, and keeps the libraries from asking a hub that is away: half a minute a task."""

    def explained(self, error: Exception) -> EvaluationError:
        """Return what went wrong as the user should read it."""
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, ConnectionError) or "offline" in said.lower():
            self._ask_no_more()
            return EvaluationError(
                f"its data set cannot be fetched: {said}",
                advice="the hub is away: fetch it where there is a network, or ask `--tasks offline`",
            )
        if "scripts are no longer supported" in said:
            return EvaluationError(
                f"its data set is a loading script, which `datasets` no longer runs: {said}",
                advice="ask a task whose data set is stored as data",
            )
        if isinstance(error, IndexError) and "size 0" in said:  # lm-eval looks at the first item while it loads
            return EvaluationError("it has no items", advice="give it at least one, or leave it out")
        return EvaluationError(f"it cannot be loaded: {said}", advice="check the task, or leave it out")

    @staticmethod
    def _ask_no_more() -> None:
        """Let the libraries look into their caches alone, which they read from these two places."""
        import datasets.config
        import huggingface_hub.constants

        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True


@contextlib.contextmanager
def _hub() -> Iterator[_Hub]:
    import datasets.config
    import huggingface_hub.constants

    before = bool(datasets.config.HF_HUB_OFFLINE), bool(huggingface_hub.constants.HF_HUB_OFFLINE)
    try:
        yield _Hub()
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
