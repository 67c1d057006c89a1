"""Measures what work costs, and keeps apart what is done once for all models of a base.

Peaks are those of the work, not of the process, where the kernel lets them be reset (Linux does); elsewhere the
process's largest resident memory so far is taken, which can only be too high.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fpvec_audit.domain.cost import Cost
from fpvec_audit.services.stamped_model import peak_memory

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class CostMeter:
    """A watch with two dials: work for one model, and work done once.

    Args:
        device: torch device of the work.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.each = Cost()
        self.once = Cost()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the work of the context, but for what :meth:`apart` counts, as that of one model."""
        self._begin()
        try:
            yield
        finally:
            self.each += self._lap()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside :meth:`running`: count the work of the context as done once."""
        self.each += self._lap()
        self._begin()
        try:
            yield
        finally:
            self.once += self._lap()
            self._begin()

    def _begin(self) -> None:
        with suppress(OSError):  # no such file, or not ours to write: the peak is then the process's
            _RESET.write_text("5")
        accelerator = _accelerator(self._device)
        if accelerator is not None:
            accelerator.reset_peak_memory_stats(self._device)
        self._started, self._processor = time.monotonic(), time.process_time()

    def _lap(self) -> Cost:
        accelerator = _accelerator(self._device)
        if accelerator is not None:
            accelerator.synchronize(self._device)
        seconds = time.monotonic() - self._started
        processor = time.process_time() - self._processor
        taken = 0 if accelerator is None else int(accelerator.max_memory_allocated(self._device))
        if self._device.startswith("cuda"):
            return Cost(seconds, seconds if taken else 0.0, _resident_peak(), taken)
        return Cost(seconds, processor, _resident_peak())


def _accelerator(device: str) -> Any:
    """Return torch's module for the device, None on a CPU or before anything has touched the device."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return None
    return torch.cuda


def _resident_peak() -> int:
    """Return the largest resident memory since the last reset, in bytes."""
    try:
        found = _PEAK.search(_STATUS.read_text(encoding="ascii"))
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else peak_memory()
