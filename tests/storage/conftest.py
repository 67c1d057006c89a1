"""Stored checkpoints of a few bytes: what matters here is which files there are and when, not what is in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest

from fpvec_audit.storage.scratch import Scratch

if TYPE_CHECKING:
    from fsspec.implementations.memory import MemoryFileSystem

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_model(directory: Path, *, fill: bytes = b"w", size: int = 1000) -> Path:
    """Write what looks like a sharded checkpoint, with things beside it that no stamp carries over."""
    directory.mkdir(parents=True)
    for shard in SHARDS:
        (directory / shard).write_bytes(fill * size)
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "assets").mkdir()
    (directory / "assets" / "card.txt").write_bytes(b"")
    return directory


def add_other_forms(directory: Path) -> None:
    """Put other forms of the same weights, and records of version control, beside a checkpoint."""
    (directory / "pytorch_model.bin").write_bytes(b"x")
    (directory / "consolidated.safetensors").write_bytes(b"x")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "record").write_bytes(b"x")


def contents(directory: Path) -> dict[str, bytes]:
    """Return relative name → bytes of every file of a directory."""
    return {
        file.relative_to(directory).as_posix(): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Return scratch of 100 kB, empty."""
    return Scratch(tmp_path / "scratch", 100_000)


@pytest.fixture
def memory() -> Iterator["MemoryFileSystem"]:
    """Return fsspec's store in memory, emptied afterwards."""
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return what looks like a sharded checkpoint."""
    return write_model(tmp_path / "model")
