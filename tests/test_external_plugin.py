"""A plugin by somebody else, installed as pip installs it and found in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpvec_audit.api import ModelDescription, TensorRole
from fpvec_audit.catalog import load_catalog
from fpvec_audit.testing import check_architecture, check_weight_attack
from tests.tiny import make_tiny, write_checkpoint

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
    for name in [name for name in sys.modules if name.split(".")[0] == "fpvec_pythia"]:
        del sys.modules[name]


def test_an_installed_plugin_is_found_beside_the_built_ins_in_another_process(installed):
    code = (
        "import json\nfrom fpvec_audit.catalog import load_catalog\n"
        "print(json.dumps([plugin.to_json() for plugin in load_catalog().plugins]))"
    )
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    theirs = [plugin for plugin in listed if plugin["distribution"] == "fpvec-pythia"]
    assert [(plugin["kind"], plugin["name"]) for plugin in theirs] == [
        ("architecture", "pythia"),
        ("attack", "weight_noise"),
    ]
    assert all((plugin["version"], plugin["state"]) == ("1.2.3", "working") for plugin in theirs)
    assert {"gpt2", "guessing"} <= {plugin["name"] for plugin in listed if plugin["distribution"] == "fpvec-audit"}


def test_its_adapter_is_used_and_passes_the_conformance_suite(plugins):
    layer = "gpt_neox.layers.0."
    parameters = [
        "gpt_neox.embed_in.weight",
        *(f"{layer}{part}" for part in (
            "input_layernorm.weight", "post_attention_layernorm.bias", "attention.query_key_value.weight",
            "attention.dense.bias", "mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight",
        )),
        "gpt_neox.final_layer_norm.weight",
        "embed_out.weight",
    ]  # fmt: skip
    description = ModelDescription({"model_type": "gpt_neox"})
    adapter = plugins.architecture_for(description)
    check_architecture(
        adapter,
        description=description,
        tensor_names=parameters,
        buffers=[f"{layer}attention.bias", f"{layer}attention.masked_bias"],
    )
    assert TensorRole.OTHER not in {adapter.role(name) for name in parameters}


def test_its_attack_passes_the_conformance_suite(plugins, tmp_path):
    check_weight_attack(
        plugins.attack("weight_noise"),
        source=make_tiny(tmp_path / "source", "gpt2", buffers=True),
        workspace=tmp_path / "work",
        adapter=plugins.architectures["gpt2"],
    )


def test_its_architecture_is_unknown_once_it_is_gone(tmp_path):
    import torch

    from fpvec_audit.errors import ArchitectureError
    from fpvec_audit.tensors.index import describe_model

    directory = write_checkpoint(tmp_path / "pythia", {"x": torch.zeros(1)}, config={"model_type": "gpt_neox"})
    with pytest.raises(ArchitectureError, match="pythia: no adapter for architecture 'gpt_neox'"):
        load_catalog().architecture_for(describe_model(directory))
