import json

import pytest
import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.tensors import vector_files
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.vector_files import DESCRIPTION, lay_out, read_vector
from tests.tiny import edit_json, make_tiny, perturb


@pytest.fixture
def vector(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2")
    fingerprinted = perturb(base, tmp_path / "fp")
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapters["gpt2"])
    (tmp_path / "vector").mkdir()
    write_vector(plan, tmp_path / "vector", tool_version="0")
    return tmp_path / "vector"


def test_layout_puts_wide_dtypes_first_and_splits_by_size(monkeypatch):
    tensors = {"a": (Dtype.BF16, (10,)), "b": (Dtype.F32, (10,)), "c": (Dtype.BF16, (2, 5)), "d": (Dtype.F64, ())}
    assert [list(files) for files in lay_out(tensors).shards.values()] == [["d", "b", "a", "c"]]
    monkeypatch.setattr(vector_files, "LARGEST_SHARD", 50)
    assert {name: list(files) for name, files in lay_out(tensors).shards.items()} == {
        "vector-00001-of-00002.safetensors": ["d", "b"],
        "vector-00002-of-00002.safetensors": ["a", "c"],
    }


def test_layout_knows_the_bytes_of_its_files(vector):
    layout = lay_out({name: (spec.dtype, spec.shape) for name, spec in read_vector(vector).files.tensors.items()})
    assert layout.bytes == (vector / "vector.safetensors").stat().st_size


def test_model_is_not_taken_for_a_vector(tmp_path):
    with pytest.raises(VectorError, match="is not a fingerprint vector"):
        read_vector(make_tiny(tmp_path / "model", "gpt2"))
    with pytest.raises(VectorError, match="does not exist"):
        read_vector(tmp_path / "absent")


def test_vector_of_a_newer_program_is_refused(vector):
    edit_json(vector / DESCRIPTION, schema_version=2)
    with pytest.raises(VectorError, match="schema version 2"):
        read_vector(vector)


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_description_that_is_no_object_is_refused(vector, content):
    (vector / DESCRIPTION).write_text(content)
    with pytest.raises(CheckpointError, match=DESCRIPTION):
        read_vector(vector)


def test_vector_with_other_tensors_than_described_is_refused(vector):
    edit_json(vector / DESCRIPTION, tensors=3)
    with pytest.raises(VectorError, match="holds 28 tensors"):
        read_vector(vector)


def test_vector_of_whole_numbers_is_refused(vector):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, dtype=torch.int8)}, vector / "vector.safetensors")
    with pytest.raises(VectorError, match="w is stored as I8"):
        read_vector(vector)


def test_description_is_plain_json_with_schema_and_tool_version(vector):
    content = json.loads((vector / DESCRIPTION).read_text())
    assert content["schema_version"] == 1
    assert content["tool_version"] == "0"
