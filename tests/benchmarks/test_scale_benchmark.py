"""The published page on scale is what was computed, from what was measured, and the model is held to known results."""

import json
from pathlib import Path

import pytest

from benchmarks.scale import Station, computed, most, rate, read_inputs, saturation, simulated
from benchmarks.scale_report import MARKERS, sections, write_docs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"


def results():
    names = ("scale.json", "scale_registry.json")
    return [json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8")) for name in names]


def test_page_shows_what_the_results_say(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_docs(page, *results())
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert all(marker.format(name) in page.read_text() for name, _ in sections(*results()) for marker in MARKERS)


def test_results_follow_from_what_was_measured():
    scale, _ = results()
    found = computed(read_inputs())
    assert {name: scale[name] for name in found} == found


@pytest.mark.parametrize("nodes", [1, 5])
def test_analysis_lies_below_the_bound_and_reaches_it_in_the_limit(nodes):
    places = [Station("node", 2.0, shared=False), Station("store", 0.1, shared=True)]
    few, many = rate(places, nodes, under_way=1), rate(places, nodes, under_way=400)
    assert few < many <= most(places, nodes)
    assert many == pytest.approx(most(places, nodes), rel=0.01)
    assert rate(places, 1, under_way=1) == pytest.approx(1 / 2.1)  # one item meets nobody


def test_more_nodes_than_what_is_shared_takes_do_nothing():
    places = [
        Station("node", 2.0, shared=False),
        Station("store", 0.1, shared=True),
        Station("lock", 0.01, shared=True),
    ]
    (first, nodes, per_second), _ = saturation(places)
    assert (first, nodes, per_second) == ("store", pytest.approx(20), pytest.approx(10))
    assert rate(places, 200) == pytest.approx(10, rel=0.01)


def test_simulation_of_one_item_at_a_time_takes_the_sum_of_its_times():
    places = [Station("node", 2.0, shared=False), Station("store", 0.5, shared=True)]
    assert simulated(places, 1, 10, under_way=1) == pytest.approx(1 / 2.5)
    assert simulated(places, 8, 400) == pytest.approx(2.0, rel=0.05)  # the store is full
