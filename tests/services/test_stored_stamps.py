"""Stamps of what lies elsewhere: the bytes of a stamp here, recorded where they lie for good, and nothing left."""

import json

import fsspec
import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli.main import run
from fpvec_audit.errors import OutputError, UsageError
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.models import register_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.stored_stamps import StampPlaces, split_scale, stamp_stored
from fpvec_audit.storage.scratch import Scratch
from tests.storage.conftest import contents
from tests.tiny import make_tiny, perturb


@pytest.fixture
def store(tmp_path, registry):
    """Return fsspec's store in memory, with a vector and a downstream model that the registry knows."""
    tools = {"registry": registry, "catalog": load_catalog()}
    base = make_tiny(tmp_path / "base", "llama2", sharded=True)
    extract_vector(base, perturb(base, tmp_path / "fingerprinted", exact=True), out=tmp_path / "vector", **tools)
    register_model(perturb(base, tmp_path / "chat", seed=2), parent="base", **tools)
    memory = fsspec.filesystem("memory")
    for name in ("vector", "chat"):
        memory.put(f"{tmp_path / name}/", f"/in/{name}/", recursive=True)
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def stamped(tmp_path, registry, *, out, licensees=()):
    def make(here):
        tools = {"registry": registry, "catalog": load_catalog()}
        return stamp_models(here.downstreams, vectors=here.vectors, out=here.out, licensees=licensees, **tools)

    places = StampPlaces(("memory://in/chat",), ("memory://in/vector:0.5",), out)
    scratch = Scratch(tmp_path / "scratch", 10**9)
    return stamp_stored(places, make, copies=max(1, len(licensees)), scratch=scratch, registry=registry), scratch


def stored(memory, path):
    return {name.removeprefix(f"{path}/"): memory.cat_file(name) for name in memory.find(path)}


def test_a_stamp_elsewhere_is_that_of_the_same_models_here(tmp_path, registry, store):
    (there,), scratch = stamped(tmp_path, registry, out="memory://out/chat")
    tools = {"registry": registry, "catalog": load_catalog()}
    vectors = [f"{tmp_path / 'vector'}:0.5"]
    (here,) = stamp_models([tmp_path / "chat"], vectors=vectors, out=tmp_path / "out", **tools)
    assert stored(store, "/out/chat") == contents(tmp_path / "out")
    assert (there.stamp_id, there.digest) == (here.stamp_id, here.digest)
    scratch.clear()
    assert [entry.name for entry in scratch.root.iterdir()] == [".accounts"]


def test_the_registry_says_where_things_lie_for_good(tmp_path, registry, store):
    (made,), scratch = stamped(tmp_path, registry, out="memory://out/chat")
    assert made.to_json()["out"] == "memory://out/chat"
    with registry.snapshot() as uow:
        assert uow.stamps.get(made.stamp_id).location == "memory://out/chat"
        assert uow.models.get(made.digest).location == "memory://out/chat"
        assert uow.models.get(made.downstream_digest).location == "memory://in/chat"
        assert uow.ledger.verify() is None
    names = {entry.name for entry in scratch.root.iterdir()}
    assert len(names) == 2  # the vector stays for the next stamp, the model does not
    (again,), _ = stamped(tmp_path, registry, out="memory://out/chat")
    assert again.stamp_id == made.stamp_id


def test_a_model_lies_where_it_was_fetched_from_even_if_its_copy_was_not_published(tmp_path, registry, store):
    store.pipe("/out/chat/strange.bin", b"something else")
    with pytest.raises(OutputError, match="strange"):
        stamped(tmp_path, registry, out="memory://out/chat")
    with registry.snapshot() as uow:
        (downstream,) = (model for model in uow.models.list() if model.name == "chat")
    assert downstream.location == "memory://in/chat"


def test_copies_of_several_licensees_lie_below_the_address(tmp_path, registry, store):
    made, _ = stamped(tmp_path, registry, out="memory://out/release", licensees=["Acme", "Globex"])
    addresses = ["memory://out/release/chat-Acme", "memory://out/release/chat-Globex"]
    assert [stamp.address for stamp in made] == addresses
    for address in addresses:
        assert "config.json" in stored(store, address.removeprefix("memory:/"))


def test_the_command_takes_urls(tmp_path, settings, registry, store, capsys):
    arguments = ["stamp", "memory://in/chat", "--vector", "memory://in/vector", "--out", f"file://{tmp_path}/out"]
    assert run([*arguments, "--home", str(settings.home), "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)
    assert made["out"] == f"file://{tmp_path}/out"
    assert "config.json" in contents(tmp_path / "out")


def test_an_output_that_cannot_be_read_is_refused_before_anything_is_fetched(tmp_path, registry, store):
    with pytest.raises(UsageError, match="whole store"):
        stamped(tmp_path, registry, out="s3://bucket")
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://bucket/v", ("s3://bucket/v", "")),
        ("s3://bucket/v:0.5", ("s3://bucket/v", ":0.5")),
        ("./vector:2", ("./vector", ":2")),
        ("vec-12", ("vec-12", "")),
    ],
)
def test_a_scale_is_told_from_a_url(text, parts):
    assert split_scale(text) == parts
