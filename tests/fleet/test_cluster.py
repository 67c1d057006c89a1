"""What is refused before a cluster is used, and what its nodes say of themselves; without starting Ray."""

import socket
import time
from dataclasses import replace

import pytest

from fpvec_audit.errors import OperationError, UsageError
from fpvec_audit.fleet import cluster as clusters
from fpvec_audit.fleet.cluster import ray_cluster
from fpvec_audit.fleet.handshake import Greeting, gpu_bytes, refuse_differences

DRIVER = Greeting("here", "1.0", "2.60.0", registry="r1")


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


def test_gpus_of_a_node_are_told_by_the_drivers_own_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_bytes() == ()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 81559\n")
    program.chmod(0o755)
    assert gpu_bytes() == (81559 * 1024**2,) * 2
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert gpu_bytes() == ()
