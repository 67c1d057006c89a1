"""The process that has imported vLLM: forks one engine process per suspect.

Importing vLLM takes seconds, loading a small model does not. So one host imports it once and every suspect gets a
forked child of its own, whose memory is free when it ends. vLLM is kept from starting further processes and from
compiling. On an accelerator nothing is forked – a driver does not survive it – and the host itself serves one suspect.
A suspect that is divided over several GPUs has a further process for each part, which ends with its engine.

Failures need no protocol: an exception ends the process, its traceback lies in the log, and the other side of the
channel sees the end of the stream. Every process here ends with the process that asked for it.

This module runs in its own interpreter (see ``vllm.py``) and never in the caller's.
"""

import contextlib
import gc
import importlib
import multiprocessing
import os
import select
import signal
import socket
import threading
import traceback
from types import TracebackType
from typing import Any

from fpvec_audit.backends.channel import Channel

CPU_MODULES = (
    "vllm.v1.engine.core",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.model_loader",
)
"""What an engine imports while it starts; imported once here. What a vLLM release moves is imported later instead."""


def main(control_descriptor: int, threads: int) -> None:
    """Import vLLM, say so, and start engines until the caller hangs up.

    Args:
        control_descriptor: socket to the caller.
        threads: computing threads of every engine.
    """
    control = Channel(socket.socket(fileno=control_descriptor))
    _set_environment(threads)
    imported = threading.Event()
    threading.Thread(target=_end_with_caller, args=(control_descriptor, imported), daemon=True).start()
    import vllm
    from vllm.platforms import current_platform

    mode = _choose_mode(current_platform)
    forks = bool(current_platform.is_cpu())
    if forks:
        _import_ahead()
        gc.collect()
        gc.freeze()  # children neither scan nor copy what was there before them
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries children
    imported.set()
    ready = {"version": vllm.__version__, "device": current_platform.device_type, "mode": mode, "forks": forks}
    control.send(ready | {"gpus": [] if forks else _gpu_bytes(current_platform)})
    while True:
        request, descriptors = control.receive_with_descriptors()
        if request is None:
            return
        channel_descriptor, log_descriptor = descriptors
        if not forks:
            control.send({"process": os.getpid()})
            _serve(request, channel_descriptor, log_descriptor)
            return
        process = os.fork()
        if process == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(request, channel_descriptor, log_descriptor)
            os._exit(0)
        os.close(channel_descriptor)
        os.close(log_descriptor)
        control.send({"process": process})


def _set_environment(threads: int) -> None:
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the engine in this process, not in a grandchild
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=str(threads),
        OMP_WAIT_POLICY="PASSIVE",  # a thread that spins on a busy core holds up the others: 18 s instead of 0.4 s
    )
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would override the size that the caller computed


def _choose_mode(platform: Any) -> str:
    """Settle how far answers are reproducible; before anything else of vLLM is imported, which reads the variable.

    ``repeatable``: the same call gives the same bits – one process schedules by what it was asked and not by time, and
    nothing is cached between calls. ``batch-invariant``: vLLM's own mode, where sums do not depend on the batch either;
    VLLM_BATCH_INVARIANT=0 declines it, for suspects that it cannot run. ``plain``: no promise.
    """
    if platform.is_cpu():
        os.environ.pop("VLLM_BATCH_INVARIANT", None)  # it replaces operations by ones that a CPU build lacks
        return "repeatable"
    if platform.is_cuda() and platform.has_device_capability(80):
        declined = os.environ.setdefault("VLLM_BATCH_INVARIANT", "1") == "0"
        return "plain" if declined else "batch-invariant"
    return "plain"


def _gpu_bytes(platform: Any) -> list[int]:
    """Return the bytes of each GPU that vLLM sees; of other accelerators none, whose models stay in one piece.

    vLLM asks the driver's management library, so the GPUs stay untouched until an engine wants them.
    """
    if not platform.is_cuda_alike():
        return []
    return [int(platform.get_device_total_memory(place)) for place in range(platform.device_count())]


def _import_ahead() -> None:
    for name in CPU_MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _serve(request: dict[str, Any], channel_descriptor: int, log_descriptor: int) -> None:
    """Load a suspect and answer until the caller hangs up."""
    os.dup2(log_descriptor, 1)
    os.dup2(log_descriptor, 2)
    channel = Channel(socket.socket(fileno=channel_descriptor))
    threading.Thread(target=_end_with_caller, args=(channel_descriptor, threading.Event()), daemon=True).start()
    with _LastWords():
        engine = _load(request)
        channel.send({"parts": [part.pid for part in multiprocessing.active_children()]})
        while (question := channel.receive()) is not None:
            channel.send(_answer(engine, question))


class _LastWords:
    """Ends the process on a failure, with the traceback in the log and without the interpreter's shutdown.

    This process is a fork: what the host set up is not its to end.
    """

    def __enter__(self) -> None:
        """Guard what follows."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            traceback.print_exception(error)
            os._exit(1)


def _end_with_caller(descriptor: int, over: threading.Event) -> None:
    """End this process when the other side hangs up, even in the middle of an import or an answer.

    Args:
        descriptor: socket to the caller.
        over: set when the watch is no longer wanted.
    """
    poll = select.poll()
    poll.register(descriptor, 0)  # hang-up and error are always reported
    while not poll.poll(1000):
        if over.is_set():
            return
    if not over.is_set():
        os._exit(0)


def _load(request: dict[str, Any]) -> Any:
    from vllm import LLM, SamplingParams

    import_model_class(request["architectures"])
    share = request["memory_share"]
    engine = LLM(
        model=request["model"],
        dtype=request["dtype"],
        max_model_len=request["longest"],
        max_num_seqs=request["sequences"],
        max_num_batched_tokens=max(1024, request["longest"]),  # more at once is slower on a processor, by a tenth
        kv_cache_memory_bytes=request["cache_bytes"],
        enforce_eager=True,
        disable_log_stats=True,
        enable_prefix_caching=False,
        enable_chunked_prefill=False,  # vLLM cannot take back a draw for half a prompt on a processor: the engine dies
        skip_tokenizer_init=True,
        max_logprobs=-1,  # as many as are asked for
        generation_config="vllm",  # a suspect's own penalties must not leak into a greedy answer
        load_format="safetensors",
        trust_remote_code=False,
        seed=0,
        **_division(request["tensor_parallel"]),
        **({"gpu_memory_utilization": share} if share and request["cache_bytes"] else {}),
    )
    # One token now: shapes that this build has no kernel for show while the suspect loads, not amid the questions.
    first = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    engine.generate([_prompt([0])], first, use_tqdm=False)
    return engine


def _division(parts: int) -> dict[str, Any]:
    """Return the arguments that divide a model, and prepare this process for that.

    Every part is a process of its own. It is spawned: a forked one would hold the channel to the caller open, and hang
    up too late. vLLM binds parts on a processor to memory nodes of their own, of which few machines have several; they
    share the engine's threads instead.
    """
    if parts == 1:
        return {}
    threads = max(1, int(os.environ["OMP_NUM_THREADS"]) // parts)
    os.environ.update(
        VLLM_WORKER_MULTIPROC_METHOD="spawn", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS=str(threads)
    )
    return {"tensor_parallel_size": parts, "distributed_executor_backend": "mp"}


def import_model_class(architectures: list[str]) -> None:
    """Register model classes that this process has imported; vLLM would import each in another process, for 10 s."""
    from vllm import ModelRegistry

    for name in architectures:
        entry = ModelRegistry.models.get(name)
        if entry is not None:
            with contextlib.suppress(ImportError):
                ModelRegistry.register_model(name, entry.load_model_cls())


def _answer(engine: Any, question: dict[str, Any]) -> dict[str, Any]:
    if question["ask"] == "completions":
        return _completions(engine, question)
    told = _log_probabilities(engine, question)
    if question["ask"] == "log-probabilities":
        return {"answers": [[entry.logprob for entry in text] for text in told]}
    return {"answers": [[[entry.logprob, entry.rank] for entry in text] for text in told]}


def _completions(engine: Any, question: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    parameters = [
        SamplingParams(
            max_tokens=question["max_new_tokens"],
            temperature=question["temperature"],
            top_p=question["top_p"],
            seed=seed,
            stop_token_ids=question["stop"],
            logprobs=question["first_tokens"] or None,
            detokenize=False,
        )
        for seed in question["seeds"]
    ]
    outputs = engine.generate([_prompt(ids) for ids in question["prompts"]], parameters, use_tqdm=False)
    return {"answers": [_completion(output.outputs[0], question["first_tokens"]) for output in outputs]}


def _completion(output: Any, first_tokens: int) -> dict[str, Any]:
    answer = {"ids": list(output.token_ids), "finish": output.finish_reason}
    if first_tokens and output.logprobs:
        likeliest = sorted((-told.logprob, token) for token, told in output.logprobs[0].items())
        # The token that was drawn comes along even where it is not among the likeliest.
        answer["first"] = [[token, -value] for value, token in likeliest[:first_tokens]]
    return answer


def _log_probabilities(engine: Any, question: dict[str, Any]) -> list[list[Any]]:
    """Return what vLLM tells of each text's ids from a given one on; the rest does not travel."""
    from vllm import SamplingParams

    parameters = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    outputs = engine.generate([_prompt(ids) for ids in question["prompts"]], parameters, use_tqdm=False)
    return [
        [told[token] for told, token in zip(output.prompt_logprobs[start:], ids[start:], strict=True)]
        for output, ids, start in zip(outputs, question["prompts"], question["starts"], strict=True)
    ]


def _prompt(ids: list[int]) -> Any:
    return {"prompt_token_ids": ids}
