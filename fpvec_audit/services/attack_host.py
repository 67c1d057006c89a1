"""The process that has imported what attacks on weights need: forks one child per attack.

An attack is a plugin: it may run out of memory, end the process, crash in native code or never come back. So each one
runs in a child of its own, and importing torch, which takes seconds, is done once for all of them here, before any
thread is started and before anything is computed.

Failures need little protocol: what a plugin raises is told, and any other end is an exit code or a signal, which this
process reads and hands on. Every process here ends with the process that asked for it. This module runs in its own
interpreter (see ``attack_worker``) and never in the caller's.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fpvec_audit.backends.channel import Channel
from fpvec_audit.catalog import Catalog, load_catalog
from fpvec_audit.domain.attack_spec import restored
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import AttackContext, WeightAttack
from fpvec_audit.errors import CheckpointError, FpvecError, PluginError
from fpvec_audit.plugin_code import plugin_code
from fpvec_audit.progress import Step

AHEAD = ("fpvec_audit.toolkit", "safetensors.torch", "transformers.trainer", "fpvec_audit.training.checkpoint_files")
"""What most attacks import; what is not there is imported, and missed, by the attack that needs it."""
CHECKPOINT = "config.json"


def main(control_descriptor: int) -> None:
    """Import ahead, say so, and carry out attacks until the caller hangs up.

    Args:
        control_descriptor: socket to the caller.
    """
    control = Channel(socket.socket(fileno=control_descriptor))
    children: list[int] = []
    threading.Thread(target=_end_with_caller, args=(control_descriptor, children), daemon=True).start()
    catalog = load_catalog()
    for name in AHEAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children neither scan nor copy what was there before them
    control.send({"ready": True})
    while True:
        order, descriptors = control.receive_with_descriptors()
        if order is None:
            return
        process = os.fork()
        if process == 0:
            _be_a_child(order, control, descriptors[0], catalog)
        os.close(descriptors[0])
        children.append(process)
        _, status = os.waitpid(process, 0)
        children.clear()
        control.send({"ended": os.waitstatus_to_exitcode(status)})


def _end_with_caller(descriptor: int, children: list[int]) -> None:
    """End this process, and what it has forked, when the other side hangs up."""
    poll = select.poll()
    poll.register(descriptor, 0)  # hang-up and error are always reported
    while not poll.poll(1000):
        pass
    for child in list(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os._exit(0)


def _be_a_child(order: dict[str, Any], control: Channel, log: int, catalog: Catalog) -> None:
    """Carry out one attack and end; does not return, whatever the attack does."""
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        threading.Thread(target=_end_with_caller, args=(control.fileno(), []), daemon=True).start()
        failure = _failure(order, control, catalog)
        control.send({"failed": failure} if failure else {"done": True})
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _failure(order: dict[str, Any], control: Channel, catalog: Catalog) -> dict[str, str]:
    """Carry out an attack and return why it failed; empty where it did not."""
    owner = f"{order['attack']} of {catalog.info(ATTACK, order['attack']).owner}"
    try:
        _carry_out(order, control, catalog)
    except PluginError as error:
        if _is_memory(error.__cause__):
            return {"problem": f"attack {owner} ran out of memory: {error.__cause__}", "advice": "free some"}
        return {"problem": error.problem, "advice": error.advice}
    except FpvecError as error:
        return {"problem": error.problem, "advice": error.advice}
    except SystemExit as error:
        return {"problem": f"attack {owner} asked to end the process ({error.code})", "advice": ""}
    except KeyboardInterrupt:
        return {"problem": f"attack {owner} raised KeyboardInterrupt", "advice": ""}
    return {}


def _carry_out(order: dict[str, Any], control: Channel, catalog: Catalog) -> None:
    import torch

    attack = catalog.attack(order["attack"])
    assert isinstance(attack, WeightAttack), "only attacks on weights are sent here"
    if order["threads"]:
        torch.set_num_threads(order["threads"])
    context = AttackContext(
        adapter=None if order["adapter"] is None else catalog.architecture(order["adapter"]),
        staging=Path(order["staging"]),
        seed=order["seed"],
        device=order["device"],
        progress=_ToldProgress(control),
        base=None if order["base"] is None else Path(order["base"]),
        copies=tuple(Path(copy) for copy in order["copies"]),
    )
    target = Path(order["target"])
    with plugin_code(catalog.info(ATTACK, attack.name)):
        attack.apply(Path(order["source"]), target, restored(attack.Parameters, order["parameters"]), context)
    if not (target / CHECKPOINT).is_file():
        raise PluginError(f"attack {attack.name} wrote no checkpoint", advice="see docs/plugins.md")
    refuse_nonfinite(target)


def refuse_nonfinite(checkpoint: Path) -> None:
    """Refuse an attacked copy that holds NaN or Inf.

    Raises:
        CheckpointError: a tensor does, or a file cannot be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                    tensor = tensors.get_tensor(name)
                    if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                        raise CheckpointError(f"the attacked model holds NaN or Inf in {name}: nothing to audit")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"the attacked model's {file.name} cannot be read: {error}") from error


def _is_memory(error: BaseException | None) -> bool:
    """Return whether an exception says that there is not enough memory, of the processor or of an accelerator."""
    return error is not None and (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


class _ToldProgress:
    """Progress that is told to the caller's process; steps are numbered."""

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._opened = 0

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Step]:
        """Open a step there."""
        self._opened += 1
        number = self._opened
        self._control.send({"step": number, "label": label, "total": total, "unit": unit})
        try:
            yield _ToldStep(self._control, number)
        finally:
            self._control.send({"step": number, "over": True})


class _ToldStep:
    def __init__(self, control: Channel, number: int) -> None:
        self._control, self._number = control, number

    def advance(self, amount: float = 1.0) -> None:
        """Tell how much more is done."""
        self._control.send({"step": self._number, "advance": amount})

    def note(self, text: str) -> None:
        """Tell a remark."""
        self._control.send({"step": self._number, "note": text})
