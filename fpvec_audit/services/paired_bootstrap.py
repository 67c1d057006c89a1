"""Two models' scores on the same items, resampled together: for metrics that are not right-or-wrong.

Items are drawn with replacement, each with the scores of both models, so that what makes an item hard cancels. The
percentiles of the loss over the resamples are its bounds. Their level holds approximately, better with more items;
docs/harmlessness.md has measured figures.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.harm_report import LEVEL, TaskHarm
from fpvec_audit.services.task_scores import TaskScores

if TYPE_CHECKING:
    import numpy

RESAMPLES = 10_000
"""Resamples of a mean; the smallest p-value is 1 in so many."""

AGGREGATED_RESAMPLES = 1_000
"""Resamples where a metric has an aggregation of its own, which has to be called for each."""

_SEED = 20_409
_CHUNK = 2_000_000


def compare_scores(before: TaskScores, after: TaskScores, *, margin: float) -> TaskHarm:
    """Compare two models on one task by the paired bootstrap.

    Args:
        before: scores of the first model.
        after: scores of the second, of the same items.
        margin: loss that does not matter, in units of the metric; relative for perplexities.
    """
    import numpy

    metric = before.metric
    draws = _resampled(before.values, after.values, metric.aggregate)
    one, two = float(metric.aggregate(before.values)), float(metric.aggregate(after.values))

    def loss(first: Any, second: Any) -> Any:
        if metric.ratio:
            return second / first - 1 if not metric.higher_is_better else 1 - second / first
        return first - second if metric.higher_is_better else second - first

    losses, differences = loss(draws[0], draws[1]), draws[1] - draws[0]
    count = len(losses)
    below, above = (int((differences <= 0).sum()), int((differences >= 0).sum()))
    return TaskHarm(
        task=before.task,
        metric=metric.name,
        items=len(before.values),
        before=one,
        after=two,
        interval=tuple(float(end) for end in numpy.quantile(differences, [0.025, 0.975])),  # type: ignore[arg-type]
        p_value=min(1.0, 2 * (1 + min(below, above)) / (1 + count)),
        loss=float(loss(one, two)),
        loss_bound=float(numpy.quantile(losses, 1 - LEVEL)),
        p_value_harm=(1 + int((losses <= margin).sum())) / (1 + count),
        method="bootstrap",
        at_floor=metric.higher_is_better and not metric.ratio and one <= margin,
    )


def ratio_interval(
    before: Sequence[float],
    after: Sequence[float],
    statistic: "Callable[[numpy.ndarray, numpy.ndarray], numpy.ndarray]",
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of two sums over the same items.

    Args:
        before: summand of the first sum, per item.
        after: summand of the second, per item.
        statistic: (first sums, second sums), one of each a resample → statistic of each resample.
    """
    import numpy

    first, second = _sums(before), _sums(after)
    low, high = numpy.quantile(statistic(first, second), [0.025, 0.975])
    return float(low), float(high)


def _resampled(
    before: Sequence[Any], after: Sequence[Any], aggregate: Callable[[Sequence[Any]], float]
) -> "tuple[numpy.ndarray, numpy.ndarray]":
    """Return the task's score of both models in every resample."""
    import numpy

    if all(isinstance(value, float) for value in (*before, *after)) and _is_mean(aggregate, before):
        return _sums(before) / len(before), _sums(after) / len(after)
    generator = numpy.random.default_rng(_SEED)
    first, second = [], []
    for _ in range(AGGREGATED_RESAMPLES):
        places = generator.integers(len(before), size=len(before))
        first.append(aggregate([before[place] for place in places]))
        second.append(aggregate([after[place] for place in places]))
    return numpy.array(first, float), numpy.array(second, float)


def _is_mean(aggregate: Callable[[Sequence[Any]], float], values: Sequence[float]) -> bool:
    mean = sum(values) / len(values)
    return abs(aggregate(values) - mean) <= 1e-9 * max(1.0, abs(mean))


def _sums(values: Sequence[float]) -> "numpy.ndarray":
    """Return the sum of each resample; equal places are drawn for every list of equal length."""
    import numpy

    generator = numpy.random.default_rng(_SEED)
    known, sums = numpy.asarray(values, float), []
    rows = max(1, _CHUNK // len(known))
    for start in range(0, RESAMPLES, rows):
        places = generator.integers(len(known), size=(min(rows, RESAMPLES - start), len(known)))
        sums.append(known[places].sum(axis=1))
    return numpy.concatenate(sums)
