"""Starts ``fpvec`` processes that have imported everything already: a fork takes milliseconds, a start over a second.

Every line on stdin is a request, every line on stdout its answer. ``{"run": …}`` forks a process that does what the
console script does and answers with its id; ``{"stopped": id}`` answers 1 when it has stopped itself and 0 when it has
ended; ``{"wait": id}`` answers with its exit code, negative for a signal. The process is a real one with memory,
descriptors and locks of its own, so that ``kill -9`` means what it says.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
import tempfile
from typing import Any

from fpvec_audit import catalog
from fpvec_audit.cli import main
from fpvec_audit.registry import schema, unit_of_work
from fpvec_audit.reports import terminal
from fpvec_audit.services import extract, stamp
from fpvec_audit.tensors import delta, digest, rewrite
from fpvec_audit.tensors import stamp as tensors_stamp
from tests.faults.witness import install

IMPORTED = (schema, unit_of_work, terminal, extract, stamp, delta, digest, rewrite, tensors_stamp)
"""What a command imports when it runs."""
_CAPABILITIES_VERSION = 0x20080522
_DAC_OVERRIDE = 1 << 1


def serve() -> None:
    """Answer requests until stdin ends."""
    catalog.load_catalog()
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()):
        for command in ("vector", "job"):  # what is prepared when it is first used, such as the tables' mapping
            main.run([command, "list", "--home", home, "--json"])
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer = os.fork() or _become(request["run"])
        elif "stopped" in request:
            found = os.waitid(os.P_PID, request["stopped"], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            answer = int(found is not None and found.si_code == os.CLD_STOPPED)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any]) -> int:
    """Be a ``fpvec`` process; does not return."""
    code = 99
    try:
        for descriptor, path in enumerate((os.devnull, request["out"], request["err"])):
            file = os.open(path, os.O_RDONLY if not descriptor else os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
            os.close(file)
        _be_like_anybody()
        # a shell without job control lets what it starts in the background ignore Ctrl-C, and that is inherited
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        stop = request["stop"]
        install(os.open(request["events"], os.O_WRONLY | os.O_CLOEXEC), None if stop is None else tuple(stop))
        code = main.run(request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _be_like_anybody() -> None:
    """Give up root's right to write to files that nobody may write to; others never had it."""
    library = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    if library.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):  # effective, permitted, inheritable
        sets[place] &= ~_DAC_OVERRIDE
    if library.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve()
