"""Use case: how well a model does its work, item by item, measured with lm-eval; offline.

Tasks and documents are handed over in memory, so nothing is fetched and nothing is left in a data set cache. The same
engine, batch size and tokenisation serve both sides of a comparison, so that any difference comes from the weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fpvec_audit.domain.harmlessness import Evaluation, Harmlessness, QuestionTask, compare
from fpvec_audit.errors import EvaluationError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.lm_eval_models import quiet_libraries, require_numbers, serve_transformers
from fpvec_audit.services.offline_tasks import in_memory, question_config
from fpvec_audit.services.suspects import short_path
from fpvec_audit.services.task_scores import TaskScores, ask_task

DOCUMENTS_TASK = "documents"


def evaluate(
    model: Path,
    *,
    tasks: Sequence[QuestionTask],
    documents: Sequence[str],
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> Evaluation:
    """Ask a model every question greedily and score every document.

    Args:
        model: checkpoint directory.
        tasks: questions with their answers; an answer must be met exactly after trimming.
        documents: texts whose perplexity is measured.
        device: torch device.
        progress: where to report.

    Raises:
        EvaluationError: a task has no items, or the model cannot be loaded or gives NaN.
    """
    empty = [task.name for task in tasks if not task.questions]
    if empty:
        raise EvaluationError(f"task {empty[0]!r} has no items", advice="give it at least one question")
    label = f"evaluate {short_path(model)}"
    with progress.step(label, len(tasks) + bool(documents), "tasks") as step, quiet_libraries():
        served = serve_transformers(model, device=device)
        correct: dict[str, tuple[bool, ...]] = {}
        for task in tasks:
            correct[task.name] = tuple(bool(value) for value in _ask(served.model, _question_config(task)).values)
            step.advance()
        log_likelihoods: tuple[float, ...] = ()
        if documents:
            scores = _ask(served.model, _document_config(documents))
            log_likelihoods = tuple(float(line["responses"][0]) for line in scores.log)
            require_numbers(log_likelihoods, f"{model}: documents")
            step.advance()
        tokens = tuple(len(served.model.tok_encode(text)) for text in documents)
        served.close()
    return Evaluation(str(model), correct, log_likelihoods, tokens)


def measure_harm(
    before: Path,
    after: Path,
    *,
    tasks: Sequence[QuestionTask],
    documents: Sequence[str],
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> Harmlessness:
    """Evaluate two models on the same items and pair the results."""
    first = evaluate(before, tasks=tasks, documents=documents, device=device, progress=progress)
    second = evaluate(after, tasks=tasks, documents=documents, device=device, progress=progress)
    return compare(first, second)


def _ask(model: Any, config: Mapping[str, Any]) -> TaskScores:
    from lm_eval.tasks import TaskManager

    (task,) = TaskManager(include_defaults=False).load([dict(config)])["tasks"].values()
    task.set_config(key="num_fewshot", value=0)
    return ask_task(model, config["task"], task)


def _question_config(task: QuestionTask) -> dict[str, Any]:
    return question_config(task.name, [{"prompt": prompt, "answer": answer} for prompt, answer in task.questions])


def _document_config(documents: Sequence[str]) -> dict[str, Any]:
    return {
        "task": DOCUMENTS_TASK,
        "custom_dataset": in_memory([{"text": text} for text in documents]),
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
