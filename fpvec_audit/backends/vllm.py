"""The suspect in a child process of its own, run by vLLM.

A :class:`VllmHost` is a process that has imported vLLM; a :class:`VllmBackend` asks it to start an engine for one
suspect and talks to that engine. The child's entry point lies in this package, so callers need no
``if __name__ == "__main__"``. Sockets tie lives together: an engine ends when its caller does, and a caller learns at
once that an engine died, with the end of the engine's log.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import fpvec_audit
from fpvec_audit.backends.channel import Channel
from fpvec_audit.backends.engine_memory import LONGEST, SEQUENCES, cache_bytes, memory_share, settle_parts
from fpvec_audit.backends.prompts import draw_seeds, likelihood, read_suspect_files
from fpvec_audit.domain.ports import BackendDescription, Completion, Likelihood, Sampling
from fpvec_audit.errors import BackendError

SECONDS_TO_END = 10.0
LOG_LINES = 12
MOST_LOG_BYTES = 1 << 16
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from fpvec_audit.backends.vllm_host import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")
_OF_PART = re.compile(r"\((?:Vllm)?Worker[^)]*\) ERROR .*?\] ")
"""How vLLM begins the lines of a process that runs one part of a divided model."""


class VllmHost:
    """A process that has imported vLLM and starts engines. It is started here and awaited only when it is needed.

    Args:
        threads: computing threads of every engine.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._ready: dict[str, Any] | None = None
        self._used = False
        self._log = _open_log()
        ours, theirs = socket.socketpair()
        self._control = Channel(ours)
        source = str(Path(fpvec_audit.__file__).parent.parent)
        with theirs:
            # A session of its own: Ctrl-C is for the caller, who hangs up, which ends the host.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-c", _PROGRAM, source, str(theirs.fileno()), str(self.threads)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until vLLM is imported and return its version, device and mode (see ``vllm_host``).

        Raises:
            BackendError: vLLM cannot be imported.
        """
        with self._lock:
            if self._ready is None:
                self._ready = self._control.receive()
            if self._ready is None:
                raise BackendError(
                    f"vLLM cannot be imported: {_last_line(self._log)}",
                    advice="`fpvec doctor` says what is missing; --backend transformers works without it",
                )
            return self._ready

    def start(self, request: dict[str, Any], log: BinaryIO) -> tuple[Channel, int]:
        """Start an engine and return the channel to it and its process id; it loads the suspect meanwhile.

        Args:
            request: what :func:`fpvec_audit.backends.vllm_host.main` loads.
            log: open file that gets all output of the engine.

        Raises:
            BackendError: the host died.
        """
        self.wait_until_ready()
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            self._used = True
            try:
                self._control.send(request, [theirs.fileno(), log.fileno()])
                started = self._control.receive()
            except OSError:
                started = None
        if started is None:
            ours.close()
            raise BackendError(f"the vLLM host died: {_last_line(self._log)}", advice="look at the machine's memory")
        return Channel(ours), int(started["process"])

    def close(self) -> None:
        """Hang up, which ends the host; engines go on until their own backends are closed."""
        self._control.close()
        if self._used and not (self._ready or {}).get("forks", True):
            self._process.poll()  # the process is an engine now, and ends with its backend
        else:
            self._end()
        self._log.close()

    def _end(self) -> None:
        if not self._used:
            self._process.kill()  # it may be importing: nothing to be tidy about
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __repr__(self) -> str:
        return f"VllmHost(process={self._process.pid}, threads={self.threads})"


class VllmBackend:
    """A suspect loaded by vLLM in a process of its own, and in further ones where it is divided over several GPUs.

    Args:
        model: checkpoint directory.
        host: process that starts the engine.
        tensor_parallel: over how many GPUs it is divided; None for as few as hold it.

    Raises:
        CheckpointError: the directory cannot be read.
        UsageError: it cannot be divided so.
        BackendError: vLLM cannot load the suspect.
    """

    def __init__(self, model: str | Path, *, host: VllmHost, tensor_parallel: int | None = None) -> None:
        self._host = host
        self._log = _open_log()
        self._channel: Channel | None = None
        self._process = 0
        self._parts: tuple[int, ...] = ()
        self._lock = threading.Lock()
        try:
            self._files = read_suspect_files(model)
            self._longest = min(self._files.window or LONGEST, LONGEST)
            ready = host.wait_until_ready()
            gpus = ready.get("gpus", ())
            parts = settle_parts(self._files, tensor_parallel, gpus=gpus)
            self._start(parts, gpus=gpus)
        except BaseException:
            self.close()
            raise
        mode = str(ready["mode"])
        settings = {
            "device": str(ready["device"]),
            "dtype": self._files.dtype,
            "mode": mode,
            "threads": str(host.threads),
        }
        if parts > 1:  # sums are added up in another order then; engines in one piece are described as ever
            settings["tensor_parallel"] = str(parts)
        self._description = BackendDescription(
            kind="vllm",
            model=str(model),
            engine="vllm",
            version=str(ready["version"]),
            deterministic=mode != "plain",
            settings=settings,
        )

    @property
    def description(self) -> BackendDescription:
        """Which engine answers."""
        return self._description

    @property
    def process(self) -> int:
        """Process id of the engine."""
        return self._process

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt, in order and in the same number.

        A drawn answer depends on the seed, the prompt and how many equal prompts stand before it in this call, up to
        rounding where the mode does not rule that out.

        Raises:
            BackendError: the engine is closed or died, or a prompt does not fit.
        """
        if not prompts:
            return []
        encoded = self._files.encode(prompts, sampling)
        self._require_room(max(map(len, encoded)) + sampling.max_new_tokens)
        drawn = sampling.temperature > 0 and sampling.seed is not None
        question = {
            "ask": "completions",
            "prompts": encoded,
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seeds": draw_seeds(sampling.seed or 0, encoded) if drawn else [None] * len(encoded),
            "first_tokens": sampling.first_tokens,
            "stop": list(self._files.stop_ids),
        }
        return [self._completion(answer) for answer in self._answers(question)]

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        """Return how likely each response is right after the prompt beside it, in order and in the same number.

        None where no token begins within the response, or where a log-probability is not finite.

        Raises:
            BackendError: the engine is closed or died, or a pair does not fit.
        """
        if not prompts:
            return []
        pairs = self._files.encode_pairs(prompts, responses)
        self._require_room(max(len(pair.ids) for pair in pairs) + 1)
        question = {
            "ask": "log-probabilities",
            "prompts": [pair.ids for pair in pairs],
            "starts": [len(pair.prompt) for pair in pairs],
        }
        return [likelihood(values) for values in self._answers(question)]

    @property
    def tokenizer(self) -> Any:
        """The suspect's tokenizer."""
        return self._files.tokenizer

    @property
    def longest(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._longest

    def complete_ids(self, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[str]:
        """Answer prompts in token ids greedily, in order and in the same number; special tokens are left out.

        Raises:
            BackendError: the engine is closed or died, or a prompt does not fit.
        """
        if not prompts:
            return []
        self._require_room(max(map(len, prompts)) + max_new_tokens)
        question = {
            "ask": "completions",
            "prompts": list(prompts),
            "max_new_tokens": max_new_tokens,
            "temperature": 0.0,
            "top_p": 1.0,
            "seeds": [None] * len(prompts),
            "first_tokens": 0,
            "stop": list(self._files.stop_ids),
        }
        return [self._completion(answer).text for answer in self._answers(question)]

    def ranked_log_probabilities(
        self, texts: Sequence[list[int]], starts: Sequence[int]
    ) -> list[list[tuple[float, int]]]:
        """Return (log-probability, rank) of each text's ids from a given one on; the likeliest token has rank 1.

        Args:
            texts: token ids, of which the first has no probability.
            starts: place in each text from which on to tell, at least 1.

        Raises:
            BackendError: the engine is closed or died, or a text does not fit.
        """
        if not texts:
            return []
        self._require_room(max(map(len, texts)) + 1)
        question = {"ask": "ranked-log-probabilities", "prompts": list(texts), "starts": list(starts)}
        return [[(value, rank) for value, rank in told] for told in self._answers(question)]

    def close(self) -> None:
        """End the engine's process and wait until its memory is free."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            for process in (self._process, *self._parts):
                _await_end(process)
        self._log.close()

    def _start(self, parts: int, *, gpus: Sequence[int]) -> None:
        request = {
            "model": str(self._files.directory.resolve()),
            "architectures": list(getattr(self._files.config, "architectures", None) or []),
            "dtype": self._files.dtype,
            "longest": self._longest,
            "sequences": SEQUENCES,
            "cache_bytes": cache_bytes(self._files, self._longest, parts=parts),
            "tensor_parallel": parts,
            "memory_share": memory_share(self._files, parts, gpus=gpus),
        }
        self._channel, self._process = self._host.start(request, self._log)
        loaded = self._channel.receive()
        if loaded is None:
            raise self._died("could not load the suspect")
        self._parts = tuple(loaded["parts"])

    def _require_room(self, tokens: int) -> None:
        if tokens > self._longest:
            raise BackendError(
                f"{self._files.directory}: {tokens} tokens of prompt and answer are more than the {self._longest} "
                "that memory was set aside for",
                advice="use a shorter system prompt, or --backend transformers",
            )

    def _answers(self, question: dict[str, Any]) -> list[Any]:
        answers: list[Any] = self._exchange(question)["answers"]
        asked = len(question["prompts"])
        if len(answers) != asked:
            raise BackendError(f"the vLLM engine answered {len(answers)} of {asked} prompts")
        return answers

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._channel is None:
                raise BackendError(f"{self._files.directory}: the engine is closed")
            try:
                self._channel.send(question)
                answer = self._channel.receive()
            except OSError:
                answer = None
        if answer is None:
            raise self._died("died while it answered")
        reply: dict[str, Any] = answer
        return reply

    def _died(self, how: str) -> BackendError:
        return BackendError(
            f"{self._files.directory}: the vLLM engine {how}: {_tail(self._log)}",
            advice="use --backend transformers, or free memory; `fpvec doctor` says what works here",
        )

    def _completion(self, answer: dict[str, Any]) -> Completion:
        ids = answer["ids"]
        if ids and ids[-1] in self._files.stop_ids:
            ids = ids[:-1]
        return Completion(
            self._files.decode(ids),
            "stop" if answer["finish"] == "stop" else "length",
            first_tokens=self._files.first_tokens(answer.get("first", ())),
        )


def _await_end(process: int) -> None:
    """Wait until an engine's process is gone; kill it when it does not go."""
    with contextlib.suppress(ProcessLookupError, AttributeError):  # gone already; no pidfd on this system
        descriptor = os.pidfd_open(process)
        try:
            if not select.select([descriptor], [], [], SECONDS_TO_END)[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], SECONDS_TO_END)
        finally:
            os.close(descriptor)


def _open_log() -> BinaryIO:
    """Return a file without a name, which leaves nothing behind however its processes end."""
    return cast(BinaryIO, tempfile.TemporaryFile())


def _tail(log: BinaryIO) -> str:
    """Return the end of a log: the last exception in it, or its last lines.

    Where a part of a divided model failed, its exception is the reason, and that of the engine says as much.
    """
    lines = _lines(log)
    of_parts = [line[found.end() :] for line in lines if (found := _OF_PART.match(line))]
    if reasons := [line for line in of_parts if _EXCEPTION.match(line)]:
        return reasons[-1]
    lines = lines[-LOG_LINES:]
    raised = [place for place, line in enumerate(lines) if _EXCEPTION.match(line)]
    lines = lines[raised[-1] :] if raised else lines
    return "\n".join(lines) if lines else "it left no word; the system may have killed it for its memory"


def _last_line(log: BinaryIO) -> str:
    return (_lines(log) or ["it left no word"])[-1].strip()


def _lines(log: BinaryIO) -> list[str]:
    size = os.fstat(log.fileno()).st_size
    start = max(0, size - MOST_LOG_BYTES)
    # The offset is shared with the process that writes: read without moving it.
    text = os.pread(log.fileno(), size - start, start).decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()]
