"""Prompts that this process has opened are taken out of what is recorded in the clear.

Why a job or an attack failed is recorded as it was said, and what a plugin, an engine or an endpoint says may repeat
what it was asked. Only prompts are taken out: a response is an ordinary word, and tells nothing without its prompt.
"""

import json
from collections.abc import Iterable

HIDDEN = "[prompt]"


class Redaction:
    """Knows prompts, and takes them out of texts."""

    def __init__(self) -> None:
        self._prompts: set[str] = set()

    def __repr__(self) -> str:
        return f"Redaction({len(self._prompts)} prompts)"

    def know(self, prompts: Iterable[str]) -> None:
        """Take these prompts out of texts from now on."""
        self._prompts.update(prompt for prompt in prompts if prompt)

    def text(self, text: str) -> str:
        """Return a text without any prompt, however it is written: as it is, in JSON or as Python shows it."""
        for prompt in self._prompts:
            for written in _forms(prompt):
                text = text.replace(written, HIDDEN)
        return text


def _forms(prompt: str) -> set[str]:
    quoted = (json.dumps(prompt), json.dumps(prompt, ensure_ascii=False), repr(prompt), ascii(prompt))
    return {prompt, *(form[1:-1] for form in quoted)}
