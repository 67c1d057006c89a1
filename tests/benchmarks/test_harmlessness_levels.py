"""The published error rates are those that the benchmark computes, and the page is what it measured."""

import json

import pytest

from benchmarks.harmlessness_levels import BEGIN, DOCS, END, RESULTS, cell, tables

DOCUMENT = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_what_was_measured():
    text = DOCS.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == tables(DOCUMENT).strip()


def test_no_cell_says_harmless_too_often():
    assert len(DOCUMENT["cells"]) >= 50
    assert max(entry["at_margin"]["exact"] for entry in DOCUMENT["cells"]) <= 0.05


@pytest.mark.parametrize("entry", [entry for entry in DOCUMENT["cells"] if entry["items"] == 200][:2])
def test_a_published_cell_is_measured_again(entry):
    again = cell(entry["items"], entry["discordant"])
    assert again["at_margin"] == pytest.approx(entry["at_margin"], abs=1e-9)
