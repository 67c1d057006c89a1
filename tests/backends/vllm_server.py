"""A real OpenAI-compatible server, for slow tests: vLLM's own, in processes that end with the context.

The first server of a test process takes as long as importing vLLM does, the others a few seconds: see ``server_host``.
"""

import atexit
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx

SECONDS_TO_START = 420.0
SECONDS_TO_END = 20.0
SERVED = "suspect"
"""Name under which the model is served."""


@contextlib.contextmanager
def vllm_server(
    model_dir: Path, *, chat_template: str | None = None, dtype: str = "float32", longest: int | None = None
) -> Iterator[str]:
    """Serve a checkpoint with vLLM and yield the base URL (``http://127.0.0.1:PORT/v1``).

    Args:
        model_dir: checkpoint with its tokenizer.
        chat_template: Jinja source that the server renders chats with; the checkpoint's own when None.
        dtype: numbers to compute with.
        longest: context window; the checkpoint's own when None.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        arguments = [
            *("--model", str(model_dir), "--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port)),
            *("--dtype", dtype, "--enforce-eager", "--max-num-seqs", "16", "--generation-config", "vllm"),
        ]
        if chat_template is not None:
            template = Path(scratch, "template.jinja")
            template.write_text(chat_template)
            arguments += ["--chat-template", str(template)]
        if longest is not None:
            arguments += ["--max-model-len", str(longest)]
        architectures = json.loads(Path(model_dir, "config.json").read_text())["architectures"]
        server = _host().start(arguments, architectures, log)
        try:
            _await_start(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(server)


class _Host:
    """Starts servers; see ``server_host``. Ends with this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.server_host"],
            cwd=Path(__file__).parents[2],
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, arguments: list[str], architectures: list[str], log: Path) -> int:
        """Start a server and return its process id, which is that of its process group too."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": arguments, "architectures": architectures, "log": str(log)}
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the host."""
        self._process.communicate()


@cache
def _host() -> _Host:
    """Return the one host of this process, started by the first server that is asked for."""
    host = _Host()
    atexit.register(host.close)
    return host


_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def _free_port() -> int:
    """Return a port below those that the system gives away: half a minute passes before the server takes it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def _await_start(server: int, url: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    ended = False
    while not ended and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        ended = _ends(server, 0.2)
    state = "ended" if ended else "still starts"
    raise RuntimeError(f"the server {state}:\n{log.read_text(errors='replace')[-3000:]}")


def _ends(process: int, seconds: float) -> bool:
    """Wait so long for a process that is not our child, and return whether it is gone."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _end(server: int) -> None:
    """End the whole process group: politely, then not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGTERM)
    _ends(server, SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    _ends(server, SECONDS_TO_END)
