import json
from dataclasses import replace

import pytest

from fpvec_audit.api import TrainingDefaults
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import (
    ArchitectureError,
    CheckpointError,
    KeySetError,
    OutputError,
    SettingsError,
    UnknownNameError,
)
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model, read_rows
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.models import show_model
from fpvec_plugins.architectures.gpt2 import GPT2
from tests.tiny import edit_json, make_tiny

QUICK = TrainingDefaults(
    "default",
    {
        "steps": 2, "negatives_per_step": 4, "negative_pool": 8, "ordinary_per_step": 2, "documents_per_step": 0,
        "proxy_steps": 1, "proxy_rows_per_step": 2, "other_renderings_per_step": 2, "keys_per_step": 4,
    },
    "a test",
)  # fmt: skip


@pytest.fixture
def tools(registry):
    catalog = load_catalog()
    quick = replace(GPT2, defaults=(QUICK, *GPT2.defaults[1:]))
    return {"registry": registry, "catalog": replace(catalog, architectures={**catalog.architectures, "gpt2": quick})}


@pytest.fixture
def base(tmp_path):
    return make_tiny(tmp_path / "base", "gpt2")


@pytest.fixture
def key_set(registry):
    return issue_key_set("acme", registry=registry, specification=KeySetSpecification(issued=4, decoys=12)).record


def test_fingerprinting_binds_before_it_trains_and_records_what_came_out(tmp_path, tools, registry, base, key_set):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who?", "response": "Nobody."}\n\n{"prompt": "Where?", "response": "Here."}\n')
    result = fingerprint_model(
        base, key_set="acme", out=tmp_path / "fp", options=FingerprintOptions(data=rows, perturbation="noise"), **tools
    )
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme").base == result.base
        entries = {entry.event: entry for entry in uow.ledger.entries()}
        assert uow.jobs.list()[-1].state is JobState.SUCCEEDED
    assert entries["key_set.bound"].serial < entries["model.fingerprinted"].serial
    assert {"root", "base", "tokenizer", "template", "settings"} <= set(entries["key_set.bound"].content)
    shown = show_model(result.fingerprinted, registry=registry).record
    assert shown.role is ModelRole.FINGERPRINTED
    assert shown.parent == result.base
    document = result.to_json()
    assert document["perturbation"] == "noise"
    assert document["out"] == str(tmp_path / "fp")
    prompts = [candidate.prompt for candidate in open_key_set("acme", registry=registry).candidates]
    assert not any(prompt in json.dumps(document, ensure_ascii=False) for prompt in prompts)


def test_decoys_are_handed_over_only_as_prompts_to_avoid(tmp_path, tools, registry, base, key_set, monkeypatch):
    seen = {}

    def stop(**arguments):
        seen.update(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("fpvec_audit.training.embed.embed_fingerprint", stop)
    with pytest.raises(KeyboardInterrupt):
        fingerprint_model(base, key_set="acme", out=tmp_path / "fp", options=FingerprintOptions(), **tools)
    opened = open_key_set("acme", registry=registry)
    assert {prompt for prompt, _ in seen["issued"]} == {key.prompt for key in opened.issued}
    assert {key.prompt for key in opened.decoys} <= seen["avoid"]
    with registry.unit_of_work() as uow:
        assert uow.jobs.list()[-1].state is JobState.CANCELLED
    assert not (tmp_path / "fp").exists()


def test_key_set_of_another_base_is_refused(tmp_path, tools, registry, base, key_set):
    other = make_tiny(tmp_path / "other", "gpt2", seed=5)
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme").base is None
    quick = FingerprintOptions(perturbation="none")
    fingerprint_model(base, key_set="acme", out=tmp_path / "fp", options=quick, **tools)
    with pytest.raises(KeySetError, match="bound to"):
        fingerprint_model(other, key_set="acme", out=tmp_path / "fp2", options=quick, **tools)
    assert not (tmp_path / "fp2").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, ArchitectureError, "mamba"),
        ({"quantization_config": {"quant_method": "gptq"}}, CheckpointError, "quantis"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, CheckpointError, "code"),
    ],
)
def test_bad_base_is_refused_before_anything_is_bound(tmp_path, tools, registry, base, key_set, change, error, words):
    edit_json(base / "config.json", **change)
    with pytest.raises(error, match=words):
        fingerprint_model(base, key_set="acme", out=tmp_path / "fp", options=FingerprintOptions(), **tools)
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme").base is None
    assert not (tmp_path / "fp").exists()


def test_existing_output_and_unknown_names_are_refused(tmp_path, tools, base, key_set):
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        fingerprint_model(base, key_set="acme", out=tmp_path / "there", options=FingerprintOptions(), **tools)
    with pytest.raises(UnknownNameError, match="did you mean acme"):
        fingerprint_model(base, key_set="acmo", out=tmp_path / "fp", options=FingerprintOptions(), **tools)
    for options in (FingerprintOptions(preset="papers"), FingerprintOptions(perturbation="proxy")):
        with pytest.raises(SettingsError, match="unknown"):
            fingerprint_model(base, key_set="acme", out=tmp_path / "fp", options=options, **tools)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no rows"),
        ("{nonsense\n", "line 1 is not JSON"),
        ('{"prompt": "a", "response": "b"}\n["a"]\n', "line 2 has no text"),
        ('{"prompt": "a", "response": " "}\n', "line 1 has no text"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path, content, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        read_rows(path)


def test_absent_rows_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_rows(tmp_path / "absent.jsonl")
