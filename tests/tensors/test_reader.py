import os

import pytest
import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.blocks import block_ranges, torch_dtype
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.reader import OpenFiles, TensorReader
from tests.tiny import write_checkpoint


def test_blocks_cover_a_tensor_once_and_in_order(small_blocks):
    assert list(block_ranges(80)) == [(0, 37), (37, 37), (74, 6)]
    assert list(block_ranges(80, first=70)) == [(70, 10)]
    assert list(block_ranges(0)) == []


@pytest.mark.parametrize("dtype", list(Dtype), ids=lambda dtype: dtype.label)
def test_blocks_put_together_are_the_tensor(tmp_path, small_blocks, dtype):
    stored = torch.arange(100, dtype=torch.float32).to(torch_dtype(dtype))
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "m", {"x": stored.view(4, 25)}))
    with TensorReader(checkpoint.path) as reader:
        read = torch.cat([block.clone() for _, block in reader.blocks(checkpoint.tensors["x"])])
    assert torch.equal(read.view(torch.uint8), stored.view(torch.uint8))


def test_file_truncated_while_it_is_read_is_refused_and_named(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "m", {"x": torch.zeros(100)}))
    os.truncate(tmp_path / "m" / "model.safetensors", checkpoint.tensors["x"].start + 40)
    with TensorReader(checkpoint.path) as reader, pytest.raises(CheckpointError, match=r"ended at byte \d+, inside x"):
        reader.read(checkpoint.tensors["x"], 0, 100)


def test_source_gives_any_part_of_a_tensor(tmp_path):
    stored = torch.arange(100.0)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "m", {"before": torch.ones(3), "x": stored.view(4, 25)}))
    with OpenFiles(checkpoint.path) as files:
        source = files.source(checkpoint.tensors["x"])
        assert (source.dtype, source.shape) == (Dtype.F32, (4, 25))
        for start, count in ((0, 100), (99, 1), (7, 30)):
            block = bytearray(4 * count)
            source.read_into(start, count, memoryview(block))
            assert torch.equal(torch.frombuffer(block, dtype=torch.float32), stored[start : start + count])


def test_file_that_vanished_is_refused(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "m", {"x": torch.zeros(100)}))
    (tmp_path / "m" / "model.safetensors").unlink()
    with TensorReader(checkpoint.path) as reader, pytest.raises(CheckpointError, match="missing"):
        reader.read(checkpoint.tensors["x"], 0, 100)
