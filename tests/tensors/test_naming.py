import pytest
import torch

from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from tests.tiny import ARCHITECTURES, make_tiny, rewrite, write_checkpoint


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefix_buffers_and_stored_aliases_do_not_change_the_parameters(tmp_path, adapters, architecture):
    adapter = adapters[architecture]
    plain = make_tiny(tmp_path / "plain", architecture, tied=True)
    old = make_tiny(tmp_path / "old", architecture, tied=True, prefix=False, buffers=True, stored_alias=True)
    names = named_parameters(read_checkpoint(plain), adapter)
    assert named_parameters(read_checkpoint(old), adapter).parameters.keys() == names.parameters.keys()
    assert list(names.tied) == ["lm_head.weight"]
    assert "lm_head.weight" not in names.parameters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_untied_head_is_a_parameter_of_its_own(tmp_path, adapters, architecture):
    model = make_tiny(tmp_path / "model", architecture, tied=False)
    names = named_parameters(read_checkpoint(model), adapters[architecture])
    assert "lm_head.weight" in names.parameters
    assert names.tied == {}


def test_tied_head_stored_only_under_its_alias_has_the_name_it_is_tied_to(tmp_path, adapters):
    names = named_parameters(
        read_checkpoint(
            write_checkpoint(tmp_path / "m", {"lm_head.weight": torch.ones(2, 2)}, config={"model_type": "gpt2"})
        ),
        adapters["gpt2"],
    )
    assert names.parameters["transformer.wte.weight"].name == "lm_head.weight"


def test_tie_that_the_stored_values_contradict_is_refused(tmp_path, adapters, small_blocks):
    model = make_tiny(tmp_path / "model", "gpt2", stored_alias=True)
    torn = rewrite(model, tmp_path / "torn", lambda name, tensor: tensor + (name == "lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        named_parameters(read_checkpoint(torn), adapters["gpt2"])


def test_one_parameter_stored_under_two_names_is_refused(tmp_path, adapters):
    twice = {"wte.weight": torch.ones(2, 2), "transformer.wte.weight": torch.ones(2, 2)}
    model = write_checkpoint(tmp_path / "model", twice, config={"model_type": "gpt2"})
    with pytest.raises(CheckpointError, match=r"are both transformer\.wte\.weight"):
        named_parameters(read_checkpoint(model), adapters["gpt2"])


def test_unknown_architecture_keeps_stored_names(tmp_path):
    model = write_checkpoint(tmp_path / "model", {"z": torch.ones(1), "a": torch.ones(1)})
    assert list(named_parameters(read_checkpoint(model), None).parameters) == ["a", "z"]
