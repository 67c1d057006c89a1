"""Processes whose peak memory is their own: a process begins with the peak of the one that it was forked from."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FPVEC = ("-c", "import sys; from fpvec_audit.cli.main import run; sys.exit(run(sys.argv[1:]))")


def output_of(*arguments: "str | Path") -> str:
    """Run Python through a shell, which is small, and return what it printed.

    Args:
        arguments: of the interpreter.

    Raises:
        SystemExit: it failed.
    """
    command: Sequence[str] = ("sh", "-c", '"$@"; exit $?', "sh", sys.executable, *map(str, arguments))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins")))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments[:6]))} … exited with {done.returncode}")
    return done.stdout
