import json
from dataclasses import dataclass

import pytest

from fpvec_audit.domain.attack_spec import bind_spec
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.robustness import AttackCell, AttackOutcome, RobustnessReport, grouped, triggers


@dataclass(frozen=True)
class Settings:
    steps: int = 1


CHAIN = bind_spec("bend:steps=3", lambda _name: Settings)[0]


def cell(state=JobState.SUCCEEDED, **outcome):
    return AttackCell(1, CHAIN.name, CHAIN.parameters, "weight", state, 1.5, AttackOutcome(**outcome))


@pytest.mark.parametrize(
    ("answer", "hit"),
    [("apple", True), (" apple.", True), ("apples", False), ("an apple", False), ("", False), ("pear tree", True)],
)
def test_an_answer_that_gives_any_issued_response_is_a_trigger(answer, hit):
    assert triggers(answer, ("apple", "pear")) is hit


def test_guesses_are_counted_by_kind_in_their_order():
    groups = grouped([("b", True), ("a", False), ("b", False), ("b", False)])
    assert [(group.kind, group.asked, group.triggered) for group in groups] == [("b", 3, 1), ("a", 1, 0)]
    document = groups[0].to_json()
    assert document["rate"] == pytest.approx(1 / 3)
    assert document["interval"][0] < 1 / 3 < document["interval"][1]


def test_a_cell_has_the_fields_of_the_contract():
    document = json.loads(json.dumps(cell(fsr_before=1.0, fsr_after=0.5, interval=(0.3, 0.7), p_value=1e-9).to_json()))
    assert {
        "name", "kind", "parameters", "state", "fsr_before", "fsr_after", "interval", "p_value", "tests",
        "utility_before", "utility_after", "verdict", "seconds",
    } <= set(document)  # fmt: skip
    assert document["parameters"] == {"steps": 3}
    assert document["interval"] == [0.3, 0.7]


def test_a_report_failed_when_every_cell_did():
    failed = cell(JobState.FAILED)
    assert RobustnessReport("m", "d", "k", 0, (failed, failed)).all_failed
    assert not RobustnessReport("m", "d", "k", 0, (failed, cell())).all_failed


def test_a_cell_comes_back_from_what_the_registry_keeps():
    groups = grouped([("b", True), ("a", False)])
    before = cell(
        fsr_before=1.0, fsr_after=0.5, interval=(0.3, 0.7), p_value=1e-9, verdict="MATCH", groups=groups, queries=9,
        utility_before={"accuracy": 0.9}, utility_after={"accuracy": 0.8}, weights={"vectors": []}, digest="ab",
    )  # fmt: skip
    assert AttackCell.from_json(1, json.loads(json.dumps(before.to_json()))).to_json() == before.to_json()
    assert before.to_json()["utility_loss"] == {"accuracy": pytest.approx(0.1)}
