"""What an item needs of a machine: from the size of its checkpoint, or as it was said.

A stamp streams: its memory does not grow with the model. An engine holds the suspect and, for the likelihood test, its
base: in float32 on a processor, in the checkpoint's own numbers on GPUs, divided over as few as hold both
(:mod:`fpvec_audit.domain.tensor_parallel`). Amounts are rounded up to a few steps, since Ray keeps apart whatever asks
for different ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.domain.tensor_parallel import SIDE_BY_SIDE, fits, possible_parts
from fpvec_audit.errors import FpvecError, OperationError
from fpvec_audit.fleet.capacity import Capacity, Machine, divided
from fpvec_audit.fleet.items import FIELDS
from fpvec_audit.services.suspects import is_endpoint
from fpvec_audit.storage.addresses import is_url
from fpvec_audit.storage.fetching import stored_bytes, stored_file

MEBIBYTE = 1 << 20
CONFIG = "config.json"
_STEP = 256 * MEBIBYTE
_FLAT: Mapping[FleetAction, int] = {
    FleetAction.STAMP: 512 * MEBIBYTE,
    FleetAction.AUDIT: 768 * MEBIBYTE,
    FleetAction.TRACE: 768 * MEBIBYTE,
    FleetAction.ATTACK: 1536 * MEBIBYTE,
}
"""Bytes whatever the size of the model: the interpreter, libraries and buffers."""
_FACTOR: Mapping[FleetAction, float] = {
    FleetAction.STAMP: 0.0,
    FleetAction.AUDIT: 4.0,
    FleetAction.TRACE: 4.0,
    FleetAction.ATTACK: 8.0,
}
"""Bytes for each byte of the checkpoint: half precision becomes float32, and the base is beside it."""


@dataclass(frozen=True, slots=True)
class Need:
    """What an item needs while it runs.

    Attributes:
        cpus: processors.
        memory: bytes.
        gpus: graphics processors.
        disk: bytes written to a node's scratch.
        tensor_parallel: over how many GPUs its engine divides a model; None where the engine settles it.
        nodes: ids of the nodes that can hold it; empty for any with so much of everything.
        device: torch device of its engine; None where nothing here decides it.
    """

    cpus: float = 1.0
    memory: int = 0
    gpus: float = 0.0
    disk: int = 0
    tensor_parallel: int | None = None
    nodes: tuple[str, ...] = ()
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Sizing:
    """How needs are settled; what is None follows from the checkpoint and the cluster.

    Attributes:
        cpus: processors of an item.
        memory: bytes of an item.
        gpus: graphics processors of an item that asks an engine.
        tensor_parallel: over how many GPUs its engine divides a model.
    """

    cpus: float | None = None
    memory: int | None = None
    gpus: float | None = None
    tensor_parallel: int | None = None

    def need(self, action: FleetAction, whole: Mapping[str, Any], capacity: Capacity) -> Need:
        """Return what an item needs.

        Args:
            action: what is done.
            whole: all that holds for the item.
            capacity: what the cluster has.

        Raises:
            OperationError: no node has that.
        """
        place = whole[FIELDS[action].subject]
        size = checkpoint_bytes(place)
        graphics = Need() if action is FleetAction.STAMP else self._graphics(whole, place, size, capacity)
        memory = self.memory
        if memory is None:
            memory = _rounded(_FLAT[action] + int(size * (1.0 if graphics.gpus else _FACTOR[action])))
        if 0 < capacity.memory < memory:
            raise OperationError(
                f"it needs {_gigabytes(memory)} of memory, and the largest node has {_gigabytes(capacity.memory)}",
                advice="add a larger node, or say what it needs with --memory",
            )
        disk = 2 * size if action is FleetAction.STAMP else size
        return replace(graphics, cpus=1.0 if self.cpus is None else self.cpus, memory=memory, disk=disk)

    def _graphics(self, whole: Mapping[str, Any], place: str, size: int, capacity: Capacity) -> Need:
        """Return which GPUs an engine needs: as they were said, else as few as hold its model."""
        if is_endpoint(place):
            return Need(gpus=self.gpus or 0.0)
        gpus: float | None = self.gpus
        if gpus is None and capacity.with_gpus and not str(whole.get("device", "")).startswith("cpu"):
            if self.tensor_parallel is None:
                return _settled(place, str(whole.get("backend", "")), size, capacity)
            gpus = float(self.tensor_parallel)
        if not gpus:
            return Need(tensor_parallel=self.tensor_parallel, device="cpu" if capacity.with_gpus else None)
        if capacity.machines and gpus > max(machine.gpus for machine in capacity.machines):
            raise OperationError(
                f"it is to have {gpus:g} GPUs, and no node has so many: {capacity.described_gpus()}",
                advice="ask for fewer with --gpus or --tensor-parallel, or add a larger node",
            )
        return Need(gpus=gpus, tensor_parallel=self.tensor_parallel)


def _settled(place: str, backend: str, size: int, capacity: Capacity) -> Need:
    """Return over how few GPUs an engine divides a model, and on which nodes."""
    machines = capacity.with_gpus
    found = divided(size, possible=_possible(place, backend, size, machines), machines=machines)
    if found is None:
        raise OperationError(
            f"its {_gigabytes(size)} of weights fit the GPUs of no node, in however many parts the model can be "
            f"divided: {capacity.described_gpus()}",
            advice="add a larger node, or say over how many GPUs it is divided nevertheless with --tensor-parallel",
        )
    division = found.parts if found.parts > 1 else None  # what fits one GPU may be run by any engine
    return Need(gpus=float(found.parts), tensor_parallel=division, nodes=found.nodes)


def _possible(place: str, backend: str, size: int, machines: Sequence[Machine]) -> tuple[int, ...]:
    """Return into how many parts an engine can divide a model; its configuration is read only where one does not do."""
    small = any(not one.gpu_bytes or fits(size, parts=1, gpu=one.gpu_bytes, models=SIDE_BY_SIDE) for one in machines)
    if small or backend == "transformers":  # which runs a model in one piece
        return (1,)
    return possible_parts(checkpoint_config(place))


def checkpoint_bytes(place: str) -> int:
    """Return how large the weights of a checkpoint are; 0 where that cannot be seen from here."""
    if is_url(place):
        try:
            return 0 if place.startswith("http") else stored_bytes(place)
        except FpvecError:  # the worker will say so
            return 0
    try:
        return sum(file.stat().st_size for file in Path(place).glob("*.safetensors"))
    except (OSError, ValueError):
        return 0


def checkpoint_config(place: str) -> Mapping[str, Any]:
    """Return the configuration of a checkpoint; empty where that cannot be seen from here."""
    try:
        text = stored_file(place, CONFIG) if is_url(place) else (Path(place) / CONFIG).read_bytes()
        config = json.loads(text)
    except (FpvecError, OSError, ValueError, RecursionError):  # the worker will say so
        return {}
    return config if isinstance(config, Mapping) else {}


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _rounded(memory: int) -> int:
    """Round up to a multiple of 256 MiB and, beyond eight of them, to four steps within each doubling."""
    steps = -(-memory // _STEP)
    coarse = 1 << max(0, steps.bit_length() - 3)
    return -(-steps // coarse) * coarse * _STEP
