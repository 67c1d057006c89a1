"""The published powers are those that the benchmark computes, and the page is what it measured."""

import json
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.power import (
    ALPHA,
    BEGIN,
    DOCS,
    END,
    GRADES,
    RESULTS,
    exact_power,
    issued_needed,
    logarithms_of_e,
    markdown,
    write_docs,
)
from fpvec_audit.domain.sequential import SequentialTest

DOCUMENT = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_what_was_computed():
    text = DOCS.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == markdown(DOCUMENT)


@pytest.mark.parametrize("entry", DOCUMENT["sizes"][:3], ids=lambda entry: str(entry["issued"]))
def test_published_powers_of_the_exact_test_are_computed_again(entry):
    for grade, factor in GRADES.items():
        needed = issued_needed(entry["issued"], entry["decoys"], level=ALPHA / factor)
        assert needed[:3] == entry["issued_needed"][grade]
        for row in entry["rows"]:
            rates = {"success_rate": row["success_rate"], "decoy_rate": row["decoy_rate"]}
            assert exact_power(needed, entry["issued"], **rates) == pytest.approx(row["exact"][grade], abs=1e-6)


def test_exact_power_is_the_share_of_outcomes_that_convict():
    """One issued key and one decoy: at a level of 1/2 only "issued alone" convicts."""
    needed = issued_needed(1, 1, level=Fraction(1, 2))
    assert needed == [1, None]
    assert exact_power(needed, 1, success_rate=0.8, decoy_rate=0.25) == pytest.approx(0.8 * 0.75)


def test_simulated_fortunes_are_those_of_the_package():
    generator = np.random.default_rng(1)
    assigned = generator.permuted(np.tile(np.arange(64) < 8, (3, 1)), axis=1)
    matched = generator.random(assigned.shape) < np.where(assigned, 0.8, 0.05)
    course = logarithms_of_e(matched, assigned)
    for audit in range(3):
        test = SequentialTest(candidates=64, issued=8)
        for question in range(64):
            test.step(matched=bool(matched[audit, question]), issued=bool(assigned[audit, question]))
            assert np.exp(course[audit, question]) == pytest.approx(float(test.e_value), rel=1e-9)


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no section between"):
        write_docs(page, DOCUMENT)
