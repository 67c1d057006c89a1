"""Scratch: one copy for all, never half of one, never more than was set, and nothing left behind."""

import errno
import os
import signal
import subprocess
import sys
from threading import Barrier, Thread

import pytest

from fpvec_audit.errors import OutputError
from fpvec_audit.storage import kept
from fpvec_audit.storage.scratch import ENTRY, RESERVED, Scratch, Wanted


def wanted(key="a" * 32, size=1000):
    return Wanted(key, "model", f"memory://{key[0]}", size)


def filled(size=1000, made=None):
    def make(place):
        if made is not None:
            made.append(place)
        (place / "weights").write_bytes(bytes(size))

    return make


def test_a_copy_is_made_once_and_stays(scratch):
    made = []
    for _ in range(2):
        with scratch.hold(wanted(), filled(made=made)) as place:
            assert place.name == "model"
            assert (place / "weights").stat().st_size == 1000
    assert len(made) == 1
    assert scratch.used() == 1000
    assert scratch.root.stat().st_mode & 0o777 == 0o700


def test_a_copy_that_nobody_wants_again_goes_with_its_last_user(scratch):
    with scratch.hold(wanted(), filled(), keep=False), scratch.hold(wanted(), filled(), keep=False) as place:
        pass
    assert not place.exists()
    with scratch.hold(wanted(), filled(), keep=False) as place:
        with scratch.hold(wanted(), filled(), keep=False):
            pass
        assert place.exists()


def test_the_longest_unused_copy_makes_room_and_one_in_use_never(tmp_path):
    scratch = Scratch(tmp_path / "scratch", 3000)
    with scratch.hold(wanted("a" * 32), filled()) as first:
        for key in "bcd":
            with scratch.hold(wanted(key * 32), filled()):
                pass
        assert first.exists()
        assert {entry.name[0] for entry in scratch._all()} == {"a", "c", "d"}


def test_too_little_room_is_one_error_with_what_is_missing(tmp_path):
    scratch = Scratch(tmp_path / "scratch", 3000)
    with (
        scratch.hold(wanted("a" * 32, 2000), filled(2000)),
        pytest.raises(OutputError, match=r"no room for memory://b: 500 of 1500 bytes are missing \(2000 of 3000"),
        scratch.hold(wanted("b" * 32, 1500), filled(1500)),
    ):
        pass
    with pytest.raises(OutputError, match="3000 of 4000 bytes are missing"), scratch.workspace(4000):
        pass
    assert scratch.used() == 2000  # nothing was evicted for what could never fit


def test_a_disk_that_is_full_all_the_same_says_what_is_missing_and_is_freed(scratch):
    def make(place):
        (place / "weights").write_bytes(bytes(4096))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(OutputError, match=r"the disk is full, \d+ of 50000 bytes are missing"),
        scratch.hold(wanted(size=50_000), make),
    ):
        pass
    assert scratch.used() == 0


def test_a_workspace_counts_from_the_beginning_and_goes_at_the_end(scratch):
    with scratch.workspace(60_000) as place:
        assert list(place.iterdir()) == []
        assert scratch.used() == 60_000
        with pytest.raises(OutputError, match="20000 of 60000"), scratch.workspace(60_000):
            pass
    assert scratch.used() == 0
    assert not place.exists()


def test_threads_that_want_one_copy_get_one(scratch):
    made, seen, gate = [], [], Barrier(8)

    def want():
        gate.wait()
        with scratch.hold(wanted(), filled(made=made)) as place:
            seen.append((place / "weights").stat().st_size)

    threads = [Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1000] * 8
    assert len(made) == 1


def test_clearing_leaves_what_is_in_use(scratch):
    with scratch.hold(wanted("a" * 32), filled()) as place:
        with scratch.hold(wanted("b" * 32), filled()):
            pass
        assert scratch.clear() > 0
        assert place.exists()
    scratch.clear()
    assert scratch.used() == 0


HOLDER = """
import sys
from pathlib import Path
from fpvec_audit.storage.scratch import Scratch, Wanted
def make(place):
    (place / "first").write_bytes(bytes(10))
    print("begun", flush=True)
    sys.stdin.readline()
scratch = Scratch(Path(sys.argv[1]), 100_000)
with scratch.workspace(50_000), scratch.hold(Wanted("a" * 32, "model", "memory://a", 1000), make):
    pass
"""


def test_what_a_killed_process_held_is_free_and_what_it_began_is_gone_on_with(scratch):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, scratch.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "begun\n"
        with pytest.raises(OutputError, match="no room"), scratch.workspace(60_000):
            pass
        child.send_signal(signal.SIGKILL)
    found = []

    def make(place):
        found.extend(file.name for file in place.iterdir())
        filled()(place)

    assert not (scratch.root / ("a" * 32)).exists()
    with scratch.hold(wanted(), make), scratch.workspace(60_000):
        assert found == ["first"]
        assert len(scratch._all()) == 2
        assert not list(scratch.root.glob(f"*/{RESERVED}"))[1:]
        assert (scratch.root / ("a" * 32) / ENTRY).is_file()


def test_a_directory_in_use_is_not_removed(tmp_path):
    entry = tmp_path / "entry"
    entry.mkdir()
    (entry / "mark").touch()
    lock = kept.in_use(entry, "mark")
    assert not kept.removed(entry, "mark")
    os.close(lock)
    assert kept.removed(entry, "mark")
    assert kept.in_use(entry, "mark") == -1
