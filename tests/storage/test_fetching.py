"""Fetching: what a checkpoint needs, one state of it, once for everybody, and gone on with after a kill."""

import signal
import subprocess
import sys

import pytest

from fpvec_audit.errors import OutputError, StorageError
from fpvec_audit.storage import fetching
from fpvec_audit.storage.fetching import fetched, stored_bytes
from fpvec_audit.storage.scratch import Scratch
from tests.storage.conftest import SHARDS, add_other_forms, contents


def upload(store, directory, path):
    store.put(f"{directory}/", f"{path}/", recursive=True)


def test_a_plain_path_is_used_where_it_lies(model, scratch):
    with fetched(str(model), scratch=scratch) as place:
        assert place == model
    assert not scratch.root.exists()


def test_only_what_a_checkpoint_needs_is_fetched(model, memory, scratch, monkeypatch):
    monkeypatch.setattr(fetching, "PIECE", 300)  # several pieces a file
    expected = contents(model)
    add_other_forms(model)
    upload(memory, model, "/models/one")
    with fetched("memory://models/one", scratch=scratch) as place:
        assert place.name == "one"
        assert contents(place) == expected
    assert stored_bytes("memory://models/one") == sum(map(len, expected.values())) == scratch.used()


def test_adapters_and_vectors_are_fetched_with_their_tensors(tmp_path, memory, scratch):
    for name, entry, tensors in (
        ("vector", "fpvec_vector.json", "vector.safetensors"),
        ("lora", "adapter_config.json", "adapter_model.safetensors"),
    ):
        place = tmp_path / name
        place.mkdir()
        (place / entry).write_text("{}")
        (place / tensors).write_bytes(b"t")
        upload(memory, place, f"/{name}")
        with fetched(f"memory://{name}", scratch=scratch) as found:
            assert contents(found) == contents(place)


def test_what_changed_in_the_store_is_another_copy(model, scratch):
    url = model.as_uri()
    with fetched(url, scratch=scratch) as first:
        (model / SHARDS[0]).write_bytes(b"v" * 1000)
        with fetched(url, scratch=scratch) as second:
            assert (first / SHARDS[0]).read_bytes() == b"w" * 1000
            assert (second / SHARDS[0]).read_bytes() == b"v" * 1000


def test_what_changes_while_it_is_fetched_is_refused(model, scratch, monkeypatch):
    real = fetching._complete

    def complete(target):
        real(target)
        (model / SHARDS[0]).write_bytes(b"v" * 1000)

    monkeypatch.setattr(fetching, "_complete", complete)
    with pytest.raises(StorageError, match="changed while it was fetched"), fetched(model.as_uri(), scratch=scratch):
        pass


@pytest.mark.parametrize(
    ("gone", "problem"),
    [("config.json", "has none of config.json"), (SHARDS[1], f"has no {SHARDS[1]}, which its index names")],
)
def test_half_a_checkpoint_is_refused_before_anything_is_fetched(model, scratch, gone, problem):
    (model / gone).unlink()
    with pytest.raises(StorageError, match=problem), fetched(model.as_uri(), scratch=scratch):
        pass
    assert not scratch.root.exists()


def test_nothing_at_an_address_is_said(tmp_path, scratch):
    with pytest.raises(StorageError, match="holds nothing"), fetched(f"file://{tmp_path}/none", scratch=scratch):
        pass


def test_a_damaged_index_is_refused(model, scratch):
    (model / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(StorageError, match="no index of shards"), fetched(model.as_uri(), scratch=scratch):
        pass


def test_a_name_that_leads_out_is_refused(model, memory, scratch):
    upload(memory, model, "/models/one")
    memory.store["/models/one/../two"] = memory.store["/models/one/config.json"]
    with pytest.raises(StorageError, match="leads out of it"), fetched("memory://models/one", scratch=scratch):
        pass


def test_a_store_that_gives_less_than_it_listed_is_refused(model, memory, scratch, monkeypatch):
    upload(memory, model, "/models/one")
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, start=None, end=None, **__: b"{}"[start:end])
    with pytest.raises(StorageError, match=r"no index|bytes from 0"), fetched("memory://models/one", scratch=scratch):
        pass


def test_scratch_that_is_too_small_is_said_before_anything_is_fetched(model, tmp_path):
    small = Scratch(tmp_path / "scratch", 2000)
    refusal = pytest.raises(OutputError, match=r"no room for file://.*bytes are missing")
    with refusal, fetched(model.as_uri(), scratch=small):
        pass


FETCHER = """
import sys
from pathlib import Path
from fpvec_audit.storage import fetching
from fpvec_audit.storage.scratch import Scratch
real = fetching._complete
def complete(target):
    real(target)
    print(target.name, flush=True)
    if sys.argv[3] == "stop":
        sys.stdin.readline()
fetching._complete, fetching.CONNECTIONS = complete, 1
with fetching.fetched(sys.argv[1], scratch=Scratch(Path(sys.argv[2]), 100_000)) as place:
    print("whole", sum(file.is_file() for file in place.rglob("*")), flush=True)
    sys.stdin.readline()
"""


def fetcher(url, scratch, stop):
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, url, scratch.root, stop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_fetch_is_never_taken_for_whole_and_gone_on_with(model, scratch):
    with fetcher(model.as_uri(), scratch, "stop") as first:
        done = first.stdout.readline().strip()
        first.send_signal(signal.SIGKILL)
    assert all(entry.name.startswith(".") for entry in scratch.root.iterdir())
    with fetcher(model.as_uri(), scratch, "go") as second:
        out, _ = second.communicate("\n")
    assert done not in out.split()
    assert f"whole {len(contents(model))}" in out


def test_two_processes_that_want_the_same_fetch_it_once(model, scratch):
    with fetcher(model.as_uri(), scratch, "stop") as first:
        begun = first.stdout.readline()  # amid its fetch, until it is answered
        with fetcher(model.as_uri(), scratch, "go") as second:
            one, _ = first.communicate("\n" * 20)
            two, _ = second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)
    fetched_files = [line for line in (begun + one + two).splitlines() if not line.startswith("whole")]
    assert sorted(fetched_files) == sorted(name.rsplit("/")[-1] for name in contents(model))
    assert "whole" in one
    assert "whole" in two
    scratch.clear()
    assert [file.name for file in scratch.root.iterdir()] == [".accounts"]
