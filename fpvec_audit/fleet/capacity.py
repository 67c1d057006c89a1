"""What a cluster and its machines have, and how many of a machine's GPUs a model takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from fpvec_audit.domain.tensor_parallel import SIDE_BY_SIDE, least_parts

SHOWN_MACHINES = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """One node.

    Attributes:
        name: of the host.
        node: Ray's id of it.
        gpus: graphics processors that Ray hands out there.
        gpu_bytes: memory of one of them, of the smallest; 0 where it is not known.
    """

    name: str
    node: str
    gpus: int = 0
    gpu_bytes: int = 0

    def __str__(self) -> str:
        """Return what it has, in words."""
        if not self.gpus:
            return f"{self.name} none"
        size = f" of {self.gpu_bytes / 1e9:.1f} GB" if self.gpu_bytes else ""
        return f"{self.name} {self.gpus}{size}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a cluster has.

    Attributes:
        cpus: processors in all.
        memory: bytes that one node has for items, of the largest.
        gpus: graphics processors in all.
        nodes: how many machines.
        dashboard: address of Ray's own dashboard, empty where there is none.
        machines: what each of them has.
    """

    cpus: float
    memory: int
    gpus: float
    nodes: int
    dashboard: str = ""
    machines: tuple[Machine, ...] = ()

    @property
    def with_gpus(self) -> tuple[Machine, ...]:
        """The machines that have graphics processors."""
        return tuple(machine for machine in self.machines if machine.gpus)

    def described_gpus(self) -> str:
        """Return which machine has which graphics processors, in words, of a few."""
        told = [str(machine) for machine in sorted(self.machines, key=lambda one: (-one.gpus, one.name))]
        further = f" and {len(told) - SHOWN_MACHINES} further nodes" if len(told) > SHOWN_MACHINES else ""
        return ", ".join(told[:SHOWN_MACHINES]) + further


@dataclass(frozen=True, slots=True)
class Division:
    """Over how many GPUs of a machine a model is divided, and on which machines.

    Attributes:
        parts: how many GPUs.
        nodes: ids of the nodes whose GPUs hold a part each; empty where it is every node with so many.
    """

    parts: int
    nodes: tuple[str, ...] = ()


def divided(weights: int, *, possible: Sequence[int], machines: Sequence[Machine]) -> Division | None:
    """Return over how few GPUs a model is divided, and where; None where no machine holds it.

    Machines that hold it and its base come first, then those that hold it alone. One that does not say how large its
    GPUs are is taken to hold it on one.

    Args:
        weights: bytes of the model's weights.
        possible: into how many parts it can be divided, ascending.
        machines: those that have GPUs.
    """
    for models in (SIDE_BY_SIDE, 1):
        parts = {machine.node: _parts(weights, possible, machine, models) for machine in machines}
        if least := min((count for count in parts.values() if count), default=None):
            nodes = tuple(node for node, count in parts.items() if count == least)
            return Division(least, () if len(nodes) == len(machines) else nodes)
    return None


def _parts(weights: int, possible: Sequence[int], machine: Machine, models: int) -> int | None:
    if not machine.gpu_bytes:
        return 1
    return least_parts(weights, possible=possible, gpus=[machine.gpu_bytes] * machine.gpus, models=models)
