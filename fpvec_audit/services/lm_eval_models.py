"""Models as lm-eval sees them: transformers through its own class, vLLM through an engine of ours.

lm-eval's class for vLLM runs the engine in the caller's process, where the first model's memory is never quite given
back; ours runs it in a process of its own, as audits do. Tokens, truncation and what counts as greedy are lm-eval's in
both cases, so a score is comparable with published ones.
"""

import contextlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import EvaluationError
from fpvec_audit.progress import Step

if TYPE_CHECKING:
    from fpvec_audit.backends import Engines

TRANSFORMERS, VLLM = "transformers", "vllm"
BATCH_SIZE = 64
PIECE_SECONDS = 2.0
"""How long a piece of a task's requests should take: the clock is looked at between pieces."""
FIRST_PIECE, LARGEST_PIECE = 64, 2048


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that lm-eval can ask.

    Attributes:
        model: lm-eval's object.
        engine: name of the engine, ``transformers`` or ``vllm``.
        version: version of the engine's library.
        settings: what else changes answers: dtype and device.
        close: frees the model's memory.
    """

    model: Any
    engine: str
    version: str
    settings: dict[str, str]
    close: Callable[[], None]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal on both sides of a comparison."""
        return {"kind": self.engine, "engine": self.engine, "version": self.version, "settings": dict(self.settings)}


def serve_transformers(directory: Path, *, device: str = "cpu") -> ServedModel:
    """Load a model with transformers.

    Args:
        directory: checkpoint directory.
        device: torch device.

    Raises:
        EvaluationError: it cannot be loaded.
    """
    import transformers
    from lm_eval.models.huggingface import HFLM

    try:
        with quiet_libraries():
            model = HFLM(pretrained=str(directory), device=device, dtype="auto", batch_size=BATCH_SIZE)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = f"{directory} cannot be loaded: {error}"
        raise EvaluationError(said, advice="check it with `fpvec doctor`") from error
    model.model.register_forward_hook(_refuse_nan(directory))
    settings = {"device": str(model.device), "dtype": str(model.model.dtype).removeprefix("torch.")}

    def close() -> None:
        import torch

        model._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    return ServedModel(model, TRANSFORMERS, transformers.__version__, settings, close)


def serve_vllm(directory: Path, *, engines: "Engines") -> ServedModel:
    """Load a model with vLLM, in a process of its own.

    Args:
        directory: checkpoint directory.
        engines: opens vLLM engines, and nothing else.

    Raises:
        CheckpointError: the directory cannot be read.
        BackendError: vLLM cannot load it.
    """
    from fpvec_audit.backends.vllm import VllmBackend
    from fpvec_audit.services.lm_eval_vllm import VllmModel

    backend = engines.open(directory)
    assert isinstance(backend, VllmBackend), "these engines open vLLM"
    told = backend.description
    return ServedModel(VllmModel(backend), VLLM, told.version, dict(told.settings), backend.close)


class WatchedModel:
    """A model that is asked piece by piece: progress moves, and a task that takes too long ends.

    Stands before lm-eval's object and gives it everything else.

    Args:
        model: lm-eval's object.
        step: where to report, in requests.
        limit: seconds that the requests may take; None for no limit.
        timer: gives seconds from any beginning.
    """

    def __init__(
        self, model: Any, step: Step, *, limit: float | None = None, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._model, self._step, self._limit, self._timer = model, step, limit, timer
        self._begun = timer()

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Return (log-likelihood, whether greedy) of each continuation."""
        return self._in_pieces(self._model.loglikelihood, requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        """Return the log-likelihood of each text."""
        return self._in_pieces(self._model.loglikelihood_rolling, requests)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Return an answer to each prompt."""
        return self._in_pieces(self._model.generate_until, requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _in_pieces(self, ask: Callable[[list[Any]], list[Any]], requests: Sequence[Any]) -> list[Any]:
        answers: list[Any] = []
        size = FIRST_PIECE
        while len(answers) < len(requests):
            started = self._timer()
            spent = started - self._begun
            if self._limit is not None and spent > self._limit:
                raise EvaluationError(
                    f"not finished within {self._limit:g} s: {len(answers):,} of {len(requests):,} requests",
                    advice="raise --task-time, or ask fewer items with --limit",
                )
            piece = list(requests[len(answers) : len(answers) + size])
            answers += ask(piece)
            self._step.advance(len(piece))
            pace = len(piece) / max(self._timer() - started, 1e-3)
            size = int(min(LARGEST_PIECE, max(BATCH_SIZE, pace * PIECE_SECONDS)))
        return answers


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and chatter off the terminal, where ours are drawn."""
    loggers = [
        logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets", "transformers", "huggingface_hub")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def require_numbers(values: Sequence[float], what: str) -> None:
    """Refuse scores that are no numbers.

    Raises:
        EvaluationError: one of them is NaN.
    """
    for place, value in enumerate(values):
        if math.isnan(value):
            raise EvaluationError(f"{what}: item {place} has score NaN", advice="the weights are broken")


def _refuse_nan(directory: Path) -> Callable[..., None]:
    """Return a hook that looks at the last position of every batch; a NaN anywhere before reaches it."""

    def hook(_module: Any, _arguments: Any, output: Any) -> None:
        logits = output.logits
        if bool(logits[:, -1].isnan().any()):
            raise EvaluationError(f"{directory}: the logits are NaN", advice="the weights are broken")

    return hook
