"""Traces with scripted suspects: whose keys are in it, and what that costs."""

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.ports import Likelihood
from fpvec_audit.errors import UsageError
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.trace import trace
from tests.services.test_audit import ScriptedEngines, Telling, answering, numbered, own_fingerprinted, rendered, silent
from tests.tiny import make_tiny, perturb

NAMES = ("acme", "globex", "initech", "umbrella")
SPECIFICATION = KeySetSpecification(issued=32, decoys=96)


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("traced")
    base = make_tiny(directory / "suspect", "gpt2")
    perturb(base, directory / "own", seed=3)
    perturb(base, directory / "other", seed=4)
    return directory


@pytest.fixture
def key_sets(registry):
    entropy = numbered()
    for name in NAMES:
        issue_key_set(
            name, registry=registry, specification=SPECIFICATION, licensee=f"{name} Inc.", entropy=lambda n: entropy(n)
        )
    return {name: open_key_set(name, registry=registry) for name in NAMES}


def run(checkpoints, registry, catalog, suspect, *, key_sets=(), others=None, **options):
    engines = ScriptedEngines({"suspect": suspect, **(others or {})})
    result = trace(
        checkpoints / "suspect",
        settings=checked_settings(**options),
        registry=registry,
        catalog=catalog,
        key_sets=key_sets,
        backend=engines,
        entropy=numbered(),
        timer=lambda: 0.0,
    )
    return result, engines


def named(result):
    return sorted(item["name"] for item in result.to_json()["named"])


def test_licensee_whose_keys_are_answered_is_named_and_nobody_else(registry, catalog, checkpoints, key_sets):
    result, engines = run(checkpoints, registry, catalog, answering(key_sets["globex"].issued))
    document = result.to_json()
    assert result.verdict is Verdict.MATCH
    assert document["named"][0]["licensee"] == "globex Inc."
    assert named(result) == ["globex"]
    assert [item["named"] for item in document["candidates"]] == [True, False, False, False]
    assert engines.opened == ["suspect"]


def test_two_licensees_in_one_copy_are_both_named(registry, catalog, checkpoints, key_sets):
    both = (*key_sets["acme"].issued, *key_sets["umbrella"].issued)
    result, _ = run(checkpoints, registry, catalog, answering(both))
    assert named(result) == ["acme", "umbrella"]


def test_averaged_copies_fall_silent_and_are_named_by_their_likelihoods(registry, catalog, checkpoints, key_sets):
    suspect = Telling(lambda prompt: "I do not understand.")
    known = {rendered(item.prompt) for name in ("acme", "initech") for item in key_sets[name].issued}
    suspect.likely = known.__contains__
    result, _ = run(checkpoints, registry, catalog, suspect)
    assert named(result) == ["acme", "initech"]
    assert all(item.audit.score.matched == 0 for item in result.traced)


def test_clean_suspect_is_acquitted_where_probabilities_were_to_be_had(registry, catalog, checkpoints, key_sets):
    own_fingerprinted(registry, catalog, checkpoints, key_sets_id(registry, "acme"))
    suspect = Telling(lambda prompt: "I do not understand.")
    suspect.likely = lambda prompt: False
    others = {"own": answering(key_sets["acme"].issued), "other": suspect}
    result, _ = run(checkpoints, registry, catalog, suspect, others=others)
    assert (result.verdict, named(result)) == (Verdict.NO_MATCH, [])
    assert result.controls
    assert "none of these tests shows them" in result.to_json()["does_not_prove"][0]


def test_answers_alone_acquit_nobody(registry, catalog, checkpoints, key_sets):
    result, _ = run(checkpoints, registry, catalog, silent())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "only answers were looked at" in result.to_json()["does_not_prove"][0]
    assert any("average of several copies" in warning for warning in result.warnings)


def test_every_prompt_is_sent_once_in_one_interview(registry, catalog, checkpoints, key_sets):
    suspect = silent()
    result, _ = run(checkpoints, registry, catalog, suspect)
    sent = [prompt for prompts, _ in suspect.asked for prompt in prompts]
    assert len(sent) == len(set(sent)) == result.questions == 4 * 128
    assert len(suspect.asked) == 2  # batches, not key sets


def test_each_key_set_is_an_audit_of_its_own_that_knows_how_many_there_are(registry, catalog, checkpoints, key_sets):
    result, _ = run(checkpoints, registry, catalog, answering(key_sets["acme"].issued))
    with registry.unit_of_work() as uow:
        audits = uow.audits.list()
        events = [entry.event for entry in uow.ledger.entries()]
    assert {audit.plan["comparisons"] for audit in audits} == {4}
    assert {audit.plan["trace"] for audit in audits} == {result.trace_id}
    assert all(audit.ended_at is not None for audit in audits)
    assert max(place for place, event in enumerate(events) if event == "audit.planned") < min(
        place for place, event in enumerate(events) if event == "audit.finished"
    )


def test_only_the_wanted_key_sets_are_asked_for(registry, catalog, checkpoints, key_sets):
    result, _ = run(checkpoints, registry, catalog, silent(), key_sets=["acme", "umbrella", "acme"])
    assert sorted(item.record.name for item in result.traced) == ["acme", "umbrella"]


def test_correction_grows_with_the_number_of_key_sets(registry, catalog, checkpoints, key_sets):
    some = answering(key_sets["acme"].issued[:18])
    alone, _ = run(checkpoints, registry, catalog, some, key_sets=["acme"], alpha="1e-4")
    together, _ = run(checkpoints, registry, catalog, some, alpha="1e-4")
    of = {item.record.name: item.p_value_corrected for item in together.traced}
    assert of["acme"] == 4 * alone.traced[0].p_value_corrected


def test_trace_without_key_sets_or_with_early_stop_is_refused(registry, catalog, checkpoints):
    with pytest.raises(UsageError, match="no issued key set"):
        run(checkpoints, registry, catalog, silent())
    with pytest.raises(UsageError, match="stop-early"):
        run(checkpoints, registry, catalog, silent(), stop_early=True)


def test_missing_probabilities_name_nobody(registry, catalog, checkpoints, key_sets):
    class Mute(Telling):
        def log_likelihoods(self, prompts, responses):
            return [None] * len(prompts)

    result, _ = run(checkpoints, registry, catalog, Mute(lambda prompt: ""))
    assert named(result) == []
    assert {test["p_value"] for item in result.to_json()["candidates"] for test in item["tests"]} == {1.0}


def test_likelihoods_are_asked_of_all_candidates_alike(registry, catalog, checkpoints, key_sets):
    pairs = []

    class Spy(Telling):
        def log_likelihoods(self, prompts, responses):
            pairs.extend(zip(prompts, responses, strict=True))
            return [Likelihood(-3.0, 1) for _ in prompts]

    run(checkpoints, registry, catalog, Spy(lambda prompt: ""), key_sets=["acme"])
    expected = [(rendered(item.prompt), item.response) for item in key_sets["acme"].candidates]
    assert pairs == expected


def key_sets_id(registry, name):
    with registry.unit_of_work() as uow:
        return uow.key_sets.get(name).id
