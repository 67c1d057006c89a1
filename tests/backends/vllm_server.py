"""A real OpenAI-compatible server, for slow tests: vLLM's own, in processes that end with the context."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model_dir), "--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port)),
            *("--dtype", dtype, "--enforce-eager", "--max-num-seqs", "16", "--generation-config", "vllm"),
        ]
        if chat_template is not None:
            template = Path(scratch, "template.jinja")
            template.write_text(chat_template)
            command += ["--chat-template", str(template)]
        if longest is not None:
            command += ["--max-model-len", str(longest)]
        with log.open("wb") as output:
            server = subprocess.Popen(
                command,
                env=os.environ | _ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a process group of its own, engine included, to end together
            )
        try:
            _await_start(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _end(server)


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


def _await_start(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        try:
            server.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        break
    state = "still starts" if server.poll() is None else f"ended with {server.returncode}"
    raise RuntimeError(f"the server {state}:\n{log.read_text(errors='replace')[-3000:]}")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the whole process group: politely, then not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
