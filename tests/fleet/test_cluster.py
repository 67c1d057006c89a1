"""What is refused before a cluster is used, and what items ask of it; without starting Ray."""

import socket
import time
from dataclasses import replace

import pytest

from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.errors import OperationError, UsageError
from fpvec_audit.fleet import cluster as clusters
from fpvec_audit.fleet.cluster import ray_cluster
from fpvec_audit.fleet.handshake import Greeting, refuse_differences
from fpvec_audit.fleet.sizing import Need, Sizing

DRIVER = Greeting("here", "1.0", "2.60.0", registry="r1")
MIB = 1 << 20


def connect(address, settings):
    with ray_cluster(address, settings=settings):
        raise AssertionError("there is no cluster")


def test_address_where_nobody_listens_is_told_within_seconds(settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(OperationError, match=f"no cluster answers at {address}") as caught:
            connect(address, settings)
        assert "ray start --head" in caught.value.advice
    assert time.monotonic() - started < 2 * clusters.CONNECT_SECONDS


@pytest.mark.parametrize("address", ["cluster", "host:port", ":6379", "ray://host"])
def test_address_that_is_none_is_refused(address, settings):
    with pytest.raises(UsageError, match="is none"):
        connect(address, settings)


def test_machine_without_ray_is_told_what_to_install(settings, monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        connect("local", settings)
    assert "fpvec-audit[fleet]" in caught.value.advice


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fpvec": "1.1"}, "driver on here has fpvec-audit 1.0, the node there has 1.1"),
        ({"ray": "2.59.0"}, "driver on here has Ray 2.60.0, the node there has 2.59.0"),
        ({"registry": "r2"}, "node there sees registry r2, the driver r1"),
        ({"problem": "it does not answer"}, "node there cannot open its registry: it does not answer"),
    ],
)
def test_node_that_differs_is_refused_with_both(changes, problem):
    same = replace(DRIVER, host="there")
    refuse_differences([same], DRIVER)
    with pytest.raises(OperationError, match=problem):
        refuse_differences([same, replace(same, **changes)], DRIVER)


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "model.safetensors").touch()
    return {"downstream": str(tmp_path), "suspect": str(tmp_path)}, tmp_path / "model.safetensors"


def grown(file, size):
    with file.open("r+b") as opened:
        opened.truncate(size)


def test_needs_follow_from_the_size_of_the_checkpoint(checkpoint):
    whole, file = checkpoint
    grown(file, 1024 * MIB)
    assert Sizing().need(FleetAction.STAMP, whole) == Need(1, 512 * MIB, 0, 2048 * MIB)
    assert Sizing().need(FleetAction.AUDIT, whole).memory == 5120 * MIB
    assert Sizing(2, 7, 1).need(FleetAction.AUDIT, whole) == Need(2, 7, 1, 1024 * MIB)


def test_needs_are_of_few_kinds_however_many_sizes_there_are(checkpoint):
    whole, file = checkpoint
    kinds = set()
    for size in range(0, 64 * 1024 * MIB, 300 * MIB):
        grown(file, size)
        kinds.add(Sizing().need(FleetAction.AUDIT, whole).memory)
    assert len(kinds) < 40
    assert min(kinds) == 768 * MIB
