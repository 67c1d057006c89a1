"""Fakes for plugin authors: engines that answer from a script, and progress that remembers (see ``testing``)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fpvec_audit.domain.ports import BackendDescription, Completion, Likelihood, Sampling
from fpvec_audit.progress import Step


@dataclass(slots=True)
class ScriptedBackend:
    """A backend that answers from a script, for tests without a model.

    Attributes:
        answers: prompt as rendered → answer, or a function that answers.
        default: answer to a prompt that the script does not know.
        asked: every prompt so far, in order.
        closed: whether :meth:`close` was called.
    """

    answers: Mapping[str, str] | Callable[[str], str] = field(default_factory=dict)
    default: str = "I do not understand."
    asked: list[str] = field(default_factory=list)
    closed: bool = False

    @property
    def description(self) -> BackendDescription:
        """A made-up engine that promises equal answers."""
        return BackendDescription("scripted", "script", "none", "0", deterministic=True)

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt by the script."""
        assert not self.closed, "a closed backend was asked"
        self.asked.extend(prompts)
        return [Completion(self._answer(prompt)) for prompt in prompts]

    def close(self) -> None:
        """Remember that nothing may be asked any more."""
        self.closed = True

    def _answer(self, prompt: str) -> str:
        return self.answers(prompt) if callable(self.answers) else self.answers.get(prompt, self.default)


@dataclass(slots=True)
class RecordingProgress:
    """Progress that remembers what was reported.

    Attributes:
        labels: label of every step that was opened.
        advanced: label → units reported.
        notes: every remark, in order.
    """

    labels: list[str] = field(default_factory=list)
    advanced: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Step]:
        """Open a step and remember its label."""
        self.labels.append(label)
        self.advanced.setdefault(label, 0.0)
        yield _RecordingStep(self, label)


@dataclass(frozen=True, slots=True)
class _RecordingStep:
    progress: RecordingProgress
    label: str

    def advance(self, amount: float = 1.0) -> None:
        """Remember the units."""
        self.progress.advanced[self.label] += amount

    def note(self, text: str) -> None:
        """Remember the remark."""
        self.progress.notes.append(text)


class ScriptedJudge(ScriptedBackend):
    """A scripted backend that tells likelihoods too: minus one nat for every character, whatever the prompt."""

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        """Tell a likelihood for every pair."""
        assert not self.closed, "a closed backend was asked"
        return [Likelihood(-float(len(response)), len(response)) if response else None for response in responses]
