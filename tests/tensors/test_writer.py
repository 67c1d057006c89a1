import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

from fpvec_audit.errors import OutputError
from fpvec_audit.tensors import writer
from fpvec_audit.tensors.writer import STAGING_MARK, TensorWriter, staged_directory


def write_something(staging: Path) -> None:
    (staging / "sub").mkdir()
    (staging / "sub" / "file").write_bytes(b"content")


def test_target_appears_whole_when_the_context_ends(tmp_path):
    target = tmp_path / "deep" / "er" / "target"
    with staged_directory(target, 10) as staging:
        write_something(staging)
        assert not target.exists()
        assert staging.parent == target.parent
        assert staging.name.startswith(f".target{STAGING_MARK}")
    assert (target / "sub" / "file").read_bytes() == b"content"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), OutputError("x")], ids=repr)
def test_nothing_is_left_when_the_work_is_interrupted(tmp_path, error):
    def interrupted(staging):
        write_something(staging)
        raise error

    with pytest.raises(type(error)), staged_directory(tmp_path / "deep" / "target", 10) as staging:
        interrupted(staging)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_existing_target_is_refused_and_kept(tmp_path, make):
    make(tmp_path / "target")
    with pytest.raises(OutputError, match="exists already"), staged_directory(tmp_path / "target", 10):
        pytest.fail("the work must not begin")
    assert os.path.lexists(tmp_path / "target")


def test_target_that_appears_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(OutputError, match="exists already"), staged_directory(tmp_path / "target", 10):
        (tmp_path / "target").mkdir()
    assert list((tmp_path / "target").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_too_little_space_is_refused_before_the_first_byte(tmp_path):
    with pytest.raises(OutputError, match=r"bytes free, 1\d{18} are needed"), staged_directory(tmp_path / "t", 10**18):
        pytest.fail("the work must not begin")
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"), staged_directory(tmp_path / "file" / "t", 10):
        pytest.fail("the work must not begin")


def test_failure_of_the_disk_is_told_with_the_bytes_needed(tmp_path):
    with (
        pytest.raises(OutputError, match="the disk is full, 1234 bytes are needed in all"),
        staged_directory(tmp_path / "t", 1234),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def record(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(writer.os, "fsync", record)
    with staged_directory(tmp_path / "target", 10) as staging:
        write_something(staging)
        name = staging.name
    assert synced == ["file", "sub", name, tmp_path.name]


def test_blocks_are_written_one_after_the_other(tmp_path):
    with TensorWriter(tmp_path / "x", b"head") as file:
        file.append(torch.tensor([1, 2], dtype=torch.uint8))
        file.append(torch.tensor([], dtype=torch.float32))
        file.append(torch.tensor([1.0], dtype=torch.bfloat16))
        assert file.written == 8
    assert (tmp_path / "x").read_bytes() == b"head\x01\x02\x80\x3f"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(writer.os, "pwrite", lambda file, content, place: pwrite(file, content[:3], place))
    with TensorWriter(tmp_path / "x", b"0123456789") as file:
        assert file.written == 10
    assert (tmp_path / "x").read_bytes() == b"0123456789"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_leaves_nothing_behind(small_disk):
    with (
        pytest.raises(OutputError, match="the disk is full, 1000 bytes are needed in all"),
        staged_directory(small_disk / "deep" / "target", 1000) as staging,
        TensorWriter(staging / "x", b"") as file,
    ):
        file.append(torch.zeros(1_000_000))
    assert list(small_disk.iterdir()) == []
