"""The published page of families of marks is what was measured."""

import json
from pathlib import Path

from benchmarks.marks_report import MARKERS, judged, sections, write_docs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "marks-training.md"


def results():
    names = ("marks.json", "marks_memory.json")
    return [json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8")) for name in names]


def test_page_shows_what_the_results_say(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_docs(page, *results())
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert all(marker.format(name) in page.read_text() for name, _ in sections(*results()) for marker in MARKERS)


def test_rounds_take_at_most_half_as_much_again_as_a_single_vector():
    _, memory = results()
    (rounds,) = (row for row in memory["trainings"] if row["kind"] == "rounds")
    assert memory["parameters"] >= 50e6
    assert rounds["times_single"] <= 1.5


def test_missed_targets_are_bold():
    assert judged(1, 100, 0.01) == "1 of 100"
    assert judged(2, 100, 0.01) == "**2 of 100**"
