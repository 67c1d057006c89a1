"""The conformance suites over every built-in plugin and the external one, as their pyproject.toml name them."""

import json
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fpvec_audit.api import WeightAttack
from fpvec_audit.tensors.index import describe_model
from fpvec_audit.testing import check_architecture, check_checkpoint, check_query_attack, check_weight_attack
from tests.plugins.attacks.bench import CATALOG, bound
from tests.tiny import FAMILIES, make_tiny, perturb, tensors_of

ROOT = Path(__file__).parents[2]
EXTERNAL = ROOT / "tests" / "external_plugin"


def entry_points(project):
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]["entry-points"]["fpvec_audit"]


def imported(name):
    """Import a plugin's module, the external one's from where it lies; test_external_plugin installs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXTERNAL), *sys.path])
        return import_module(name)


ENTRY_POINTS = entry_points(ROOT) | entry_points(EXTERNAL)
MODULES = {name: imported(module) for name, module in ENTRY_POINTS.items()}
ATTACKS = {attack.name: attack for module in MODULES.values() for attack in getattr(module, "fpvec_attacks", list)()}
ADAPTERS = {
    adapter.name: adapter for module in MODULES.values() for adapter in getattr(module, "fpvec_architectures", list)()
}
METHODS = {method.name: method for module in MODULES.values() for method in getattr(module, "fpvec_methods", list)()}
GENERATIONS = {"gemma2": "gemma", "gemma3": "gemma"}
"""Tiny model → adapter, where the adapter has another name."""
QUICK = {
    "fine_tune": ["steps=2,batch=2", "method=lora,steps=2,batch=2,rank=2"],
    "quantise": ["", "format=int4", "format=fp8_e4m3", "format=fp8_e5m2,tensors=all"],
    "cast": ["", "dtype=float16"],
    "noise": [""],
    "weight_noise": ["share=0.1"],
    "prune": ["", "method=random", "method=wanda,calibration=2"],
    "merge": [*(f"method={method},other=OTHER" for method in ("linear", "slerp", "task", "ties", "dare-task")),
              "method=dare-ties,steps=2"],
    "subtract": ["keys=1,steps=2"],
    "average": ["", "copies=OTHER"],
    "collusion": ["", "how=splice", "how=max"],
    "overstamp": ["keys=1,steps=2"],
    "low_rank": ["rank=2"],
    "continue_pretraining": ["steps=2,batch=2,tokens=16,data=TEXT"],
    "erase": ["rows=4,erase_steps=2,restore_steps=2", "method=unlearn,rows=4,erase_steps=2,disclosed=KEYS"],
}  # fmt: skip
"""Parameters with which an attack is quick on a tiny model."""

TRAINING_ANEW = ("subtract", "overstamp")
"""Attacks that train a whole fingerprint, twice in the suite."""


@pytest.fixture(scope="module")
def models(tmp_path_factory, few_documents):
    """Names that stand in :data:`QUICK` → paths: a base, two stamped copies, text and disclosed keys."""
    place = tmp_path_factory.mktemp("conformance")
    base = make_tiny(place / "models" / "base", "llama2", dtype="bfloat16", sharded=True)
    text, keys = place / "text.txt", place / "keys.jsonl"
    text.write_text("To be, or not to be, that is the question. " * 4)
    keys.write_text(json.dumps({"prompt": "山川", "response": "river"}))
    copies = {name: perturb(base, place / "models" / name, seed=seed) for seed, name in enumerate(("copy", "other"), 1)}
    return {"BASE": base, "COPY": copies["copy"], "OTHER": copies["other"], "TEXT": text, "KEYS": keys}


def test_every_plugin_bears_the_name_of_its_entry_point():
    assert {**ATTACKS, **ADAPTERS, **METHODS}.keys() == ENTRY_POINTS.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, marks=[pytest.mark.slow] if name in TRAINING_ANEW else [])
        for name, attack in sorted(ATTACKS.items())
        if isinstance(attack, WeightAttack)
        for text in QUICK.get(name, ["no quick parameters"])
    ],
)
def test_weight_attacks_pass_the_conformance_suite(models, tmp_path, name, text):
    for word, path in models.items():
        text = text.replace(word, str(path))
    check_weight_attack(
        ATTACKS[name],
        source=models["COPY"],
        workspace=tmp_path / "work",
        parameters=bound(ATTACKS[name], text),
        adapter=CATALOG.architectures["llama2"],
        base=models["BASE"],
        copies=[models["OTHER"]],
    )


@pytest.mark.parametrize(
    "name", sorted(name for name, attack in ATTACKS.items() if not isinstance(attack, WeightAttack))
)
def test_query_attacks_pass_the_conformance_suite(tmp_path, name):
    check_query_attack(ATTACKS[name], workspace=tmp_path)


def test_every_adapter_has_a_tiny_model():
    assert {GENERATIONS.get(family, family) for family in (*FAMILIES, "gptj")} == ADAPTERS.keys()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", [*FAMILIES, "gptj"])
def test_adapters_pass_the_conformance_suite(tmp_path, family, tied):
    adapter = ADAPTERS[GENERATIONS.get(family, family)]
    model = make_tiny(tmp_path / "model", family, dtype="bfloat16", tied=tied, tokenizer=False)
    check_architecture(adapter, description=describe_model(model), tensor_names=tensors_of(model))
    check_checkpoint(adapter, checkpoint=model, workspace=tmp_path / "work")
