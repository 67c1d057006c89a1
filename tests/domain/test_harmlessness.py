import pytest

from fpvec_audit.domain.harmlessness import Evaluation, compare
from fpvec_audit.errors import UsageError


def evaluation(model, right, log_likelihoods=(-10.0, -20.0), tokens=(5, 10)):
    return Evaluation(model, {"own": tuple(right)}, tuple(log_likelihoods), tokens)


def test_comparison_pairs_items_and_not_totals():
    before = evaluation("a", [True] * 60 + [False] * 40)
    after = evaluation("b", [True] * 50 + [False] * 10 + [False] * 40)
    harm = compare(before, after)
    (task,) = harm.tasks
    assert task.difference == pytest.approx(-0.10)
    assert task.p_value == pytest.approx(2 / 2**10)  # ten lost, none gained
    assert task.interval[0] < -0.10 < task.interval[1] < 0


def test_perplexity_is_per_token():
    harm = compare(evaluation("a", [True]), evaluation("b", [True], log_likelihoods=(-13.0, -20.0)))
    assert harm.before.perplexity == pytest.approx(2.718281828**2)
    assert harm.perplexity_ratio == pytest.approx(2.718281828**0.2)


def test_sides_that_were_asked_different_items_are_refused():
    with pytest.raises(UsageError, match="not asked the same items"):
        compare(evaluation("a", [True]), evaluation("b", [True, False]))


def test_json_has_the_fields_of_the_contract():
    document = compare(evaluation("a", [True]), evaluation("b", [False])).to_json()
    assert document["difference"]["accuracy"] == -1.0
    assert set(document["tasks"][0]) == {"task", "items", "before", "after", "difference", "interval", "p_value"}
