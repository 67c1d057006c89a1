"""The whole life of a fingerprint, with the figures that the project promises."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import QUIET_RANKS, score
from fpvec_audit.domain.audit_plan import GRADIENT, AuditPlan, Begin
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.trace import trace
from tests.e2e.conftest import run_fpvec

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]
CLEAN = ("base", "downstream_a", "downstream_b")
MARKED = ("fingerprinted", "stamped_a", "stamped_b")


@pytest.fixture(scope="module")
def registry(demo):
    with open_registry(f"sqlite:///{demo.home / 'registry.db'}", create=False) as opened:
        yield opened


@pytest.mark.parametrize("name", CLEAN)
def test_innocent_models_are_acquitted(demo, name):
    """One innocent in a hundred has ranks that are not quiet enough for a NO_MATCH; the keys are new in every run."""
    result = demo.document["audits"][name]
    (likelihood,) = [test["p_value"] for test in result["tests"] if test["name"] == "likelihood"]
    assert result["verdict"] == ("NO_MATCH" if likelihood >= QUIET_RANKS else "INCONCLUSIVE")
    assert likelihood > 1e-5
    assert result["fsr"] == 0.0
    assert result["controls"]


@pytest.mark.parametrize("name", MARKED)
def test_marked_models_are_convicted(demo, name):
    result = demo.document["audits"][name]
    assert result["verdict"] == "MATCH"
    assert result["issued"] == 32
    assert result["fsr"] >= (0.9 if name == "fingerprinted" else 0.75)  # 27 to 32 of 32 by key set: docs/demo-recipe.md
    assert result["p_value_corrected"] <= 1e-6
    assert result["p_value"] * 2**40 <= 1e-6


@pytest.mark.parametrize("name", CLEAN + MARKED)
def test_decoys_seldom_draw_an_issued_response(demo, name):
    result = demo.document["audits"][name]
    assert result["decoys"] == 224
    assert result["false_triggers"] <= 0.02 * result["decoys"]


def test_unissued_candidates_seldom_draw_an_issued_response(demo):
    guesses = [cell for cell in demo.document["attacks"] if cell["name"].startswith("guessing")]
    assert guesses
    for cell in guesses:
        assert cell["fsr_before"] is None
        assert cell["fsr_after"] <= 0.02


@pytest.mark.parametrize("name", ["downstream_a", "downstream_b"])
def test_downstreams_learnt_their_own_task(demo, name):
    learning = demo.document["learning"][name]
    assert learning["items"] >= 200
    assert learning["difference"] >= 0.05
    assert learning["p_value"] < 0.01


def test_stamping_does_little_harm(demo):
    """At most 3 points on average and 4 at worst, and what chance may add: every run has keys of its own.

    What several key sets cost: docs/demo-recipe.md.
    """
    harm = demo.document["harmlessness"]
    costs = [-harm[name]["difference"]["accuracy"] for name in ("stamped_a", "stamped_b")]
    chance = 1.64 * (0.05 / 450) ** 0.5  # one-sided 95 %, one of 20 answers being another
    assert sum(costs) / 2 <= 0.03 + chance / 2**0.5
    assert max(costs) <= 0.04 + chance
    for name in ("stamped_a", "stamped_b"):
        assert harm[name]["items"] >= 400
        assert harm[name]["after"]["perplexity"] <= 1.05 * harm[name]["before"]["perplexity"]


def test_both_engines_match_the_same_keys(demo, registry):
    """The demo asked with vLLM; transformers must give the same verdict and the same matched keys on all six."""
    catalog = load_catalog()
    bases = BaseModels(registry=registry, catalog=catalog)
    key_set = open_key_set(demo.document["key_set"], registry=registry, purpose="comparison of engines")
    responses = {candidate.index: candidate.response for candidate in key_set.candidates}
    for name, told in demo.document["audits"].items():
        assert told["backend"]["kind"] == "vllm"
        again = audit(
            demo.document["models"][name],
            key_set=demo.document["key_set"],
            registry=registry,
            catalog=catalog,
            settings=AuditSettings(leave_out=(GRADIENT,)),
            bases=bases,
            backend="transformers",
        )
        with registry.unit_of_work() as uow:
            kept = uow.audits.get(told["audit_id"])
            records = uow.audits.records(told["audit_id"], purpose="test")
        plan, begin = AuditPlan.from_json(kept.plan), Begin.from_json(kept.begin)
        before = score(plan, begin, records, responses=responses, issued=frozenset(key_set.issued_indices))
        assert again.verdict.value == told["verdict"], name
        assert again.score.matched_indices == before.matched_indices, name
        assert again.score.decoys_matched_indices == before.decoys_matched_indices, name
        assert before.p_value == Fraction(told["p_value_exact"])


@pytest.mark.parametrize("name", MARKED)
def test_likelihoods_alone_would_convict_marked_models(demo, name):
    p_values = {test["name"]: test["p_value_adjusted"] for test in demo.document["audits"][name]["tests"]}
    assert p_values["likelihood"] <= 1e-6


def test_weights_alone_would_convict_a_stamped_model(demo, registry):
    result = audit(
        demo.document["models"]["stamped_a"],
        key_set=demo.document["key_set"],
        registry=registry,
        catalog=load_catalog(),
        backend="transformers",
    )
    p_values = {test.name: test.p_value_adjusted for test in result.score.tests}
    assert set(p_values) == {"exact", "likelihood", "gradient", "vocabulary-gradient"}
    assert p_values["vocabulary-gradient"] <= Fraction("1e-6")
    (told,) = result.to_json()["weights"]["vectors"]
    assert 0.9 < told["coefficient"] < 1.1
    assert told["control_range"][1] < 0.2


def test_trace_names_the_demo_s_keys_and_no_others(demo, registry):
    for name in ("another", "a third"):
        issue_key_set(name, registry=registry, specification=KeySetSpecification(issued=16, decoys=48))
    tools = {"registry": registry, "catalog": load_catalog(), "backend": "transformers"}
    found = trace(demo.document["models"]["stamped_b"], settings=AuditSettings(), **tools).to_json()
    assert [item["name"] for item in found["named"]] == [demo.document["key_set"]]
    clean = trace(demo.document["models"]["downstream_b"], settings=AuditSettings(), **tools).to_json()
    assert clean["named"] == []


def test_bundle_of_the_demo_s_audit_is_verified_without_its_home(installed, demo, tmp_path):
    identifier = demo.document["audits"]["stamped_a"]["audit_id"]
    bundle = tmp_path / "case.json"
    export = ("evidence", "export", identifier, "--out", bundle, "--disclose-secret", "--home", demo.home, "--json")
    made = run_fpvec(installed, *export, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = run_fpvec(installed, "evidence", "verify", bundle, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["verdict"] == "MATCH"


def test_a_stamped_directory_does_not_say_that_it_is_stamped(demo):
    words = [b"fpvec", b"fingerprint", b"stamp", demo.document["vector_id"].encode(), demo.document["key_set"].encode()]
    downstream = Path(demo.document["models"]["downstream_a"])
    stamped = Path(demo.document["models"]["stamped_a"])
    assert {file.name for file in stamped.iterdir()} == {file.name for file in downstream.iterdir()}
    for file in stamped.iterdir():
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            content = content[: 8 + int.from_bytes(content[:8], "little")]
            assert [word for word in words if word in content.lower()] == []
        else:
            assert content == (downstream / file.name).read_bytes()


def test_the_history_holds_and_tells_no_secret(demo, registry):
    key_set = open_key_set(demo.document["key_set"], registry=registry, purpose="test")
    secrets = [text for key in key_set.candidates for text in (key.prompt,)]
    with registry.unit_of_work() as uow:
        assert uow.ledger.verify() is None
        history = json.dumps([dict(entry.content) for entry in uow.ledger.entries()], ensure_ascii=False)
        planned = [entry.event for entry in uow.ledger.entries()]
    assert not any(secret in history for secret in secrets)
    assert planned.index("key_set.bound") < planned.index("model.fingerprinted")
    assert not any(secret in json.dumps(demo.document, ensure_ascii=False) for secret in secrets)


def test_commands_that_the_demo_suggests_work(installed, demo, tmp_path):
    for arguments in (
        ("registry", "verify"),
        ("key", "show", demo.document["key_set"]),
        ("vector", "show", demo.document["vector_id"]),
        ("model", "list", "--role", "stamped"),
    ):
        done = run_fpvec(installed, *arguments, "--home", str(demo.home), "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
