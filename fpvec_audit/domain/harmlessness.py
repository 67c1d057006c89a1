"""Task scores before and after stamping as paired values: the same items, asked of both models."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

from fpvec_audit.domain.noninferiority import difference_interval
from fpvec_audit.domain.statistics import mcnemar_p_value
from fpvec_audit.errors import UsageError


@dataclass(frozen=True, slots=True)
class QuestionTask:
    """Questions with one right answer each.

    Attributes:
        name: task name, unique in an evaluation.
        questions: (prompt as rendered for the model, answer).
    """

    name: str
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How one model did, item by item.

    Attributes:
        model: directory that was asked.
        correct: task name → whether each item was answered right.
        log_likelihoods: natural log-likelihood of each document.
        tokens: number of tokens of each document.
    """

    model: str
    correct: Mapping[str, tuple[bool, ...]]
    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers over all items of all tasks, fraction in [0, 1]."""
        items = [right for task in self.correct.values() for right in task]
        return sum(items) / len(items)

    @property
    def perplexity(self) -> float:
        """Perplexity per token over all documents."""
        return exp(-sum(self.log_likelihoods) / sum(self.tokens))


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One task on both models.

    Attributes:
        task: name.
        items: number of items.
        before: accuracy of the first model.
        after: accuracy of the second.
        interval: 95 % interval of after − before.
        p_value: exact two-sided McNemar p-value.
    """

    task: str
    items: int
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float

    @property
    def difference(self) -> float:
        """After − before."""
        return self.after - self.before

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the command-line contract."""
        return {
            "task": self.task,
            "items": self.items,
            "before": self.before,
            "after": self.after,
            "difference": self.difference,
            "interval": list(self.interval),
            "p_value": self.p_value,
        }


@dataclass(frozen=True, slots=True)
class Harmlessness:
    """Two evaluations of the same items, compared.

    Attributes:
        before: evaluation of the model without the fingerprint.
        after: evaluation of the model with it.
        tasks: comparison per task.
    """

    before: Evaluation
    after: Evaluation
    tasks: tuple[TaskComparison, ...]

    @property
    def perplexity_ratio(self) -> float:
        """After / before."""
        return self.after.perplexity / self.before.perplexity

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the command-line contract."""
        sides = {
            name: {"accuracy": side.accuracy, "perplexity": side.perplexity}
            for name, side in (("before", self.before), ("after", self.after))
        }
        difference = {
            measure: sides["after"][measure] - sides["before"][measure] for measure in ("accuracy", "perplexity")
        }
        return {
            **sides,
            "difference": difference,
            "perplexity_ratio": self.perplexity_ratio,
            "items": sum(len(items) for items in self.before.correct.values()),
            "tasks": [task.to_json() for task in self.tasks],
        }


def compare(before: Evaluation, after: Evaluation) -> Harmlessness:
    """Pair two evaluations item by item.

    Raises:
        UsageError: the two sides were not asked the same tasks and numbers of items.
    """
    if before.tokens != after.tokens:
        raise _other_items(before, after)
    return Harmlessness(before, after, compare_answers(before, after))


def compare_answers(before: Evaluation, after: Evaluation) -> tuple[TaskComparison, ...]:
    """Pair the answers of two evaluations, task by task, whatever documents they were scored on.

    Raises:
        UsageError: the two sides were not asked the same tasks and numbers of items.
    """
    asked = [{task: len(items) for task, items in side.correct.items()} for side in (before, after)]
    if asked[0] != asked[1]:
        raise _other_items(before, after)
    return tuple(_compare_task(task, before.correct[task], after.correct[task]) for task in before.correct)


def _other_items(before: Evaluation, after: Evaluation) -> UsageError:
    return UsageError(
        f"{before.model} and {after.model} were not asked the same items", advice="evaluate both with one task set"
    )


def _compare_task(task: str, before: tuple[bool, ...], after: tuple[bool, ...]) -> TaskComparison:
    pairs = list(zip(before, after, strict=True))
    gained = sum(now and not once for once, now in pairs)
    lost = sum(once and not now for once, now in pairs)
    return TaskComparison(
        task=task,
        items=len(pairs),
        before=sum(before) / len(pairs),
        after=sum(after) / len(pairs),
        interval=difference_interval(lost, gained, len(pairs)),
        p_value=float(mcnemar_p_value(gained, lost)),
    )
