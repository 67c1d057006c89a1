"""The same over HTTP: s3fs against a server that speaks S3 on loopback."""

import logging

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from fpvec_audit.errors import StorageError
from fpvec_audit.storage import fetching
from fpvec_audit.storage.fetching import fetched
from fpvec_audit.storage.publishing import publish
from tests.storage.conftest import SHARDS, contents


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """Return a file system with an empty bucket; credentials come as they always do, from the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    store.rm("bucket", recursive=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_model_goes_to_a_bucket_and_comes_back(model, s3, scratch, monkeypatch):
    monkeypatch.setattr(fetching, "PIECE", 300)
    assert not publish(model, "s3://bucket/models/one").already
    assert publish(model, "s3://bucket/models/one").already
    with fetched("s3://bucket/models/one", scratch=scratch) as place:
        assert contents(place) == contents(model)
    s3.pipe_file(f"bucket/models/one/{SHARDS[0]}", b"v" * 1000)
    with fetched("s3://bucket/models/one", scratch=scratch) as place:  # listed anew, another copy
        assert (place / SHARDS[0]).read_bytes() == b"v" * 1000


def test_what_is_not_there_is_said(model, s3, scratch):
    for place in ("s3://bucket/none", "s3://nowhere/none"):
        with pytest.raises(StorageError, match=f"{place} holds nothing"):
            fetched(place, scratch=scratch).__enter__()
    with pytest.raises(StorageError, match="s3://nowhere/one does not exist"):
        publish(model, "s3://nowhere/one")
