import json

import pytest
import torch

from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.index import describe_model, read_checkpoint, refuse_quantised
from tests.tiny import INDEX, edit_json, make_tiny, tensors_of, write_checkpoint

TENSORS = {"a": torch.zeros(2, 3), "b": torch.ones(4), "c": torch.zeros(1)}


def index_of(directory):
    return json.loads((directory / INDEX).read_text())


@pytest.fixture
def sharded(tmp_path):
    return write_checkpoint(tmp_path / "model", TENSORS, shards=3)


def test_single_file_and_shards_hold_the_same_tensors(tmp_path, sharded):
    single = read_checkpoint(write_checkpoint(tmp_path / "single", TENSORS))
    split = read_checkpoint(sharded)
    assert (single.sharded, split.sharded) == (False, True)
    assert {name: spec.shape for name, spec in single.tensors.items()} == {
        name: spec.shape for name, spec in split.tensors.items()
    }
    assert single.parameters == 11
    assert single.bytes == 44


@pytest.mark.parametrize("architecture", ["gpt2", "vicuna"])
def test_checkpoint_saved_by_transformers_is_read_whole(tmp_path, architecture):
    model = make_tiny(tmp_path / "model", architecture, sharded=True)
    assert read_checkpoint(model).tensors.keys() == tensors_of(model).keys()


def test_description_fills_in_the_chat_template_from_its_own_file(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2", chat_template="{{ messages }}")
    assert describe_model(model).tokenizer_config["chat_template"] == "{{ messages }}"
    assert describe_model(model).name == "model"


def test_model_without_tokenizer_is_described(tmp_path):
    assert describe_model(make_tiny(tmp_path / "model", "gpt2", tokenizer=False)).tokenizer_config == {}


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", ".", "a\\b", "a\0b"]
)
def test_index_that_points_outside_its_directory_is_refused(tmp_path, sharded, name):
    outside = write_checkpoint(tmp_path / "other", TENSORS)
    (outside / "model.safetensors").rename(tmp_path / "outside.safetensors")
    content = index_of(sharded)
    content["weight_map"]["a"] = name
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="leads out of the directory"):
        read_checkpoint(sharded)


def test_file_name_that_no_file_can_have_is_refused(sharded):
    content = index_of(sharded)
    content["weight_map"]["a"] = "\ud800.safetensors"
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is missing"):
        read_checkpoint(sharded)


def test_link_that_leads_outside_is_refused(tmp_path):
    model = write_checkpoint(tmp_path / "model", TENSORS)
    (model / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (model / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="outside of the directory"):
        read_checkpoint(model)


def test_broken_link_is_refused(tmp_path):
    model = write_checkpoint(tmp_path / "model", TENSORS)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(CheckpointError, match="broken link"):
        read_checkpoint(model)


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    snapshot = write_checkpoint(tmp_path / "models--x" / "snapshots" / "abc", TENSORS)
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../../blobs/{number}")
    assert read_checkpoint(snapshot).tensors.keys() == TENSORS.keys()


def test_tensor_missing_from_its_shard_is_named(sharded):
    content = index_of(sharded)
    content["weight_map"]["ghost"] = content["weight_map"]["a"]
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="ghost is not in model-00001-of-00003"):
        read_checkpoint(sharded)


def test_tensor_missing_from_the_index_is_named(tmp_path, sharded):
    (write_checkpoint(tmp_path / "more", TENSORS) / "model.safetensors").rename(
        sharded / "model-00001-of-00003.safetensors"
    )
    content = index_of(sharded)
    content["weight_map"] = {"a": "model-00001-of-00003.safetensors"}
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"b is in model-00001-of-00003.safetensors, but not in the index"):
        read_checkpoint(sharded)


def test_tensor_in_another_shard_than_the_index_says_is_named(sharded):
    content = index_of(sharded)
    places = content["weight_map"]
    places["a"], places["b"] = places["b"], places["a"]
    (sharded / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the index says"):
        read_checkpoint(sharded)


def test_missing_shard_is_named(sharded):
    (sharded / index_of(sharded)["weight_map"]["b"]).unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors' is missing"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "[]", "{", "[" * 10_000])
def test_index_that_is_none_is_refused(sharded, content):
    (sharded / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="index"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_is_refused_with_how_to_convert(tmp_path, name):
    model = make_tiny(tmp_path / "model", "gpt2")
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(CheckpointError, match="pickle") as caught:
        read_checkpoint(model)
    assert "save_pretrained" in caught.value.advice


def test_gguf_file_is_refused_even_without_config(tmp_path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="is a GGUF file"):
        read_checkpoint(tmp_path)


def test_shards_without_index_are_refused(sharded):
    (sharded / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        read_checkpoint(sharded)


def test_adapter_is_refused_with_the_advice_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_model_with_code_of_its_own_is_refused(tmp_path, file):
    model = make_tiny(tmp_path / "model", "gpt2")
    edit_json(model / file, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        read_checkpoint(model)


def test_absent_and_empty_directories_and_plain_files_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, problem in (
        ("absent", "does not exist"),
        ("file", "is not a directory"),
        ("empty", "has no config.json"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'"text"'])
def test_config_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_quantised_target_is_refused_but_can_be_read(tmp_path, method):
    model = make_tiny(tmp_path / "model", "llama2")
    edit_json(model / "config.json", quantization_config={"quant_method": method})
    checkpoint = read_checkpoint(model)
    with pytest.raises(CheckpointError, match=method) as caught:
        refuse_quantised(checkpoint)
    assert "before it is quantised" in caught.value.advice


def test_quantised_tensors_are_refused_without_any_mark_in_the_config(tmp_path):
    packed = {"model.layers.0.q_proj.qweight": torch.zeros(2, 2, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match="qweight is stored as I32"):
        refuse_quantised(read_checkpoint(write_checkpoint(tmp_path / "a", packed)))
    eight_bits = {"w": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}
    with pytest.raises(CheckpointError, match="w is stored as F8_E4M3"):
        refuse_quantised(read_checkpoint(write_checkpoint(tmp_path / "b", eight_bits)))


def test_plain_model_is_not_taken_for_quantised(tmp_path):
    refuse_quantised(read_checkpoint(make_tiny(tmp_path / "model", "bloom", dtype="bfloat16")))
