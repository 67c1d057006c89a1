"""The conformance suite over every built-in attack that pyproject.toml names."""

import json
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fpvec_audit.api import WeightAttack
from fpvec_audit.testing import check_query_attack, check_weight_attack
from tests.plugins.attacks.bench import CATALOG, bound
from tests.tiny import make_tiny, perturb

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fpvec_audit"]
ATTACKS = {
    attack.name: attack
    for module in ENTRY_POINTS.values()
    if ".attacks." in module
    for attack in import_module(module).fpvec_attacks()
}
QUICK = {
    "fine_tune": ["steps=2,batch=2", "method=lora,steps=2,batch=2,rank=2"],
    "quantise": ["", "format=int4", "format=fp8_e4m3", "format=fp8_e5m2,tensors=all"],
    "cast": ["", "dtype=float16"],
    "noise": [""],
    "prune": ["", "method=random", "method=wanda,calibration=2"],
    "merge": [*(f"method={method},other=OTHER" for method in ("linear", "slerp", "task", "ties", "dare-task")),
              "method=dare-ties,steps=2"],
    "subtract": ["keys=1,steps=2"],
    "average": ["", "copies=OTHER"],
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


def test_every_attack_bears_the_name_of_its_entry_point():
    named = {name for name, module in ENTRY_POINTS.items() if ".attacks." in module}
    assert set(ATTACKS) == named


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
