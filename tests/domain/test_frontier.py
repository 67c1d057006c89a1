from math import inf, nan

import pytest

from fpvec_audit.domain.frontier import Priced, common_measure, find_frontier, unbeaten, utility_loss


def attack(number, rate, after, verdict="MATCH", *, measure="accuracy", before=0.9):
    return Priced(
        number, f"attack {number}", rate, verdict, {measure: before}, {} if after is None else {measure: after}
    )


def test_loss_counts_for_whoever_attacks():
    assert utility_loss("accuracy", {"accuracy": 0.9}, {"accuracy": 0.8}) == pytest.approx(0.1)
    assert utility_loss("perplexity", {"perplexity": 10.0}, {"perplexity": 12.0}) == pytest.approx(0.2)
    assert utility_loss("accuracy", {}, {"accuracy": 0.8}) is None


@pytest.mark.parametrize("broken", [inf, nan])
def test_a_measure_that_broke_down_is_no_loss(broken):
    assert utility_loss("perplexity", {"perplexity": 10.0}, {"perplexity": broken}) is None


def test_the_cheapest_attack_that_silenced_is_the_headline():
    attacks = [
        attack(1, 1.0, 0.9),
        attack(2, 0.0, 0.3, "NO_MATCH"),
        attack(3, 0.0, 0.5, "NO_MATCH"),
        attack(4, 0.1, 0.8, "INCONCLUSIVE"),
        attack(5, 0.0, None, "NO_MATCH"),
    ]
    found = find_frontier(attacks)
    assert (found.measure, found.judged, found.silenced) == ("accuracy", 5, 3)
    assert found.no_match.number == 3
    assert found.low_rate.number == 4
    assert [item.number for item in found.best] == [1, 4, 3]
    document = found.to_json()
    assert document["no_match"] == {
        "cell": 3, "name": "attack 3", "fsr": 0.0, "verdict": "NO_MATCH", "loss": pytest.approx(0.4),
        "before": 0.9, "after": 0.5,
    }  # fmt: skip
    assert document["fsr_below_quarter"]["cell"] == 4
    assert [item["cell"] for item in document["pareto"]] == [1, 4, 3]


def test_nothing_silenced_and_nothing_measured_is_said():
    found = find_frontier([attack(1, 1.0, None)]).to_json()
    assert (found["measure"], found["no_match"], found["fsr_below_quarter"], found["pareto"]) == (None, None, None, [])
    assert find_frontier([]).to_json()["judged"] == 0


def test_of_equal_losses_what_leaves_least_is_unbeaten():
    attacks = [attack(1, 0.5, 0.8), attack(2, 0.2, 0.8), attack(3, 0.2, 0.7), attack(4, 0.9, 0.95)]
    assert [item.number for item in unbeaten(attacks, "accuracy")] == [4, 2]


def test_the_measure_of_most_attacks_is_read_and_accuracy_where_both_tell_as_much():
    both = Priced(1, "a", 1.0, "MATCH", {"perplexity": 9.0, "accuracy": 0.9}, {"perplexity": 10.0, "accuracy": 0.9})
    assert common_measure([both]) == "accuracy"
    assert common_measure([both, attack(2, 1.0, 10.0, measure="perplexity", before=9.0)]) == "perplexity"
    assert common_measure([attack(1, 1.0, None)]) == ""
