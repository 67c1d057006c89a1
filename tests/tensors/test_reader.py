import os
from dataclasses import replace

import pytest
import torch

from fpvec_audit.domain.checkpoint import Dtype
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors import uncached
from fpvec_audit.tensors.blocks import PAGE, BlockMemory, block_ranges, torch_dtype
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.reader import OpenFiles, TensorReader, UncachedSource
from fpvec_audit.tensors.source import FetchedSource
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


def fetched(source, start, count):
    assert isinstance(source, FetchedSource)
    block = BlockMemory().block(source.dtype, count, source.lead(start))
    source.fetch(start, block)
    return block.torch().clone()


@pytest.fixture
def nothing_cached(monkeypatch):
    """Let every block come from the disk, whatever the page cache holds."""
    monkeypatch.setattr("fpvec_audit.tensors.reader.read_cached", lambda *_: False)


@pytest.fixture
def two_tensors(tmp_path):
    stored = {"before": torch.arange(700.0), "x": torch.arange(5 * PAGE, dtype=torch.float32)}
    return stored, read_checkpoint(write_checkpoint(tmp_path / "m", stored))


@pytest.mark.parametrize("way", ["cached", "uncached", "no direct reads", "direct reads fail"])
def test_what_is_read_once_is_the_same_however_it_comes(two_tensors, monkeypatch, request, way):
    stored, checkpoint = two_tensors
    if way != "cached":
        request.getfixturevalue("nothing_cached")
    if way == "no direct reads":
        monkeypatch.setattr("fpvec_audit.tensors.reader.open_uncached", lambda _: -1)
    if way == "direct reads fail":
        monkeypatch.setattr("fpvec_audit.tensors.reader.read_pages", lambda *_: False)
    with OpenFiles(checkpoint.path, once=True) as files:
        for name, start, count in (("x", 0, 5 * PAGE), ("x", 3, 1), ("x", 1000, 2 * PAGE), ("before", 5, 695)):
            source = files.source(checkpoint.tensors[name])
            assert torch.equal(fetched(source, start, count), stored[name][start : start + count])
            assert source.slow is (way != "cached")


def test_reading_once_leaves_the_page_cache_alone(two_tensors, nothing_cached):
    _, checkpoint = two_tensors
    file = checkpoint.path / "model.safetensors"
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with OpenFiles(checkpoint.path, once=True) as files:
            if files.uncached("model.safetensors") < 0:
                pytest.skip("this file system has no direct reads")
            fetched(files.source(checkpoint.tensors["x"]), 0, 5 * PAGE)
        assert not uncached.read_cached(
            opened.fileno(), memoryview(bytearray(PAGE)), checkpoint.tensors["x"].end - PAGE
        )


def test_file_truncated_while_it_is_read_past_the_cache_is_refused_and_named(two_tensors, nothing_cached):
    _, checkpoint = two_tensors
    os.truncate(checkpoint.path / "model.safetensors", checkpoint.tensors["x"].start + 3 * PAGE + 40)
    with OpenFiles(checkpoint.path, once=True) as files, pytest.raises(CheckpointError, match=r"ended at .* inside x"):
        fetched(files.source(checkpoint.tensors["x"]), 0, 5 * PAGE)


def test_tensors_between_the_numbers_of_others_are_read_in_the_ordinary_way(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "m", {"x": torch.zeros(4)}))
    spec = checkpoint.tensors["x"]
    with OpenFiles(checkpoint.path, once=True) as files:
        assert isinstance(files.source(spec), UncachedSource)
        crooked = replace(spec, start=spec.start + 1, end=spec.end + 1)
        assert not isinstance(files.source(crooked), FetchedSource)
