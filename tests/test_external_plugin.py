"""A plugin by somebody else, installed as pip installs it and found in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpvec_audit.api import ModelDescription
from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import ArchitectureError
from fpvec_audit.tensors.index import describe_model
from fpvec_audit.testing import check_architecture, check_weight_attack
from tests.tiny import make_tiny, tensors_of

pytestmark = pytest.mark.xdist_group("external plugin")  # installed once
SOURCE = Path(__file__).parent / "external_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a directory into which pip installed the plugin."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def run(installed, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def plugins(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    yield load_catalog()
    for name in [name for name in sys.modules if name.split(".")[0] == "fpvec_gptj"]:
        del sys.modules[name]


def test_an_installed_plugin_is_found_beside_the_built_ins_in_another_process(installed):
    code = (
        "import json\nfrom fpvec_audit.catalog import load_catalog\n"
        "print(json.dumps([plugin.to_json() for plugin in load_catalog().plugins]))"
    )
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    theirs = [plugin for plugin in listed if plugin["distribution"] == "fpvec-gptj"]
    assert [(plugin["kind"], plugin["name"]) for plugin in theirs] == [
        ("architecture", "gptj"),
        ("attack", "weight_noise"),
    ]
    assert all((plugin["version"], plugin["state"]) == ("1.2.3", "working") for plugin in theirs)
    assert {"gpt2", "guessing"} <= {plugin["name"] for plugin in listed if plugin["distribution"] == "fpvec-audit"}


def test_its_adapter_is_used_and_passes_the_conformance_suite(plugins, tmp_path):
    checkpoint = make_tiny(tmp_path / "gptj", "gptj", tokenizer=False)
    description = describe_model(checkpoint)
    adapter = plugins.architecture_for(description)
    check_architecture(
        adapter,
        description=description,
        tensor_names=tensors_of(checkpoint),
        buffers=["h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    )


def test_its_attack_passes_the_conformance_suite(plugins, tmp_path):
    check_weight_attack(
        plugins.attack("weight_noise"),
        source=make_tiny(tmp_path / "source", "gpt2", buffers=True),
        workspace=tmp_path / "work",
        adapter=plugins.architectures["gpt2"],
    )


def test_its_architecture_is_unknown_once_it_is_gone():
    with pytest.raises(ArchitectureError, match="gptj: no adapter for architecture 'gptj'"):
        load_catalog().architecture_for(ModelDescription({"model_type": "gptj"}, name="gptj"))
