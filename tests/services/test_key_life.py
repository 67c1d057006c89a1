"""What the end of a key set's life means for its use."""

from pathlib import Path

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import KeySetState
from fpvec_audit.errors import KeySetError
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model
from fpvec_audit.services.extract import extract_vector, show_vector
from fpvec_audit.services.key_life import compromise_key_set, retire_key_set
from fpvec_audit.services.keys import issue_key_set, list_key_sets, open_key_set, show_key_set
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.suspects_met import list_audits, list_suspects, show_audit, show_suspect
from fpvec_audit.services.trace import trace
from tests.services.test_audit import SPECIFICATION, ScriptedEngines, answering
from tests.tiny import make_tiny, perturb

END = {"retired": retire_key_set, "compromised": compromise_key_set}


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    base = make_tiny(directory / "base", "gpt2")
    perturb(base, directory / "fingerprinted", exact=True)
    perturb(base, directory / "chat", seed=2)
    return directory


@pytest.fixture
def acme(registry):
    return issue_key_set("acme", registry=registry, specification=SPECIFICATION).record


@pytest.fixture
def ask(tools, models, acme):
    def asked(use, **options):
        engines = ScriptedEngines({"chat": answering(open_key_set("acme", registry=tools["registry"]).issued)})
        settings = checked_settings(tests=["exact"])
        return use(models / "chat", settings=settings, backend=engines, **options, **tools).to_json()

    return asked


@pytest.mark.parametrize("state", END)
def test_nothing_new_is_made_with_a_key_set_that_ended(tmp_path, tools, models, acme, state):
    vector = tmp_path / "vector"
    extract_vector(models / "base", models / "fingerprinted", out=vector, key_set="acme", **tools)
    stamp_models([models / "chat"], vectors=[str(vector)], out=tmp_path / "before", licensees=["Globex"], **tools)
    END[state]("acme", registry=tools["registry"], reason="the key was lost")
    with pytest.raises(KeySetError, match=rf"'acme' is {state} since .*the key was lost"):
        stamp_models([models / "chat"], vectors=[str(vector)], out=tmp_path / "after", **tools)
    with pytest.raises(KeySetError, match=f"is {state} since"):
        fingerprint_model(models / "base", key_set="acme", out=tmp_path / "new", options=FingerprintOptions(), **tools)
    assert not (tmp_path / "after").exists()
    shown = show_vector(str(vector), registry=tools["registry"]).to_json()
    assert (shown["stamps"], shown["latest_stamps"][0]["licensee"]) == (1, "Globex")
    assert shown["latest_stamps"][0]["policies"]["vocabulary"] == "refuse"


def test_extracting_a_vector_of_a_key_set_embeds_it(tmp_path, tools, models, acme):
    extract_vector(models / "base", models / "fingerprinted", out=tmp_path / "vector", key_set="acme", **tools)
    assert show_key_set("acme", registry=tools["registry"]).record.state is KeySetState.EMBEDDED


@pytest.mark.parametrize(
    ("state", "said"), [("retired", "older copies may carry it"), ("compromised", "a match proves nothing")]
)
def test_audits_and_traces_with_a_key_set_that_ended_say_what_that_means(tools, ask, state, said):
    END[state]("acme", registry=tools["registry"], reason="the key was lost")
    for document in (ask(audit, key_set="acme"), ask(trace)):
        (warning,) = [warning for warning in document["warnings"] if f"is {state} since" in warning]
        assert said in warning
        assert document["verdict"] == "MATCH"
    named = list_audits(registry=tools["registry"])[-1]
    assert said in " ".join(show_audit(named.record.id, registry=tools["registry"])["warnings"])


def test_key_list_and_show_say_how_a_key_set_ended(tools, acme):
    registry = tools["registry"]
    assert show_key_set("acme", registry=registry).to_json()["ended"] is None
    retire_key_set("acme", registry=registry, reason="replaced")
    (listed,) = list_key_sets(registry=registry)
    assert listed.to_json() == show_key_set("acme", registry=registry).to_json()
    assert listed.to_json()["state"] == "retired"
    assert listed.to_json()["ended"]["reason"] == "replaced"


def test_audits_tell_when_their_suspect_was_met_first(tools, ask):
    first, second = ask(audit, key_set="acme"), ask(audit, key_set="acme")
    (suspect,) = list_suspects(registry=tools["registry"])
    assert first["first_seen"] == second["first_seen"] == suspect.record.first_seen_at.isoformat()
    shown = show_suspect(suspect.record.id[:8], registry=tools["registry"]).to_json()
    assert {audit["audit_id"] for audit in shown["audits"]} == {first["audit_id"], second["audit_id"]}
    assert (shown["kind"], shown["audits"][0]["key_set_name"]) == ("checkpoint", "acme")
    assert ask(trace)["first_seen"] == first["first_seen"]
