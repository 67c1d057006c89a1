"""What answers at a cluster's address, asked before Ray is: whether it is a cluster that lets this driver in.

Ray itself tries an address for half a minute to four minutes, and then says of all of them that no cluster was found:
of one where nobody listens, where something else does, whose other port was meant, and of one that asks for a token.
Here each is told within seconds, by one call that changes nothing. Where the inner parts of Ray that this leans upon
are not what they were, only the port is looked at, and Ray says the rest.

A cluster's token goes to an address only where ``RAY_AUTH_MODE`` says so, as Ray has it: a token that lies in this
user's home is not for whoever answers at any address.
"""

import socket
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import OperationError, UsageError

if TYPE_CHECKING:
    import grpc

LOCAL, AUTO = "local", "auto"
CLIENT = "ray://"
CONNECT_SECONDS = 5.0
EXTRA = "fpvec-audit[fleet]"


@dataclass(frozen=True, slots=True)
class _Door:
    """One of a cluster's two ports, and what is asked there.

    Attributes:
        method: gRPC method that changes nothing.
        request: its message, as it travels.
        other: how an address is written whose port is the other one.
    """

    method: str
    request: bytes
    other: str


_CLIENT_DOOR = _Door("/ray.rpc.RayletDriver/ClusterInfo", b"\x08\x06", "the port of the cluster itself, HOST:PORT")
"""``ClusterInfoRequest(type=PING)``, which the server answers by itself."""
_CLUSTER_DOOR = _Door("/ray.rpc.NodeInfoGcsService/GetClusterId", b"", "a Ray client's port, ray://HOST:PORT")


def knock(address: str) -> None:
    """Refuse an address where no cluster answers, or one that does not let this driver in.

    Args:
        address: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        UsageError: Ray or a package of it is not installed, or the address is none.
        OperationError: nobody listens there, something else does, or the cluster asks for another token.
    """
    if find_spec("ray") is None:
        raise UsageError("a fleet needs Ray, which is not installed", advice=f"pip install '{EXTRA}'")
    if address == LOCAL:
        return
    if address == AUTO:
        _listening(AUTO, *_host_and_port(_found_by_ray()))
        return
    host, port = _host_and_port(address)
    if address.startswith(CLIENT) and find_spec("grpc") is None:
        raise UsageError(f"--address {address} needs grpcio, which is not installed", advice=f"pip install '{EXTRA}'")
    _listening(address, host, port)
    _ask(address, f"{host}:{port}")


def no_cluster(address: str, reason: str) -> OperationError:
    """Return the error that says why no cluster answers at an address."""
    return OperationError(
        f"no cluster answers at {address}: {reason}",
        advice="start one with `ray start --head`, name another --address, or leave it out to use this machine",
    )


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdecimal() or not host or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--address {address} is none", advice="write local, auto, HOST:PORT or ray://HOST:PORT")
    return host, int(port)


def _found_by_ray() -> str:
    """Return the address of the cluster that this machine is part of; it may have died since it was noted."""
    from ray._private.services import get_ray_address_from_environment

    try:
        return str(get_ray_address_from_environment(AUTO, None))
    except ConnectionError as error:
        raise no_cluster(AUTO, "this machine is part of none") from error


def _listening(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        where = f"{host}:{port}: " if address == AUTO else ""
        raise no_cluster(address, f"{where}{error.strerror or error}") from error


def _ask(address: str, target: str) -> None:
    """Call what stands behind a port, as Ray would."""
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel  # knows about TLS and tokens
    except ImportError:
        return
    channel = init_grpc_channel(target)
    door = _CLIENT_DOOR if address.startswith(CLIENT) else _CLUSTER_DOOR
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        channel.unary_unary(door.method)(door.request, timeout=CONNECT_SECONDS)
    except grpc.FutureTimeoutError as error:
        raise no_cluster(address, "what listens there is not Ray, or asks for TLS") from error
    except grpc.RpcError as error:
        _refuse(address, door, error)
    finally:
        channel.close()


def _refuse(address: str, door: _Door, error: "grpc.RpcError") -> None:
    """Say what an answer means; one that says nothing of the cluster is left to Ray."""
    code, said = _code_of(error)
    if code == "UNIMPLEMENTED":
        raise OperationError(
            f"no cluster answers at {address}: something else of Ray listens there",
            advice=f"this may be {door.other}; or its Ray is much older or newer",
        )
    if code == "UNAUTHENTICATED":
        raise OperationError(
            f"the cluster at {address} asks for its token, and this driver shows none, or another",
            advice="set RAY_AUTH_MODE=token, and give the token in RAY_AUTH_TOKEN or ~/.ray/auth_token; "
            "`ray get-auth-token` tells it on the cluster's head",
        )
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        raise no_cluster(address, said or code)


def _code_of(error: Any) -> tuple[str, str]:
    """Return the name of a status, and what was said with it."""
    return str(error.code().name), " ".join(str(error.details() or "").split())[:200]
