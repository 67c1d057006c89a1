import os

import pytest
import torch

from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.rewrite import copy_files, other_files, rewrite_tensors, same_other_files
from tests.tiny import make_tiny, write_checkpoint


def unchanged(spec, source):
    return source


def copy_of(checkpoint, out):
    out.mkdir()
    rewrite_tensors(checkpoint, out, unchanged, label="copy")
    copy_files(other_files(checkpoint).carried, out)
    return out


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sharded", [False, True])
def test_change_that_changes_nothing_gives_the_same_bytes(tmp_path, small_blocks, sharded):
    model = make_tiny(tmp_path / "model", "vicuna", sharded=sharded)
    assert contents(copy_of(read_checkpoint(model), tmp_path / "copy")) == contents(model)


def test_header_metadata_order_and_padding_are_kept(tmp_path):
    model = write_checkpoint(tmp_path / "m", {"b": torch.ones(1), "a": torch.ones(2)}, metadata={"author": "Jane"})
    assert contents(copy_of(read_checkpoint(model), tmp_path / "copy")) == contents(model)


def test_change_sees_every_block_once_with_its_place(tmp_path, small_blocks):
    model = write_checkpoint(tmp_path / "m", {"a": torch.arange(80.0), "b": torch.zeros(0), "c": torch.tensor(1.0)})
    seen = []

    class Noted:
        def __init__(self, spec, source):
            self.spec, self.source, self.dtype, self.shape = spec, source, source.dtype, source.shape

        def read_into(self, start, count, block):
            seen.append((self.spec.name, start, count))
            self.source.read_into(start, count, block)

    (tmp_path / "out").mkdir()
    rewrite_tensors(read_checkpoint(model), tmp_path / "out", Noted, label="note")
    assert sorted(seen) == [("a", 0, 37), ("a", 37, 37), ("a", 74, 6), ("c", 0, 1)]


def test_other_forms_of_the_weights_and_records_of_them_are_left_out(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2")
    left_out = (
        "pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors.index.json", "tf_model.h5", "m.gguf",
        "consolidated.00.pth", "other.safetensors", "flax_model.msgpack", "onnx/model.onnx", ".git", ".cache",
    )  # fmt: skip
    for name in left_out:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).mkdir() if name.startswith(".") else (model / name).touch()
    for name in ("training_args.bin", "README.md", "onnx/notes.txt"):
        (model / name).touch()
    files = other_files(read_checkpoint(model))
    assert files.left_out == tuple(sorted(left_out))
    assert {"training_args.bin", "README.md", "onnx/notes.txt", "config.json"} <= files.carried.keys()


def test_index_of_a_sharded_checkpoint_is_carried_over(tmp_path):
    files = other_files(read_checkpoint(make_tiny(tmp_path / "model", "gpt2", sharded=True)))
    assert "model.safetensors.index.json" in files.carried
    assert files.left_out == ()


def test_links_inside_are_followed_and_links_outside_refused(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2")
    (model / "link.json").symlink_to("config.json")
    copy = copy_of(read_checkpoint(model), tmp_path / "copy")
    assert (copy / "link.json").read_bytes() == (model / "config.json").read_bytes()
    assert not (copy / "link.json").is_symlink()
    (tmp_path / "secret").write_text("secret")
    (model / "leak").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside of the directory"):
        other_files(read_checkpoint(model))


def test_pipe_in_the_directory_is_refused(tmp_path):
    model = make_tiny(tmp_path / "model", "gpt2")
    os.mkfifo(model / "pipe")
    with pytest.raises(CheckpointError, match="pipe is not a regular file"):
        other_files(read_checkpoint(model))


def test_file_that_was_changed_since_its_header_was_read_is_refused(tmp_path):
    model = write_checkpoint(tmp_path / "m", {"a": torch.ones(3)})
    checkpoint = read_checkpoint(model)
    write_checkpoint(model, {"a": torch.ones(4)})
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        rewrite_tensors(checkpoint, tmp_path / "out", unchanged, label="copy")


def test_copy_is_recognised_until_any_file_differs(tmp_path):
    checkpoint = read_checkpoint(make_tiny(tmp_path / "model", "gpt2"))
    copy = copy_of(checkpoint, tmp_path / "copy")
    assert same_other_files(checkpoint, copy)
    (copy / "new").touch()
    assert not same_other_files(checkpoint, copy)
    (copy / "new").unlink()
    (copy / "config.json").write_text("{}")
    assert not same_other_files(checkpoint, copy)
