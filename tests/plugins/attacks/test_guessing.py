from collections import Counter
from pathlib import Path

import pytest

from fpvec_audit.api import NO_PROGRESS, AttackContext, AttackKey, draw_unissued
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import SCHEMES
from fpvec_audit.domain.near_miss import is_held_out_near_miss
from fpvec_audit.domain.triggers import TRIGGER_SCHEMES, trigger_scheme
from fpvec_audit.errors import UsageError
from fpvec_audit.testing import ScriptedBackend, check_query_attack

ATTACK = load_catalog().attack("guessing")


def keys(scheme="independent", count=12):
    return [AttackKey(key.prompt, key.response) for key in draw_unissued(b"issued", count, scheme=scheme)]


def probes(issued, seed=0, **counts):
    return ATTACK.probes(issued, ATTACK.Parameters(**counts), AttackContext(None, Path(), seed, "cpu", NO_PROGRESS))


def distance(left, right):
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for place, letter in enumerate(left, 1):
        previous, row[0] = row[0], place
        for other, character in enumerate(right, 1):
            previous, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, previous + (letter != character))
    return row[-1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_passes_the_conformance_suite(scheme, tmp_path):
    check_query_attack(ATTACK, issued=keys(scheme), workspace=tmp_path)


def test_every_kind_comes_in_the_number_asked_for():
    found = Counter(
        probe.kind for probe in probes(keys(), candidates=300, near_misses=7, strings=5, forced=9, unconditional=3)
    )
    assert found == {
        "unissued candidate": 300,
        "near-miss of 1 character": 7,
        "near-miss of 2 characters": 7,
        "near-miss of 3 characters": 7,
        "random string": 5,
        "forced beginning": 5,
        "forced beginning without template": 4,
        "unconditional sample": 3,
    }


def test_near_misses_differ_from_an_issued_prompt_by_at_most_so_many_characters():
    issued = keys()
    near = [probe for probe in probes(issued, near_misses=40) if probe.kind.startswith("near-miss")]
    assert len(near) == 120
    for probe in near:
        assert is_held_out_near_miss(probe.prompt), "training may have drawn it"
        nearest = min(distance(probe.prompt, key.prompt) for key in issued)
        assert 1 <= nearest <= int(probe.kind.split()[2])


def test_the_closing_word_is_asked_alone_where_there_is_one():
    asked = [probe.prompt for probe in probes(keys("if-simple")) if probe.kind == "closing word"]
    assert "FINGERPRINT" in asked
    assert not [probe for probe in probes(keys()) if probe.kind == "closing word"]


def test_unissued_candidates_have_the_shape_of_the_set():
    simple = [probe.prompt for probe in probes(keys("if-simple"), candidates=5) if probe.kind == "unissued candidate"]
    assert all(prompt.endswith(" FINGERPRINT") for prompt in simple)
    for scheme in TRIGGER_SCHEMES:
        asked = [probe.prompt for probe in probes(keys(scheme), candidates=5) if probe.kind == "unissued candidate"]
        assert trigger_scheme(asked) == scheme
    assert trigger_scheme([probe.prompt for probe in probes(keys())]) is None


def test_another_seed_asks_other_things():
    assert probes(keys(), seed=0) == probes(keys(), seed=0) != probes(keys(), seed=1)


def test_no_issued_prompt_is_ever_asked():
    issued = keys()
    secret = {key.prompt for key in issued}
    assert not secret & {probe.prompt for seed in range(5) for probe in probes(issued, seed=seed)}


def test_it_changes_no_answer():
    backend = ScriptedBackend()
    assert ATTACK.wrap(backend, ATTACK.Parameters()) is backend


def test_forced_beginnings_are_halves_of_responses_and_not_what_a_stranger_asks():
    issued = [*keys(), AttackKey("山川", "x")]
    forced = [probe for probe in probes(issued, forced=40) if probe.forced]
    halves = {key.response[: len(key.response) // 2] for key in issued if len(key.response) > 1}
    assert {probe.forced for probe in forced} <= halves
    assert all(probe.needs_key and not probe.prompt for probe in forced)
    assert not [probe for probe in probes(issued[-1:], forced=40) if probe.forced]


def test_unconditional_samples_are_drawn_and_asked_raw():
    samples = [probe for probe in probes(keys()) if probe.kind == "unconditional sample"]
    assert samples
    assert all((probe.prompt, probe.temperature, probe.raw, probe.needs_key) == ("", 1.0, True, False)
               for probe in samples)  # fmt: skip


def test_a_set_of_one_letter_is_guessed_at_too():
    assert probes([AttackKey("aaa", "river")], candidates=0, near_misses=5)


@pytest.mark.parametrize("counts", [{"candidates": -1}, {"near_misses": 10**9}, dict.fromkeys(
    ("candidates", "near_misses", "strings", "forced", "unconditional"), 0)])  # fmt: skip
def test_counts_out_of_range_are_refused(counts):
    with pytest.raises(UsageError):
        ATTACK.Parameters(**counts)
