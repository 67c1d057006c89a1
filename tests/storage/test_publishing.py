"""Publishing: no reader sees half of it, a place is written once, and doing it twice does no harm."""

import pytest

from fpvec_audit.errors import OutputError, StorageError, UsageError
from fpvec_audit.storage.fetching import fetched
from fpvec_audit.storage.publishing import publish
from tests.storage.conftest import SHARDS, contents, write_model

PLACE = "memory://out/one"


def stored(memory, path="/out/one"):
    return {name.removeprefix(f"{path}/"): memory.cat_file(name) for name in memory.find(path)}


def test_a_directory_is_published_with_every_file_and_nothing_more(model, memory, scratch):
    done = publish(model, PLACE)
    assert stored(memory) == contents(model)
    assert (done.files, done.bytes, done.already) == (6, sum(map(len, contents(model).values())), False)
    with fetched(PLACE, scratch=scratch) as place:
        assert contents(place) == contents(model)


def test_no_reader_takes_a_publication_under_way_for_a_model(model, memory, scratch, monkeypatch):
    seen = []
    real = type(memory).put_file

    def put_file(self, local, remote, *args, **kwargs):
        with pytest.raises(StorageError, match=r"has none of config\.json|holds nothing"):
            fetched(PLACE, scratch=scratch).__enter__()
        real(self, local, remote, *args, **kwargs)
        seen.append(remote)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    publish(model, PLACE)
    assert seen[-1].endswith("/config.json")


def test_an_interrupted_publication_is_written_over_and_what_is_whole_stays(model, memory):
    memory.pipe_file(f"/out/one/{SHARDS[0]}", b"half")
    assert not publish(model, PLACE).already
    assert stored(memory) == contents(model)
    assert publish(model, PLACE).already


@pytest.mark.parametrize("url", [PLACE, "file://{}/out"])
def test_another_copy_of_the_same_size_is_not_taken_for_the_same(model, memory, tmp_path, url):
    url = url.format(tmp_path)
    assert not publish(model, url).already
    assert publish(model, url).already
    other = write_model(tmp_path / "other", fill=b"v")
    with pytest.raises(OutputError, match="exists already and is not the same"):
        publish(other, url)


def test_a_place_with_something_else_in_it_is_refused(model, memory):
    memory.pipe_file("/out/one/notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"exists already and holds notes\.txt"):
        publish(model, PLACE)
    assert stored(memory) == {"notes.txt": b"mine"}


def test_a_store_that_keeps_less_than_it_was_given_gets_no_entry(model, memory, monkeypatch):
    real = type(memory).put_file

    def put_file(self, local, remote, *args, **kwargs):
        if remote.endswith(SHARDS[1]):
            self.pipe_file(remote, b"half")
        else:
            real(self, local, remote, *args, **kwargs)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(StorageError, match=f"{SHARDS[1]} has 4 bytes after 1000 were sent"):
        publish(model, PLACE)
    assert "config.json" not in stored(memory)


def test_on_a_disk_the_directory_appears_at_once(model, tmp_path):
    url = f"file://{tmp_path}/deep/out"
    publish(model, url)
    assert contents(tmp_path / "deep" / "out") == contents(model)
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["out"]


def test_what_no_reader_would_know_as_whole_is_refused(tmp_path, memory):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(UsageError, match="is no model, vector or adapter"):
        publish(tmp_path / "notes", PLACE)
