"""The process that has imported vLLM's server: forks one server for every model, in a few seconds instead of thirty.

A server is what ``python -m vllm.entrypoints.openai.api_server`` starts: the same program with the same arguments, in a
process group of its own, with its engine in a second process. What differs is that nothing is imported again: the
server is a fork of this process, its engine a fork of the server, and the model's class is known, which vLLM imports in
a third process otherwise. See ``fpvec_audit.backends.vllm_host`` for engines.

Every line on stdin asks for a server – ``{"arguments": […], "architectures": […], "log": path}`` – and is answered with
its process id; at the end of stdin this process ends. Its caller ends the servers.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
from typing import Any

from fpvec_audit.backends.vllm_host import CPU_MODULES, import_model_class

SERVER = "vllm.entrypoints.launchers.api_server.entry"
MODULES = (SERVER, "vllm.v1.engine.async_llm", "vllm.v1.engine.utils", *CPU_MODULES)
"""What a server and its engine import while they start."""


def serve() -> None:
    """Start servers until stdin ends."""
    for name in MODULES:
        with contextlib.suppress(ImportError):  # what a release has moved is imported by the server itself
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # servers neither scan nor copy what was there before them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        process = os.fork() or _become(json.loads(line))
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any]) -> int:
    """Be a server; does not return."""
    try:
        os.setsid()
        for descriptor, path in enumerate((os.devnull, request["log"], request["log"])):
            file = os.open(path, os.O_RDONLY if not descriptor else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, descriptor)
            os.close(file)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _fork_engines()
        import_model_class(request["architectures"])
        sys.argv = ["vllm", *request["arguments"]]
        importlib.import_module(SERVER).main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # a server ends by a signal


def _fork_engines() -> None:
    """Let the server fork its engine: on a CPU vLLM insists on a fresh process, which would import everything again."""
    context = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: context  # type: ignore[assignment]


if __name__ == "__main__":
    serve()
