"""A plugin distribution with attacks that misbehave, to be put on ``sys.path`` of real processes."""

from pathlib import Path

MODULE = '''
import ctypes
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fpvec_audit.api import UsageError, hookimpl


@dataclass(frozen=True)
class Parameters:
    how: str = "copy"
    marker: Path | None = None


@dataclass(frozen=True)
class Hostile:
    Parameters: ClassVar[type] = Parameters
    name: str = "hostile"
    description: str = "Misbehaves."

    def apply(self, source, target, parameters, context):
        getattr(self, parameters.how)(source, target, parameters, context)

    def copy(self, source, target, parameters, context):
        with context.progress.step("copying", 2, "files") as step:
            step.advance()
            step.note("half")
            shutil.copytree(source, target)
            print("a word on stdout")

    def refuse(self, source, target, parameters, context):
        raise UsageError("no data", advice="give data=FILE")

    def memory(self, source, target, parameters, context):
        raise MemoryError("Unable to allocate 9 EiB")

    def leave(self, source, target, parameters, context):
        sys.exit(3)

    def vanish(self, source, target, parameters, context):
        sys.stderr.write("native code says goodbye\\n")
        sys.stderr.flush()
        os._exit(7)

    def killed(self, source, target, parameters, context):
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self, source, target, parameters, context):
        import faulthandler
        faulthandler.disable()
        ctypes.string_at(0)

    def hang(self, source, target, parameters, context):
        time.sleep(3600)

    def nothing(self, source, target, parameters, context):
        pass

    def broken(self, source, target, parameters, context):
        import torch
        from safetensors.torch import load_file, save_file
        shutil.copytree(source, target)
        file = next(target.glob("*.safetensors"))
        weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
        next(iter(weights.values())).view(-1)[0] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})

    def kill_matrix(self, source, target, parameters, context):
        """Kill the process that runs the matrix, once."""
        if not parameters.marker.exists():
            parameters.marker.write_text("killed")
            host = os.getppid()
            matrix = int(Path(f"/proc/{host}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(matrix, signal.SIGKILL)
            time.sleep(3600)
        shutil.copytree(source, target)


@hookimpl
def fpvec_attacks():
    return [Hostile()]
'''


def install(place: Path) -> Path:
    """Write the distribution and return the directory to put on the path."""
    info = place / "hostile-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fpvec_audit]\nhostile = hostile_attack\n")
    (place / "hostile_attack.py").write_text(MODULE)
    return place
