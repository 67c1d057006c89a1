"""The page about marks is what was simulated, and the simulation names colluders and nobody else."""

import json

from benchmarks.tracing_codes import BEGIN, DOCS, END, RESULTS, SETTINGS, markdown, simulate, simulate_many

DOCUMENT = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_what_was_simulated():
    text = DOCS.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == markdown(DOCUMENT)


def test_published_innocents_stay_within_the_promise():
    for outcome in DOCUMENT["outcomes"]:
        if outcome["assumption_held"]:
            assert outcome["innocent_named"] == 0, outcome
    for outcome in DOCUMENT["many"]["outcomes"]:
        expected = outcome["bound"] * outcome["trials"]
        assert outcome["innocent_named"] <= expected + 4 * expected**0.5 + 1e-9, outcome  # four standard deviations


def test_small_simulation_names_colluders():
    outcomes = list(simulate(SETTINGS[0], 3, 1))
    whole = [outcome for outcome in outcomes if outcome.attack == "average, weights" and not outcome.missed]
    assert all(outcome.all_named == 3 for outcome in whole if outcome.assumption_held)
    many, facts = simulate_many(300, 2, 1)
    assert facts["licensees"] == 300
    assert all(outcome.colluder_named == 2 for outcome in many if outcome.attack == "one copy")
