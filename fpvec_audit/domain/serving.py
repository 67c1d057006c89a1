"""What stands between a user's text and a model: the template, and attacks on serving that change it.

A query attack sees texts as the host rendered them. Here they are read back, so that an attack can change what the user
or the operator wrote and render it again; what was rendered in some other way is told apart, never guessed at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.ports import AttackContext, InferenceBackend, QueryAttack, ServingAttack
from fpvec_audit.errors import FpvecError

Render = Callable[[str, str], str]
"""(user's text, system prompt) → text that a model reads; an empty system prompt stands for none."""

_USER, _SYSTEM = "fpvec6f1duser", "fpvec6f1dsystem"


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """What a rendered prompt was made of.

    Attributes:
        user: the user's text.
        system: system prompt; empty for none.
        answer: beginning of the answer, where one was put behind the prompt, with the white space before it.
    """

    user: str
    system: str = ""
    answer: str = ""

    def __repr__(self) -> str:
        return "RenderedPrompt(<redacted>)"


class PromptTemplate:
    """A rendering that can be read back.

    Args:
        render: how the host puts a user's text and a system prompt together; None where it asks users' texts as
            they are.
    """

    def __init__(self, render: Render | None) -> None:
        self._render = render
        self._patterns: list[tuple[str, str, str]] = []
        """(before, between, behind) of a prompt; between is empty in the one without a system prompt."""
        if render is None:
            return
        before, _, behind = render(_USER, "").partition(_USER)
        self._patterns.append((before, "", behind))
        try:
            before, _, rest = render(_USER, _SYSTEM).partition(_SYSTEM)
        except FpvecError:
            return  # a template without a place for a system prompt
        between, _, behind = rest.partition(_USER)
        if between:
            self._patterns.append((before, between, behind))
        # The longer beginning first: a template may put its system prompt within what begins the user's text.
        self._patterns.sort(key=lambda pattern: len(pattern[0]), reverse=True)

    @property
    def beginning(self) -> str:
        """Text before the user's, without a system prompt; empty where there is no template."""
        return next((before for before, between, _ in self._patterns if not between), "")

    def read(self, prompt: str) -> RenderedPrompt | None:
        """Return what a prompt was made of, None where it was not rendered by this template."""
        if self._render is None:
            return RenderedPrompt(prompt)
        for before, between, behind in self._patterns:
            if not prompt.startswith(before):
                continue
            middle, ended, answer = _split_last(prompt[len(before) :], behind)
            if not ended:
                continue
            if not between:
                return RenderedPrompt(middle, "", answer)
            system, divided, user = middle.partition(between)
            if divided:
                return RenderedPrompt(user, system, answer)
        return None

    def write(self, prompt: RenderedPrompt) -> str:
        """Render a prompt.

        Raises:
            FpvecError: it has a system prompt and the template no place for one.
        """
        if self._render is None:
            text = f"{prompt.system}\n{prompt.user}" if prompt.system else prompt.user
        else:
            text = self._render(prompt.user, prompt.system)
        return text + prompt.answer


def served(attack: QueryAttack, backend: InferenceBackend, parameters: Any, context: AttackContext) -> InferenceBackend:
    """Return a backend that answers as the attacked service would.

    It is made by ``serve`` where the attack has it, else by ``wrap``.
    """
    if isinstance(attack, ServingAttack):
        return attack.serve(backend, parameters, context)
    return attack.wrap(backend, parameters)


def _split_last(text: str, behind: str) -> tuple[str, bool, str]:
    """Return (text before, whether found, text after) the last place of ``behind``."""
    if not behind:
        return text, True, ""
    at = text.rfind(behind)
    return (text, False, "") if at < 0 else (text[:at], True, text[at + len(behind) :])
