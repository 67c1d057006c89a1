import hashlib
import json

import pytest
import torch

from fpvec_audit.tensors.digest import canonical_digest
from fpvec_audit.tensors.index import read_checkpoint
from tests.tiny import ARCHITECTURES, make_tiny, rewrite, write_checkpoint

GOLDEN = {
    "b.weight": torch.tensor([[1.0, -0.0], [0.5, 3.0]]),
    "a": torch.tensor([1.5], dtype=torch.bfloat16),
    "größe": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 3, dtype=torch.float16),
}


def digest(directory, adapter=None):
    return canonical_digest(read_checkpoint(directory), adapter)


def test_digest_version_1_is_what_it_always_was(tmp_path):
    assert (
        digest(write_checkpoint(tmp_path / "golden", GOLDEN))
        == "339fc89ecb29b04ee325ba5f1daba9b8f3ed9babad3fec6734cfbdf10f8170c7"
    )


def test_digest_is_what_its_definition_says(tmp_path):
    lines = b"fpvec canonical digest v1\n"
    for name, label, shape, content in (
        ("a", "BF16", [1], b"\xc0\x3f"),
        ("b.weight", "F32", [2, 2], bytes.fromhex("0000803f 00000080 0000003f 00004040")),
        ("empty", "F16", [0, 3], b""),
        ("größe", "I64", [], (7).to_bytes(8, "little")),
    ):
        entry = [name, label, shape, hashlib.sha256(content).hexdigest()]
        lines += json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert digest(write_checkpoint(tmp_path / "golden", GOLDEN)) == hashlib.sha256(lines).hexdigest()


def test_digest_does_not_depend_on_shards_metadata_or_blocks(tmp_path, small_blocks):
    tensors = {f"t{number}": torch.randn(9, 11) for number in range(5)}
    single = digest(write_checkpoint(tmp_path / "single", tensors))
    assert digest(write_checkpoint(tmp_path / "shards", tensors, shards=3)) == single
    assert digest(write_checkpoint(tmp_path / "metadata", tensors, metadata={"author": "me"})) == single


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_digest_does_not_depend_on_prefix_buffers_or_stored_aliases(tmp_path, adapters, architecture):
    plain = make_tiny(tmp_path / "plain", architecture, tied=True)
    old = make_tiny(tmp_path / "old", architecture, tied=True, prefix=False, buffers=True, stored_alias=True)
    assert digest(plain, adapters[architecture]) == digest(old, adapters[architecture])


def test_digest_changes_with_any_bit_name_dtype_or_shape(tmp_path):
    variants = [
        {"a": torch.tensor([0.0, 1.0])},
        {"a": torch.tensor([-0.0, 1.0])},
        {"b": torch.tensor([0.0, 1.0])},
        {"a": torch.tensor([[0.0, 1.0]])},
        {"a": torch.tensor([0, 0x3F800000], dtype=torch.int32)},
    ]
    found = {digest(write_checkpoint(tmp_path / str(number), tensors)) for number, tensors in enumerate(variants)}
    assert len(found) == len(variants)


def test_digest_of_a_tied_model_is_not_that_of_the_same_model_untied(tmp_path, adapters):
    tied = make_tiny(tmp_path / "tied", "llama2", tied=True)
    untied = make_tiny(tmp_path / "untied", "llama2", tied=False)
    assert digest(tied, adapters["llama2"]) != digest(untied, adapters["llama2"])


def test_copy_has_the_same_digest(tmp_path, adapters):
    model = make_tiny(tmp_path / "model", "gpt2", sharded=True)
    copy = rewrite(model, tmp_path / "copy", lambda _, tensor: tensor)
    assert digest(model, adapters["gpt2"]) == digest(copy, adapters["gpt2"])
