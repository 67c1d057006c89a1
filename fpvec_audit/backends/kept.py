"""One engine for all who ask one suspect: it is started once and stays up until nobody wants it any more."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fpvec_audit.backends import EngineSource
from fpvec_audit.domain.ports import (
    BackendDescription,
    Completion,
    InferenceBackend,
    Likelihood,
    LikelihoodBackend,
    Sampling,
)
from fpvec_audit.errors import BackendError


class KeptEngine:
    """An engine source that starts one suspect's engine once and lends it; use it as a context manager.

    Who closes what was lent gives it back; the engine ends with this object. Other models are opened as ever.

    Args:
        engines: what starts engines.
        model: checkpoint directory of the suspect.
    """

    def __init__(self, engines: EngineSource, model: Path) -> None:
        self._engines = engines
        self._model = model.expanduser().resolve()
        self._engine: InferenceBackend | None = None
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fallback(self) -> str:
        """Why another engine answers than was preferred; empty when none does."""
        return self._engines.fallback

    def warm_up(self) -> None:
        """Prepare in the background; returns at once."""
        self._engines.warm_up()

    def open(self, model: str | Path) -> InferenceBackend:
        """Lend the suspect's engine, started at the first time; load any other model.

        Raises:
            CheckpointError: the directory cannot be read.
            BackendError: the engine cannot be started, or cannot load the model.
        """
        if Path(model).expanduser().resolve() != self._model:
            return self._engines.open(model)
        if self._engine is None:
            self._engine = self._engines.open(model)
            self.starts += 1
        return _TellingLoan(self._engine) if isinstance(self._engine, LikelihoodBackend) else _Loan(self._engine)

    def close(self) -> None:
        """End the engine; it is started anew for whoever asks after that."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Loan:
    """An engine as it is lent."""

    def __init__(self, engine: InferenceBackend) -> None:
        self._engine = engine

    @property
    def description(self) -> BackendDescription:
        return self._engine.description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        return self._engine.complete(prompts, sampling)

    def close(self) -> None:
        """Give it back."""


class _TellingLoan(_Loan):
    """The same of an engine that tells probabilities."""

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        if not isinstance(self._engine, LikelihoodBackend):  # it was one when it was lent
            raise BackendError("the engine tells no probabilities")
        return self._engine.log_likelihoods(prompts, responses)
