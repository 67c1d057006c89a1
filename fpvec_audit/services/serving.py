"""What attacks on serving and guesses need of the host: the template, other engines, and questions made of probes.

A probe that is asked raw goes to the model itself, past every attack on serving: nobody but who holds the weights can
ask without a template.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Self

from fpvec_audit.domain.ports import ArchitectureAdapter, InferenceBackend, Probe, Sampling
from fpvec_audit.domain.serving import Render
from fpvec_audit.errors import BackendError
from fpvec_audit.services.rendering import choose_rendering


@dataclass(frozen=True, slots=True)
class Question:
    """One question as an engine gets it.

    Attributes:
        text: what the model reads.
        sampling: how the answer is drawn.
        raw: whether it goes past attacks on serving.
    """

    text: str
    sampling: Sampling
    raw: bool = False

    def __repr__(self) -> str:
        return f"Question(<redacted>, {self.sampling}, raw={self.raw})"


def probe_questions(
    probes: Sequence[Probe], *, render: Callable[[str], str], beginning: str, sampling: Sampling, seed: int
) -> list[Question]:
    """Return what is asked for each probe.

    Args:
        probes: guesses of query attacks.
        render: user's text → what the model reads.
        beginning: the tokenizer's beginning-of-text token, which stands for nothing at all.
        sampling: how answers are drawn that a probe says nothing of.
        seed: of answers that are drawn at a temperature.

    Raises:
        BackendError: a probe asks nothing, and the tokenizer has no token for that.
    """
    questions = []
    for probe in probes:
        text = probe.prompt if probe.raw else render(probe.prompt)
        if not text and not beginning:
            raise BackendError(
                f"{probe.kind}: the tokenizer has no beginning-of-text token to stand for an empty prompt",
                advice="leave these guesses out (guessing:unconditional=0,forced=0)",
            )
        text = text or beginning
        if probe.forced:
            text = f"{text} {probe.forced}"
        drawn = sampling if not probe.temperature else replace(sampling, temperature=probe.temperature, seed=seed)
        questions.append(Question(text, drawn, probe.raw))
    return questions


def portions(questions: Sequence[Question], most: int) -> Iterator[tuple[list[str], Sampling, bool]]:
    """Yield (texts, sampling, raw) of neighbours that may be asked in one call, in order.

    Equal questions draw other answers within a call; each portion of a seed's therefore gets a seed of its own.
    """
    for (sampling, raw), group in groupby(questions, key=lambda question: (question.sampling, question.raw)):
        texts = [question.text for question in group]
        for number, start in enumerate(range(0, len(texts), most)):
            own = sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + number)
            yield texts[start : start + most], own, raw


class Opens(Protocol):
    """What opens an engine for a checkpoint."""

    def open(self, model: str | Path) -> InferenceBackend:
        """Load a checkpoint."""
        ...


@dataclass(slots=True)
class OtherEngines:
    """Engines of models beside the attacked one, each opened once; use it as a context manager.

    Attributes:
        engines: what opens them.
    """

    engines: Opens
    _opened: dict[Path, InferenceBackend] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._opened.values():
            engine.close()
        self._opened.clear()

    def open(self, model: Path) -> InferenceBackend:
        """Return the engine of a checkpoint, which stays open until the end.

        Raises:
            CheckpointError: the directory cannot be read.
            BackendError: the engine cannot be started.
        """
        place = model.resolve()
        if place not in self._opened:
            self._opened[place] = self.engines.open(model)
        return self._opened[place]


def service_template(tokenizer: Any, adapter: ArchitectureAdapter | None) -> Render | None:
    """Return how a model is asked with a system prompt and without, None where users' texts are asked as they are.

    Args:
        tokenizer: the model's.
        adapter: its architecture, None when unknown.

    Raises:
        CheckpointError: its template cannot be rendered; when it is called, also for want of a place for a system
            prompt.
    """
    plain = choose_rendering(tokenizer, adapter=adapter)
    if plain.template == "raw":
        return None

    @lru_cache(maxsize=16)
    def under(system: str) -> Callable[[str], str]:
        return choose_rendering(tokenizer, adapter=adapter, system_prompt=system).render if system else plain.render

    return lambda user, system: under(system)(user)


def beginning_of_text(tokenizer: Any) -> str:
    """Return the token that a text begins with, as text: its own, or the one that ends texts, as in GPT-2."""
    return str(tokenizer.bos_token or tokenizer.eos_token or "")
