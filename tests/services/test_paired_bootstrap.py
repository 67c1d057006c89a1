from statistics import fmean

import numpy
import pytest

from fpvec_audit.domain.harm_report import compare_right_answers
from fpvec_audit.services.paired_bootstrap import compare_scores, ratio_interval
from fpvec_audit.services.task_scores import Metric, TaskScores


def perplexity(values):
    return float(numpy.exp(-sum(log for log, _ in values) / sum(words for _, words in values)))


ACCURACY = Metric("acc", fmean, higher_is_better=True, ratio=False)
PERPLEXITY = Metric("word_perplexity", perplexity, higher_is_better=False, ratio=True)


def scores(metric, values):
    return TaskScores(task="t", metric=metric, values=tuple(values), prompts=(), kinds=(), log=())


def test_bootstrap_agrees_with_the_exact_bounds_where_both_can_be_had():
    before = [True] * 1600 + [False] * 400
    after = [True] * 1540 + [False] * 60 + [True] * 30 + [False] * 370
    exact = compare_right_answers("t", "acc", before, after, margin=0.03)
    drawn = compare_scores(scores(ACCURACY, map(float, before)), scores(ACCURACY, map(float, after)), margin=0.03)
    assert drawn.loss == pytest.approx(exact.loss)
    assert drawn.loss_bound == pytest.approx(exact.loss_bound, abs=0.002)
    assert drawn.loss_bound <= exact.loss_bound  # the exact one pays for its certainty
    assert drawn.interval == pytest.approx(exact.interval, abs=0.003)
    assert drawn.p_value < 0.01


def test_perplexities_are_compared_by_their_ratio_item_by_item():
    generator = numpy.random.default_rng(1)
    words = generator.integers(20, 80, size=200)
    logs = -generator.normal(3, 1, size=200) * words  # documents differ by far more than the models do
    before = scores(PERPLEXITY, zip(logs, words, strict=True))
    after = scores(PERPLEXITY, zip(logs - 0.01 * words, words, strict=True))
    drawn = compare_scores(before, after, margin=0.03)
    assert drawn.loss == pytest.approx(0.01005, abs=1e-5)
    assert drawn.loss_bound == pytest.approx(0.01005, abs=1e-5)
    assert drawn.p_value_harm == 1.0
    assert compare_scores(before, after, margin=0.005).p_value_harm < 0.01
    assert not drawn.at_floor


def test_interval_of_a_ratio_of_sums_holds_it():
    surplus, tokens = [0.1, 0.3, 0.2, 0.4] * 20, [10.0, 20.0, 30.0, 40.0] * 20
    low, high = ratio_interval(surplus, tokens, lambda one, two: one / two)
    assert low < sum(surplus) / sum(tokens) < high
