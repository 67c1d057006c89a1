"""What an item needs of a machine: from the size of its checkpoint, or as it was said.

A stamp streams: its memory does not grow with the model. An engine holds the suspect and, for the likelihood test, its
base, in float32 on a processor. Amounts are rounded up to a few steps, since Ray keeps apart whatever asks for
different ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.errors import FpvecError
from fpvec_audit.fleet.items import FIELDS
from fpvec_audit.storage.addresses import is_url
from fpvec_audit.storage.fetching import stored_bytes

MEBIBYTE = 1 << 20
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
    """

    cpus: float = 1.0
    memory: int = 0
    gpus: float = 0.0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Sizing:
    """How needs are settled; what is None follows from the checkpoint.

    Attributes:
        cpus: processors of an item.
        memory: bytes of an item.
        gpus: graphics processors of an item; none where it is not said.
    """

    cpus: float | None = None
    memory: int | None = None
    gpus: float | None = None

    def need(self, action: FleetAction, whole: Mapping[str, Any]) -> Need:
        """Return what an item needs.

        Args:
            action: what is done.
            whole: all that holds for the item.
        """
        size = checkpoint_bytes(whole[FIELDS[action].subject])
        gpus = self.gpus or 0.0
        memory = self.memory
        if memory is None:
            memory = _rounded(_FLAT[action] + int(size * (1.0 if gpus else _FACTOR[action])))
        disk = 2 * size if action is FleetAction.STAMP else size
        return Need(1.0 if self.cpus is None else self.cpus, memory, gpus, disk)


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


def _rounded(memory: int) -> int:
    """Round up to a multiple of 256 MiB and, beyond eight of them, to four steps within each doubling."""
    steps = -(-memory // _STEP)
    coarse = 1 << max(0, steps.bit_length() - 3)
    return -(-steps // coarse) * coarse * _STEP
