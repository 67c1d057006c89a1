"""A harmlessness comparison: tasks judged against a margin, and the verdict over all of them.

HARMLESS has to be shown: on every task that was asked for, the one-sided 95 % bound of the loss lies within the margin.
HARMFUL has to be shown too: on some task, Holm-corrected over all, the loss is more than the margin. What shows neither
is INCONCLUSIVE, and so is a comparison that lacks a task. "Every task" needs no correction: to be called harmless
wrongly, a model must pass the very task that it fails, which happens with probability 5 % at most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any

from fpvec_audit.domain.noninferiority import difference_interval, loss_at_most_p_value, loss_upper_bound
from fpvec_audit.domain.statistics import holm, mcnemar_p_value

LEVEL = 0.05
"""Probability of HARMLESS where a task's loss is the margin or more, and of HARMFUL where none is above it, at most."""

DEFAULT_MARGIN = 0.03
DOES_NOT_PROVE = (
    "that the models are alike in what was not asked: only the tasks listed here were compared",
    "that the same holds for other sizes, languages or ways of asking",
)


class HarmVerdict(StrEnum):
    """What a comparison showed."""

    HARMLESS = "HARMLESS"
    HARMFUL = "HARMFUL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class PartHarm:
    """Items of one kind within a task; shown, and not judged.

    Attributes:
        kind: what they have in common.
        items: how many.
        before: score of the first model.
        after: score of the second.
        interval: 95 % interval of after − before.
    """

    kind: str
    items: int
    before: float
    after: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "kind": self.kind,
            "items": self.items,
            "before": self.before,
            "after": self.after,
            "difference": self.after - self.before,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class TaskHarm:
    """One task on both models.

    Attributes:
        task: name.
        metric: what was measured.
        items: number of items.
        before: score of the first model.
        after: score of the second.
        interval: 95 % interval of after − before.
        p_value: two-sided, of no difference: exact McNemar, or by the bootstrap.
        loss: how much worse the second is, in what the margin is compared with: the difference of scores, or for
            perplexities the relative increase.
        loss_bound: one-sided 95 % upper bound of the loss.
        p_value_harm: one-sided, of a loss within the margin; a small one says that the loss is more.
        method: ``exact`` or ``bootstrap``.
        at_floor: whether the first model scores so little that the margin could not be lost.
        parts: the items by kind, where the task tells kinds apart.
    """

    task: str
    metric: str
    items: int
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float
    loss: float
    loss_bound: float
    p_value_harm: float
    method: str
    at_floor: bool = False
    parts: tuple[PartHarm, ...] = ()

    def within(self, margin: float) -> bool:
        """Return whether the task shows that no more than the margin was lost."""
        return self.loss_bound <= margin and not self.at_floor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A task that was asked for and not compared.

    Attributes:
        task: name.
        problem: why, and what to do.
    """

    task: str
    problem: str


@dataclass(frozen=True, slots=True)
class TextHarm:
    """Two models on fixed text: sees what accuracy cannot. Not part of the verdict.

    Attributes:
        documents: how many texts.
        tokens: how many tokens were predicted.
        before: perplexity per token of the first model.
        after: perplexity per token of the second.
        ratio_interval: 95 % interval of after / before, bootstrapped over documents.
        divergence: mean Kullback–Leibler divergence KL(before ‖ after) per token, nats.
        divergence_interval: its 95 % interval, bootstrapped over documents.
        agreement: share of tokens where both models find the same token likeliest.
    """

    documents: int
    tokens: int
    before: float
    after: float
    ratio_interval: tuple[float, float]
    divergence: float
    divergence_interval: tuple[float, float]
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "perplexity": {
                "before": self.before,
                "after": self.after,
                "ratio": self.after / self.before,
                "interval": list(self.ratio_interval),
            },
            "divergence": {"nats_per_token": self.divergence, "interval": list(self.divergence_interval)},
            "agreement": self.agreement,
        }


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One side.

    Attributes:
        location: as the user gave it.
        digest: canonical digest of its weights, hex.
    """

    location: str
    digest: str


@dataclass(frozen=True, slots=True)
class HarmReport:
    """A whole comparison.

    Attributes:
        before: the model without the fingerprint.
        after: the model with it.
        margin: loss that does not matter, in the units of the scores; for perplexities relative.
        tasks: what was compared.
        left_out: what was not.
        text: both models on fixed text; None where that was not measured.
        backend: engine, version and settings that both sides were asked with.
        seconds: how long it took.
        logs: directory with every item's answers; empty where none were kept.
        warnings: what the user should know, in sentences.
    """

    before: ComparedModel
    after: ComparedModel
    margin: float
    tasks: tuple[TaskHarm, ...]
    left_out: tuple[LeftOut, ...] = ()
    text: TextHarm | None = None
    backend: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    logs: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> HarmVerdict:
        """What all tasks together show."""
        if any(p_value <= LEVEL for p_value in self._adjusted([task.p_value_harm for task in self.tasks])):
            return HarmVerdict.HARMFUL
        if self.tasks and not self.left_out and all(task.within(self.margin) for task in self.tasks):
            return HarmVerdict.HARMLESS
        return HarmVerdict.INCONCLUSIVE

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of the command-line contract."""
        changed = self._adjusted([task.p_value for task in self.tasks])
        harmed = self._adjusted([task.p_value_harm for task in self.tasks])
        return {
            "verdict": self.verdict.value,
            "margin": self.margin,
            "tasks": [self._task_json(*told) for told in zip(self.tasks, changed, harmed, strict=True)],
            "left_out": [{"task": item.task, "problem": item.problem} for item in self.left_out],
            "text": None if self.text is None else self.text.to_json(),
            "before_model": self.before.location,
            "after_model": self.after.location,
            "before_digest": self.before.digest,
            "after_digest": self.after.digest,
            "backend": dict(self.backend),
            "engine": " ".join(str(self.backend[name]) for name in ("engine", "version") if name in self.backend),
            "seconds": self.seconds,
            "logs": self.logs,
            "warnings": list(self.warnings),
            "does_not_prove": list(DOES_NOT_PROVE),
        }

    def _task_json(self, task: TaskHarm, p_value_adjusted: float, p_value_harm_adjusted: float) -> dict[str, Any]:
        if p_value_harm_adjusted <= LEVEL:
            shown = HarmVerdict.HARMFUL
        else:
            shown = HarmVerdict.HARMLESS if task.within(self.margin) else HarmVerdict.INCONCLUSIVE
        return {
            "task": task.task,
            "metric": task.metric,
            "items": task.items,
            "before": task.before,
            "after": task.after,
            "difference": task.after - task.before,
            "interval": list(task.interval),
            "p_value": task.p_value,
            "p_value_adjusted": p_value_adjusted,
            "loss": task.loss,
            "loss_bound": task.loss_bound,
            "p_value_harm": task.p_value_harm,
            "p_value_harm_adjusted": p_value_harm_adjusted,
            "method": task.method,
            "at_floor": task.at_floor,
            "verdict": shown.value,
            "parts": [part.to_json() for part in task.parts],
        }

    @staticmethod
    def _adjusted(p_values: Sequence[float]) -> list[float]:
        return [float(p_value) for p_value in holm([Fraction(p_value) for p_value in p_values])]


def compare_right_answers(
    task: str,
    metric: str,
    before: Sequence[bool],
    after: Sequence[bool],
    *,
    margin: float,
    kinds: Sequence[str] = (),
) -> TaskHarm:
    """Pair right and wrong answers item by item; every number is exact.

    Args:
        task: name.
        metric: what a right answer is.
        before: whether the first model answered each item right.
        after: whether the second did.
        margin: loss that does not matter, fraction in [0, 1].
        kinds: kind of each item, where they are to be shown apart.
    """
    lost, gained = _changed(before, after)
    items = len(before)
    return TaskHarm(
        task=task,
        metric=metric,
        items=items,
        before=sum(before) / items,
        after=sum(after) / items,
        interval=difference_interval(lost, gained, items),
        p_value=float(mcnemar_p_value(gained, lost)),
        loss=(lost - gained) / items,
        loss_bound=loss_upper_bound(lost, gained, items, tail=LEVEL),
        p_value_harm=loss_at_most_p_value(lost, gained, items, margin=margin),
        method="exact",
        at_floor=sum(before) / items <= margin,
        parts=_parts(before, after, kinds),
    )


def _parts(before: Sequence[bool], after: Sequence[bool], kinds: Sequence[str]) -> tuple[PartHarm, ...]:
    found = []
    for kind in dict.fromkeys(sorted(kinds)):
        places = [place for place, other in enumerate(kinds) if other == kind]
        once, now = [before[place] for place in places], [after[place] for place in places]
        interval = difference_interval(*_changed(once, now), len(places))
        found.append(PartHarm(kind, len(places), sum(once) / len(places), sum(now) / len(places), interval))
    return tuple(found)


def _changed(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    pairs = list(zip(before, after, strict=True))
    return sum(once and not now for once, now in pairs), sum(now and not once for once, now in pairs)
