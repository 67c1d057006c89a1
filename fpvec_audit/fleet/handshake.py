"""Driver and workers say which versions they have and which registry they see, before anything begins."""

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from shutil import which
from typing import TYPE_CHECKING

from fpvec_audit import __version__
from fpvec_audit.errors import FpvecError, OperationError
from fpvec_audit.services.own_registry import open_own_registry
from fpvec_audit.settings import load_settings

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

GPU_SECONDS = 30.0
"""How long ``nvidia-smi`` may take; with many GPUs and no daemon that keeps them awake it takes seconds."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a process says of itself.

    Attributes:
        host: name of its machine.
        fpvec: version of this package.
        ray: version of Ray.
        registry: id of the registry that it sees; empty where it sees none.
        problem: why it sees none, in a sentence.
        gpus: bytes of each graphics processor of its machine, where the driver's own program tells them.
    """

    host: str
    fpvec: str
    ray: str
    registry: str = ""
    problem: str = ""
    gpus: tuple[int, ...] = ()


def this_process() -> Greeting:
    """Return which versions this process has."""
    return Greeting(socket.gethostname(), __version__, metadata.version("ray"))


def driver_greeting(registry: "Registry") -> Greeting:
    """Return what every worker is compared with."""
    return replace(this_process(), registry=_registry_id(registry))


def worker_greeting() -> Greeting:
    """Return what a worker has, its machine's GPUs, and the registry that its own environment and home name."""
    here = replace(this_process(), gpus=gpu_bytes())
    try:
        with open_own_registry(load_settings({}), warn=lambda _sentence: None) as registry:
            return replace(here, registry=_registry_id(registry))
    except FpvecError as error:
        return replace(here, problem=str(error))


def refuse_differences(nodes: Sequence[Greeting], driver: Greeting) -> None:
    """Refuse a cluster with a node that is not like the driver.

    Raises:
        OperationError: other versions, or another registry.
    """
    for node in nodes:
        for name, here, there in (
            ("fpvec-audit", driver.fpvec, node.fpvec),
            ("Ray", driver.ray, node.ray),
        ):
            if here != there:
                raise OperationError(
                    f"the driver on {driver.host} has {name} {here}, the node {node.host} has {there}",
                    advice=f"install the same version of {name} on both",
                )
        if node.problem:
            raise OperationError(
                f"the node {node.host} cannot open its registry: {node.problem}",
                advice="set FPVEC_REGISTRY there before `ray start`, and give it the master key",
            )
        if node.registry != driver.registry:
            raise OperationError(
                f"the node {node.host} sees registry {node.registry[:16]}, the driver {driver.registry[:16]}",
                advice="set FPVEC_REGISTRY to one and the same PostgreSQL database on both, before `ray start`",
            )


def gpu_bytes() -> tuple[int, ...]:
    """Return the memory of each NVIDIA GPU of this machine, bytes; nothing where there is none, or no driver.

    Asked of ``nvidia-smi``, which comes with the driver: a library would keep a part of the GPU, and the worker that is
    asked goes on to run items.
    """
    program = which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=GPU_SECONDS)  # noqa: S603
        return tuple(int(line) << 20 for line in told.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def _registry_id(registry: "Registry") -> str:
    from fpvec_audit.services.anchors import registry_id

    with registry.snapshot() as uow:
        return registry_id(uow)
