import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from fpvec_audit.errors import OutputError
from fpvec_audit.tensors import staging as staging_module
from fpvec_audit.tensors.staging import STAGING_MARK, leftovers, remove_leftovers, staged_directory


class RecordedProgress:
    """Keeps the remarks on steps."""

    def __init__(self):
        self.notes = []

    @contextmanager
    def step(self, label, total=None, unit=""):
        notes = self.notes

        class Step:
            def advance(self, amount=1.0): ...

            def note(self, text):
                notes.append((label, text))

        yield Step()


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

    monkeypatch.setattr(staging_module.os, "fsync", record)
    with staged_directory(tmp_path / "target", 10) as staging:
        write_something(staging)
        name = staging.name
    assert synced == ["file", "sub", name, tmp_path.name]


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
    ):
        (staging / "x").write_bytes(bytes(1_000_000))
    assert list(small_disk.iterdir()) == []


def abandoned(target, *, name="0123abcd"):
    """Leave what kill -9 leaves: a staging directory that nobody holds."""
    staging = target.parent / f".{target.name}{STAGING_MARK}{name}"
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"half")
    return staging


def test_leftover_of_a_killed_run_is_found_named_and_removed(tmp_path):
    leftover, other = abandoned(tmp_path / "target"), abandoned(tmp_path / "another")
    assert leftovers(tmp_path / "target") == (leftover,)
    progress = RecordedProgress()
    with staged_directory(tmp_path / "target", 10, progress=progress) as staging:
        assert not leftover.exists()
        write_something(staging)
    assert progress.notes == [(f"remove {leftover}", "left by an interrupted run")]
    assert other.exists()


def test_directory_that_a_running_process_works_in_is_no_leftover(tmp_path):
    with staged_directory(tmp_path / "target", 10) as staging:
        assert leftovers(tmp_path / "target") == ()
        with (
            pytest.raises(OutputError, match="another process works in"),
            staged_directory(tmp_path / "target", 10, resumed=staging),
        ):
            pytest.fail("the work must not begin")
        assert staging.exists()


def test_leftover_may_be_gone_on_with(tmp_path):
    leftover = abandoned(tmp_path / "target")
    with staged_directory(tmp_path / "target", 10, resumed=leftover) as staging:
        assert staging == leftover
    assert (tmp_path / "target" / "half").read_bytes() == b"half"


def test_link_is_never_taken_for_a_leftover(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / f".target{STAGING_MARK}00000000").symlink_to(tmp_path / "precious")
    assert leftovers(tmp_path / "target") == ()


def test_no_leftovers_where_there_is_no_directory(tmp_path):
    assert leftovers(tmp_path / "nowhere" / "target") == ()


def test_leftover_that_another_run_has_taken_since_is_kept(tmp_path, monkeypatch):
    leftover = abandoned(tmp_path / "target")
    monkeypatch.setattr(staging_module, "leftovers", lambda target: (leftover,))  # as it was a moment ago
    with staged_directory(tmp_path / "target", 10, resumed=leftover):
        remove_leftovers(tmp_path / "target")
        assert (leftover / "half").exists()


def test_leftover_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    leftover = abandoned(tmp_path / "target")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path / "half"))

    monkeypatch.setattr(staging_module.shutil, "rmtree", refuse)
    with pytest.raises(OutputError, match=f"{leftover}, left by an interrupted run, cannot be removed: Permission"):
        remove_leftovers(tmp_path / "target")


def test_new_directory_that_another_run_takes_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    target, opened, taken = tmp_path / "target", os.open, []

    def take_first(path, *arguments):
        """Let the other run be quicker, between making the directory and locking it."""
        if STAGING_MARK in str(path) and not taken:
            taken.append(path)
            path.rmdir()
        return opened(path, *arguments)

    monkeypatch.setattr(staging_module.os, "open", take_first)
    with staged_directory(target, 10) as staging:
        assert staging not in taken
        write_something(staging)
    assert len(taken) == 1
    assert (target / "sub" / "file").exists()


def test_order_of_leftovers_does_not_fail_on_one_that_vanishes(tmp_path, monkeypatch):
    leftover = abandoned(tmp_path / "target")

    def vanish(staging):
        staging_module.shutil.rmtree(staging)
        return True

    monkeypatch.setattr(staging_module, "_is_free", vanish)
    assert leftovers(tmp_path / "target") == (leftover,)
