"""Inference engines: what runs a suspect and answers.

:func:`open_backend` opens one engine. Who asks several suspects opens :class:`Engines`, which keeps what they share –
a process that has imported vLLM – until it is closed. Importing this package loads no engine.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from fpvec_audit.domain.ports import InferenceBackend
from fpvec_audit.errors import BackendError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from fpvec_audit.backends.vllm import VllmHost

BACKENDS = ("auto", "transformers", "vllm")
INSTEAD_OF_VLLM = "instead_of_vllm"
"""Setting under which an engine's description says why vLLM could not run this suspect."""


class EngineSource(Protocol):
    """What opens engines: :class:`Engines`, or whoever changes what they are asked and answer."""

    @property
    def fallback(self) -> str:
        """Why another engine answers than was preferred; empty when none does."""
        ...

    def warm_up(self) -> None:
        """Prepare in the background; returns at once."""
        ...

    def open(self, model: str | Path) -> InferenceBackend:
        """Load a suspect.

        Raises:
            CheckpointError: the directory cannot be read.
            BackendError: the engine cannot be started, or cannot load the suspect.
        """
        ...


class Engines:
    """Opens inference engines of one kind; use it as a context manager. Safe to share between threads.

    ``auto`` is vLLM where it imports, and transformers elsewhere (:attr:`fallback` then says why) and for a suspect
    that vLLM cannot load (the engine's description then says why).

    Args:
        kind: ``auto``, ``transformers`` or ``vllm``.
        device: torch device; ``auto`` is CUDA where there is one.
        at_once: how many engines will be asked at the same time; each gets its share of the processor's cores.
        tensor_parallel: over how many GPUs vLLM divides a suspect; None for as few as hold it. Only vLLM divides one,
            so where more than one is said ``auto`` is vLLM and nothing else.

    Raises:
        UnknownNameError: an unknown kind.
        UsageError: an engine that divides nothing is to divide a suspect.
    """

    def __init__(
        self, kind: str = "auto", *, device: str = "auto", at_once: int = 1, tensor_parallel: int | None = None
    ) -> None:
        if kind not in BACKENDS:
            raise UnknownNameError("backend", kind, BACKENDS)
        if tensor_parallel is not None and tensor_parallel < 1:
            raise UsageError(f"--tensor-parallel {tensor_parallel}", advice="give 1 or more")
        divides = tensor_parallel is not None and tensor_parallel > 1
        if divides and kind == "transformers":
            raise UsageError(
                f"transformers runs a model in one piece, not over {tensor_parallel} GPUs (--tensor-parallel)",
                advice="use --backend vllm, or leave --tensor-parallel out",
            )
        self.kind = "vllm" if divides else kind
        self._tensor_parallel = tensor_parallel
        self._fallback = ""
        self._device = device
        self._threads = max(1, _cores() // max(1, at_once))
        self._host: VllmHost | None = None
        self._spent: list[VllmHost] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fallback(self) -> str:
        """Why ``auto`` means transformers here; empty when it does not, or that is not yet known."""
        return self._fallback

    def warm_up(self) -> None:
        """Begin to import vLLM in the background, if it will be used; returns at once."""
        if self.kind != "transformers" and not self._fallback and not _absence():
            with self._lock:
                self._running_host()

    def open(self, model: str | Path) -> InferenceBackend:
        """Load a suspect.

        Args:
            model: checkpoint directory.

        Raises:
            CheckpointError: the directory cannot be read.
            BackendError: the engine cannot be started, or cannot load the suspect.
        """
        if self.kind == "transformers" or self._fallback:
            return self._open_transformers(model)
        try:
            host = self._ready_host()
        except BackendError as error:
            if self.kind == "vllm":
                raise
            self._fallback = error.problem
            return self._open_transformers(model)
        from fpvec_audit.backends.vllm import VllmBackend

        try:
            return VllmBackend(model, host=host, tensor_parallel=self._tensor_parallel)
        except BackendError as error:
            if self.kind == "vllm":
                raise
            return self._open_transformers(model, {INSTEAD_OF_VLLM: error.problem})

    def of_kind(self, kind: str) -> "Engines":
        """Return engines of another kind, on the same device; close them too."""
        return Engines(kind, device=self._device)

    def close(self) -> None:
        """End what the engines shared; engines that are still open go on."""
        with self._lock:
            for host in (*self._spent, *([self._host] if self._host else [])):
                host.close()
            self._spent.clear()
            self._host = None

    def _open_transformers(self, model: str | Path, remarks: Mapping[str, str] | None = None) -> InferenceBackend:
        from fpvec_audit.backends.transformers import TransformersBackend

        return TransformersBackend(model, device=self._device, remarks=remarks)

    def _ready_host(self) -> "VllmHost":
        if problem := _absence():
            raise BackendError(problem, advice="`make setup` installs it; --backend transformers works without it")
        with self._lock:
            host = self._running_host()
            ready = host.wait_until_ready()
            if not ready["forks"]:  # it serves this suspect and no other
                self._spent.append(host)
                self._host = None
        if self._device != "auto" and self._device.split(":")[0] != ready["device"]:
            raise BackendError(f"this vLLM runs on {ready['device']}, not on {self._device}")
        return host

    def _running_host(self) -> "VllmHost":
        from fpvec_audit.backends.vllm import VllmHost

        if self._host is None:
            self._host = VllmHost(threads=self._threads)
        return self._host


def opened_engines(
    engines: str | EngineSource, stack: ExitStack, *, device: str = "auto", tensor_parallel: int | None = None
) -> EngineSource:
    """Return engines of a kind, closed with a stack, or those that somebody else has opened already, as they are.

    Args:
        engines: ``auto``, ``transformers`` or ``vllm``; or a source of engines.
        stack: what closes them.
        device: torch device.
        tensor_parallel: over how many GPUs vLLM divides a suspect; None for as few as hold it.

    Raises:
        UnknownNameError: an unknown kind.
        UsageError: an engine that divides nothing is to divide a suspect.
    """
    if not isinstance(engines, str):
        return engines
    return stack.enter_context(Engines(engines, device=device, tensor_parallel=tensor_parallel))


def open_backend(kind: str, model: str | Path, *, device: str = "auto") -> InferenceBackend:
    """Load one suspect in an engine of its own.

    Args:
        kind: ``auto``, ``transformers`` or ``vllm``.
        model: checkpoint directory.
        device: torch device; ``auto`` is CUDA where there is one.

    Raises:
        UnknownNameError: an unknown kind.
        CheckpointError: the directory cannot be read.
        BackendError: the engine cannot be started, or cannot load the suspect.
    """
    engines = Engines(kind, device=device)
    try:
        return engines.open(model)
    finally:
        engines.close()  # an engine that is open goes on by itself


@cache
def vllm_problem() -> str:
    """Return why vLLM cannot be used here, empty when it can; found out by importing it in another process."""
    if problem := _absence():
        return problem
    from fpvec_audit.backends.vllm import VllmHost

    host = VllmHost()
    try:
        host.wait_until_ready()
    except BackendError as error:
        return error.problem
    finally:
        host.close()
    return ""


def _absence() -> str:
    return "" if find_spec("vllm") else "vLLM is not installed"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
