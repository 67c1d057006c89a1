"""What is refused before a cluster is used, and what its nodes say of themselves; without starting Ray."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest

from fpvec_audit.errors import OperationError, UsageError
from fpvec_audit.fleet import knocking
from fpvec_audit.fleet.cluster import RayCluster, _refusal, ray_cluster
from fpvec_audit.fleet.handshake import Greeting, gpu_bytes, refuse_differences
from fpvec_audit.fleet.pulse import Pulse

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
    assert time.monotonic() - started < 2 * knocking.CONNECT_SECONDS


@pytest.mark.parametrize("address", ["cluster", "host:port", ":6379", "ray://host", "host:70000"])
def test_address_that_is_none_is_refused(address, settings):
    with pytest.raises(UsageError, match="is none"):
        connect(address, settings)


def test_machine_without_ray_is_told_what_to_install(settings, monkeypatch):
    monkeypatch.setattr(knocking, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        connect("local", settings)
    assert "fpvec-audit[fleet]" in caught.value.advice


@contextmanager
def answering(code, said=""):
    """Give the port of a gRPC server that answers everything with one status, and what it was asked."""
    asked = []

    class Everything(grpc.GenericRpcHandler):
        def service(self, details):
            asked.append((details.method, dict(details.invocation_metadata)))
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, said) if said else b"")

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, asked
    finally:
        server.stop(None)


@pytest.mark.parametrize("prefix", ["", "ray://"])
@pytest.mark.parametrize(
    ("code", "problem", "advice"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "asks for its token, and this driver shows none", "RAY_AUTH_MODE=token"),
        (grpc.StatusCode.UNIMPLEMENTED, "something else of Ray listens there", "this may be"),
        (grpc.StatusCode.UNAVAILABLE, "no cluster answers at .*: it is what the port said", "ray start"),
    ],
)
def test_cluster_that_does_not_let_the_driver_in_is_told_from_one_that_is_not_there(prefix, code, problem, advice):
    with (
        answering(code, "it is what the port said") as (port, asked),
        pytest.raises(OperationError, match=problem) as caught,
    ):
        knocking.knock(f"{prefix}127.0.0.1:{port}")
    assert advice in caught.value.advice
    assert ("RayletDriver" in asked[0][0]) == bool(prefix)
    assert "authorization" not in asked[0][1], "a token goes where it was said to go, and nowhere else"


def test_cluster_that_answers_is_let_through():
    with answering(grpc.StatusCode.OK) as (port, asked):
        knocking.knock(f"ray://127.0.0.1:{port}")
    assert len(asked) == 1


def test_port_of_something_else_is_told_within_seconds(monkeypatch):
    monkeypatch.setattr(knocking, "CONNECT_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.raises(OperationError, match="what listens there is not Ray"),
    ):
        knocking.knock(f"127.0.0.1:{listening.getsockname()[1]}")


def test_cluster_with_other_versions_is_refused_with_both():
    said = """Version mismatch: The cluster was started with:
    Ray: 2.59.0
    Python: 3.11.7
This process on node 192.0.2.2 was started with:
    Ray: 2.60.0
    Python: 3.12.1
"""
    refused = _refusal("head:6379", RuntimeError(said))
    assert "has Ray 2.59.0 and Python 3.11.7, this driver Ray 2.60.0 and Python 3.12.1" in refused.problem


class RayError(Exception):
    """What all errors of Ray are."""


class LocalRayletDiedError(RayError):
    """The node of the driver died."""


class Closed:
    """Ray as a driver sees it whose cluster is gone."""

    exceptions = SimpleNamespace(
        RayError=RayError, TaskCancelledError=(), RayTaskError=(), LocalRayletDiedError=LocalRayletDiedError
    )
    nodes = staticmethod(list)
    cluster_resources = staticmethod(dict)
    remote = staticmethod(lambda **_: lambda function: function)
    connected = False

    def is_initialized(self):
        return self.connected

    def wait(self, handles, **_):
        assert self.connected, "Ray would connect by itself, to whatever cluster it finds"
        return handles, []

    def get(self, _):
        raise LocalRayletDiedError("The task's local raylet died.")


def test_cluster_that_went_away_is_not_asked_again_since_ray_would_start_another():
    cluster = RayCluster(Closed(), lambda task: None)
    with pytest.raises(OperationError, match="the cluster went away") as caught:
        cluster.finished(["handle"], timeout=1)
    assert "fleet resume" in caught.value.advice
    cluster.cancel(["handle"])


def test_head_without_this_package_is_told_by_what_is_to_be_installed():
    class Client(Closed):  # whose server cannot read what it is sent
        nodes = staticmethod(
            lambda: [{"Alive": True, "NodeID": "a" * 56, "NodeManagerHostname": "head", "Resources": {}}]
        )

        def remote(self, **_):
            return lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.put))

        def put(self):
            raise ModuleNotFoundError("No module named 'fpvec_audit'")

    with pytest.raises(OperationError, match="the cluster's head cannot work: No module named") as caught:
        RayCluster(Client(), lambda task: None).greetings()
    assert "fpvec-audit[fleet]" in caught.value.advice


def test_head_that_is_away_for_long_ends_a_run_before_ray_ends_the_driver():
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as head:
        pulse = Pulse(f"127.0.0.1:{head.getsockname()[1]}", lambda: now[0])
        assert pulse.missing() == 0
    away = {}
    for second in range(1, 60):
        now[0] = float(second)
        away[second] = pulse.missing()
    assert away[35] == 0, "a head may be started anew"
    assert away[36] == 31
    ray = Closed()
    ray.connected = True
    with pytest.raises(OperationError, match="its head has not answered for 54 s"):
        RayCluster(ray, lambda task: None, pulse=pulse).finished(["handle"], timeout=1)


def test_drivers_own_node_that_died_is_no_fault_of_items():
    ray = Closed()
    ray.connected = True
    with pytest.raises(OperationError, match="the cluster went away: The task's local raylet died"):
        RayCluster(ray, lambda task: None).finished(["handle"], timeout=1)


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
