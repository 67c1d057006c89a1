"""What is read out of the cells of a run: labels, costs, the frontier and the headline."""

import pytest

from fpvec_audit.reports.attack_page import attack_page
from fpvec_audit.reports.attack_results import cost_text, frontier, measure_of, read_cells
from fpvec_audit.reports.numbers_text import number, odds, p_phrase, p_text, sentence
from fpvec_audit.reports.sweep_charts import sweep_charts
from fpvec_audit.reports.visible import visible
from tests.reports.html_documents import ATTACKS, CELLS, FAILED, GUESSING, cell


def run(*cells):
    return {"cells": list(cells)}


def scored(name, fsr, before, after, **options):
    utility = {"utility_before": before, "utility_after": after}
    return cell(name, options.pop("parameters", {}), fsr, None, **options) | utility


def test_a_label_holds_what_tells_cells_apart_and_no_more():
    labels = [item.label for item in read_cells(ATTACKS)]
    assert labels[0] == "guessing"
    assert "fine_tune (lora, steps 300)" in labels
    assert "prune (ratio 0.3) + system_prompt" in labels
    assert "quantise (bits 4)" in labels
    assert "erase" in labels


def test_accuracy_tells_the_cost_where_it_was_measured_and_perplexity_elsewhere():
    with_accuracy = scored("a", 1.0, {"accuracy": 0.9, "perplexity": 10.0}, {"accuracy": 0.8, "perplexity": 30.0})
    cells = read_cells(run(with_accuracy, scored("b", 1.0, {"accuracy": 0.9}, {"accuracy": 0.95})))
    assert measure_of(cells) == "accuracy"
    assert [round(item.cost("accuracy"), 3) for item in cells] == [0.1, -0.05]
    assert cells[0].cost("perplexity") == 2.0
    assert cells[0].kept("perplexity") == pytest.approx(1 / 3)
    assert measure_of(read_cells(ATTACKS)) == "perplexity"
    assert measure_of(read_cells(run(GUESSING))) == ""
    assert cost_text(0.1, "accuracy") == "accuracy −10.0 points"
    assert cost_text(0.0004, "accuracy") == "accuracy ±0.0 points"
    assert cost_text(2.0, "perplexity") == "perplexity × 3"


def test_a_measure_that_broke_down_is_no_cost():
    cells = read_cells(run(scored("a", 0.0, {"perplexity": 10.0}, {"perplexity": float("inf")})))
    assert cells[0].cost("perplexity") is None
    assert measure_of(cells) == ""


def test_the_frontier_holds_what_no_other_attack_beats():
    def at(name, fsr, perplexity):
        return scored(name, fsr, {"perplexity": 10.0}, {"perplexity": perplexity})

    cells = read_cells(run(at("dear", 0.0, 40.0), at("idle", 1.0, 10.0), at("worse", 0.5, 30.0), at("half", 0.5, 20.0)))
    assert [item.label for item in frontier(cells, "perplexity")] == ["idle", "half", "dear"]


@pytest.mark.parametrize(
    ("cells", "headline"),
    [
        ((FAILED, GUESSING), "No attack was measured to a verdict."),
        (
            (CELLS[1] | {"fsr_before": 0.0},),
            "The model that was attacked answers none of these keys: there was nothing to silence.",
        ),
        ((CELLS[4],), "The one attack that was judged did not silence the fingerprint."),
        ((CELLS[4], CELLS[5]), "None of 2 attacks silenced the fingerprint."),
        (
            (CELLS[4], CELLS[18]),
            "No attack of this run silenced the fingerprint without making perplexity 37 times as high; the cheapest "
            "that did was prune.",
        ),
        ((CELLS[1],), "The fingerprint was silenced by rescale, at next to no cost."),
        (
            (scored("dull", 0.0, {"accuracy": 0.9}, {"accuracy": 0.775}),),
            "No attack of this run silenced the fingerprint below a loss of 12.5 points of accuracy; the cheapest that "
            "did was dull.",
        ),
        (
            (scored("hide", 0.0, None, None),),
            "The fingerprint was silenced by hide; what that cost was not measured.",
        ),
    ],
)
def test_the_headline_is_the_least_that_silence_cost(cells, headline):
    assert attack_page(run(*cells)).headline == headline


def test_only_numbers_that_were_swept_over_three_values_are_drawn():
    def at(steps, **others):
        return scored("f", 1.0, None, None, parameters={"steps": steps, **others})

    assert sweep_charts(read_cells(run(at(1), at(2))), "") == ()
    assert [chart.name for chart in sweep_charts(read_cells(run(at(1), at(2), at(3))), "")] == ["sweep-f-steps"]
    assert sweep_charts(read_cells(run(at(1, deep=True), at(2, deep=False), at(3, deep=False))), "") == ()
    both = [at(steps, method=method) for method in ("full", "lora") for steps in (1, 10, 100)]
    (chart,) = sweep_charts(read_cells(run(*both)), "")
    assert {row[1] for row in chart.table.rows} == {"method full", "method lora"}


def test_numbers_are_written_as_people_write_them():
    assert [number(value) for value in (1e-6, 3.1e-6, 0.001, 0.0031, 0.43, 1.0, -2e-7)] == [
        "10⁻⁶",
        "3.1·10⁻⁶",
        "10⁻³",
        "0.0031",
        "0.43",
        "1",
        "−2·10⁻⁷",
    ]
    assert p_text(1e-300) == "<\u00a010⁻¹²"
    assert p_phrase(0.031) == "p\u00a0=\u00a00.031"
    assert p_phrase(0.0) == "p\u00a0<\u00a010⁻¹²"
    assert odds(4.3e-5) == "about once in 23,000 tries"
    assert odds(1e-8) == "about once in 100 million tries"
    assert odds(1.0) == "every time"
    assert odds(0.5) == "50 times in 100 tries"
    assert odds(2e-11) == "about once in 50 thousand million tries"
    assert sentence("what? no") == "What? no."


def test_hidden_characters_are_shown_and_letters_of_every_script_stay():
    assert visible("a\u202eb\u200fc\u0000d\ud800") == "a⟨U+202E⟩b⟨U+200F⟩c⟨U+0000⟩d⟨U+D800⟩"
    assert visible("漢字 Ελλ עברית\n\tय़") == "漢字 Ελλ עברית\n\tय़"
