"""The conformance suite over every built-in method that pyproject.toml names."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fpvec_audit.domain.attack_spec import bind_one
from fpvec_audit.errors import UsageError
from fpvec_audit.testing import check_method
from tests.plugins.attacks.bench import CATALOG
from tests.tiny import make_tiny, perturb

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fpvec_audit"]
METHODS = {
    method.name: method
    for module in ENTRY_POINTS.values()
    if ".methods." in module
    for method in import_module(module).fpvec_methods()
}


def bound(text):
    return bind_one(text, lambda name: METHODS[name].Parameters, kind="method").parameters


@pytest.fixture(scope="module")
def models(tmp_path_factory, few_documents):
    place = tmp_path_factory.mktemp("methods")
    base = make_tiny(place / "models" / "base", "llama2", dtype="bfloat16", sharded=True)
    return base, perturb(base, place / "models" / "downstream")


def test_every_method_bears_the_name_of_its_entry_point():
    assert set(METHODS) == {name for name, module in ENTRY_POINTS.items() if ".methods." in module}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_pass_the_conformance_suite(models, tmp_path, name):
    more = ",perturbation=none" if name in ("vector", "direct") else ""
    check_method(
        METHODS[name],
        model=models[1],
        workspace=tmp_path / "work",
        adapter=CATALOG.architectures["llama2"],
        parameters=bound(f"{name}:steps=2{more}"),
        base=models[0],
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("vector:scale=0", "scale is 0"),
        ("vector:steps=0", "steps is 0"),
        ("direct:steps=0", "steps is 0"),
        ("wlm:learning_rate=2", "learning_rate is 2"),
        ("wlm:steps=0", "steps is 0"),
        ("plmmark:temperature=0", "temperature is 0"),
        ("plmmark:contrast=-1", "contrast is -1"),
        ("plmmark:step=3", "did you mean steps"),
        ("wlm:steps=1|2", "more than one method"),
        ("wlm+direct", "more than one method"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(text, problem):
    with pytest.raises(UsageError, match=problem):
        bound(text)
