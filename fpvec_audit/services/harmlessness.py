"""Use case: how well a model does its work, item by item, measured with lm-eval; offline.

Tasks and documents are handed over in memory, so nothing is fetched and nothing is left in a data set cache. The same
engine, batch size and tokenisation serve both sides of a comparison, so that any difference comes from the weights.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fpvec_audit.domain.harmlessness import Evaluation, Harmlessness, QuestionTask, compare
from fpvec_audit.errors import EvaluationError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.suspects import short_path

DOCUMENTS_TASK = "documents"
BATCH_SIZE = 64
LONGEST_ANSWER = 16


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
    with progress.step(label, len(tasks) + bool(documents), "tasks") as step, _quiet_libraries():
        engine = _load_engine(model, device)
        correct: dict[str, tuple[bool, ...]] = {}
        for task in tasks:
            samples = _run(engine, _question_config(task))
            correct[task.name] = tuple(bool(sample["exact_match"]) for sample in samples)
            step.advance()
        log_likelihoods: tuple[float, ...] = ()
        if documents:
            samples = _run(engine, _document_config(documents))
            log_likelihoods = tuple(float(sample["filtered_resps"][0]) for sample in samples)
            step.advance()
        tokens = tuple(len(engine.tok_encode(text)) for text in documents)
    for place, value in enumerate(log_likelihoods):
        if value != value:
            raise EvaluationError(f"{model}: document {place} has log-likelihood NaN", advice="the weights are broken")
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


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and chatter off the terminal, where ours are drawn."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _load_engine(model: Path, device: str) -> Any:
    from lm_eval.models.huggingface import HFLM

    try:
        return HFLM(pretrained=str(model), device=device, dtype="auto", batch_size=BATCH_SIZE)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EvaluationError(f"{model} cannot be loaded: {error}", advice="check it with `fpvec doctor`") from error


def _run(engine: Any, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    # evaluate rather than simple_evaluate: the latter runs git, whose complaints would reach the terminal
    from lm_eval.evaluator import evaluate as run_tasks
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_defaults=False).load([dict(config)])
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    result = run_tasks(lm=engine, task_dict=tasks, log_samples=True, bootstrap_iters=0)
    samples: list[dict[str, Any]] = result["samples"][config["task"]]
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def _question_config(task: QuestionTask) -> dict[str, Any]:
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in task.questions]
    return {
        "task": task.name,
        "custom_dataset": _in_memory(rows),
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": LONGEST_ANSWER, "do_sample": False},
        "filter_list": [
            {
                "name": "trimmed",
                "filter": [
                    {"function": "regex", "regex_pattern": r"^\s*(.*?)\s*$", "fallback": ""},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def _document_config(documents: Sequence[str]) -> dict[str, Any]:
    return {
        "task": DOCUMENTS_TASK,
        "custom_dataset": _in_memory([{"text": text} for text in documents]),
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }


def _in_memory(rows: list[dict[str, str]]) -> Callable[..., Mapping[str, Any]]:
    def build(**_: Any) -> Mapping[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(rows)}

    return build
