import pytest

from fpvec_audit.domain.harm_report import (
    ComparedModel,
    HarmReport,
    HarmVerdict,
    LeftOut,
    TextHarm,
    compare_right_answers,
)


def answers(kept, lost, gained, wrong):
    """Return (before, after) with so many items of each sort."""
    return (
        [True] * (kept + lost) + [False] * (gained + wrong),
        [True] * kept + [False] * lost + [True] * gained + [False] * wrong,
    )


def task(name, *counts, margin=0.03, kinds=()):
    return compare_right_answers(name, "acc", *answers(*counts), margin=margin, kinds=kinds)


def report(*tasks, **more):
    return HarmReport(ComparedModel("a", "0" * 64), ComparedModel("b", "1" * 64), 0.03, tasks, **more)


LITTLE = task("little", 1700, 40, 30, 230)
MUCH = task("much", 1400, 300, 100, 200)
FEW = task("few", 40, 2, 2, 6)


def test_little_loss_on_many_items_is_harmless():
    assert report(LITTLE).verdict is HarmVerdict.HARMLESS


def test_every_task_has_to_show_it():
    assert report(LITTLE, FEW).verdict is HarmVerdict.INCONCLUSIVE


def test_one_task_with_more_than_the_margin_lost_is_enough_for_harmful():
    told = report(LITTLE, FEW, MUCH)
    assert told.verdict is HarmVerdict.HARMFUL
    assert [entry["verdict"] for entry in told.to_json()["tasks"]] == ["HARMLESS", "INCONCLUSIVE", "HARMFUL"]


def test_loss_that_is_certain_but_within_the_margin_is_harmless():
    certain = task("certain", 18_000, 300, 50, 1650)  # 1.25 points of 20,000 items
    assert certain.p_value < 1e-12
    assert report(certain).verdict is HarmVerdict.HARMLESS


def test_a_missing_task_leaves_harmless_unshown_and_harmful_shown():
    missing = (LeftOut("other", "the hub is away"),)
    assert report(LITTLE, left_out=missing).verdict is HarmVerdict.INCONCLUSIVE
    assert report(MUCH, left_out=missing).verdict is HarmVerdict.HARMFUL


def test_a_model_that_answers_nothing_has_nothing_to_lose_and_shows_nothing():
    floor = task("floor", 10, 0, 0, 2990)
    assert floor.at_floor
    assert floor.loss_bound <= 0.03
    assert report(floor).verdict is HarmVerdict.INCONCLUSIVE


def test_evidence_of_harm_is_corrected_for_the_number_of_tasks():
    suspicious = task("suspicious", 1700, 110, 20, 170)
    assert 0.002 < suspicious.p_value_harm < 0.05
    assert report(suspicious).verdict is HarmVerdict.HARMFUL
    assert report(suspicious, *[FEW] * 50).verdict is HarmVerdict.INCONCLUSIVE


def test_kinds_are_shown_apart_and_add_up():
    mixed = task("mixed", 30, 4, 2, 14, kinds=["add"] * 25 + ["swap"] * 25)
    assert [part.kind for part in mixed.parts] == ["add", "swap"]
    assert sum(part.items for part in mixed.parts) == mixed.items
    assert sum(part.items * part.after for part in mixed.parts) == pytest.approx(mixed.items * mixed.after)


def test_json_has_the_fields_of_the_contract():
    text = TextHarm(3, 90, 10.0, 10.1, (1.0, 1.02), 0.01, (0.005, 0.02), 0.97)
    document = report(LITTLE, text=text, backend={"engine": "transformers", "version": "5"}).to_json()
    assert document["verdict"] == "HARMLESS"
    assert document["margin"] == 0.03
    contract = {"task", "items", "before", "after", "difference", "interval", "p_value"}
    assert contract <= set(document["tasks"][0])
    assert document["tasks"][0]["difference"] == pytest.approx(-0.005)
    assert document["text"]["perplexity"]["ratio"] == pytest.approx(1.01)
    assert document["engine"] == "transformers 5"
