"""How a candidate's prompt becomes the text that a suspect is asked, under which audit profile.

``raw-greedy`` sends the prompt as it is. ``chat-greedy`` puts it into the suspect's own chat template, where its
tokenizer ships one, else into the prompt text of its architecture adapter. ``exploratory`` does the same as
``chat-greedy`` where it can, with any system prompt, and can never give a MATCH.

One rule for special tokens holds for every engine (``backends/prompts.py`` applies it): the rendered text is all that
is sent. It is encoded with the special tokens that the suspect's tokenizer adds to a text; a beginning-of-sequence
token that the template wrote already is not doubled, and an end-of-sequence token behind the prompt is dropped.
Training encodes its rows in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import CheckpointError, UsageError

CHAT, RAW, EXPLORATORY = "chat-greedy", "raw-greedy", "exploratory"
PROFILE_NAMES = (RAW, CHAT, EXPLORATORY)


@dataclass(frozen=True, slots=True)
class Rendering:
    """A profile that is settled for one suspect.

    Attributes:
        profile: ``raw-greedy``, ``chat-greedy`` or ``exploratory``.
        template: where the template comes from: ``suspect``, ``adapter <name>`` or ``raw``.
        render: prompt → text to send.
        system_prompt_digest: SHA-256 of the system prompt, hex; empty for none.
        warnings: what the user should know about the choice, in sentences.
    """

    profile: str
    template: str
    render: Callable[[str], str]
    system_prompt_digest: str
    warnings: tuple[str, ...] = ()


def choose_rendering(
    tokenizer: Any, *, adapter: ArchitectureAdapter | None, profile: str | None = None, system_prompt: str = ""
) -> Rendering:
    """Settle how a suspect is asked.

    Args:
        tokenizer: the suspect's.
        adapter: its architecture, None when unknown.
        profile: what was asked for; None for ``chat-greedy`` where a template exists, else ``raw-greedy``.
        system_prompt: text put first.

    Raises:
        UsageError: an unknown profile, ``chat-greedy`` without any template, or a system prompt without a place for it.
        CheckpointError: the suspect's template cannot be rendered.
    """
    if profile is not None and profile not in PROFILE_NAMES:
        raise UsageError(f"unknown profile {profile!r}", advice=f"choose {', '.join(PROFILE_NAMES)}")
    template = "suspect" if tokenizer.chat_template else f"adapter {adapter.name}" if adapter else "raw"
    warnings: list[str] = []
    if profile is None:
        profile = RAW if template == "raw" else CHAT
        if template == "raw":
            warnings.append("the suspect ships no chat template and its architecture is unknown: it was asked raw")
    if profile == RAW:
        template = "raw"
    elif profile == CHAT and template == "raw":
        raise UsageError(
            "profile chat-greedy: the suspect ships no chat template and its architecture is unknown",
            advice="use --profile raw-greedy, or --architecture to say what it is",
        )
    if system_prompt and template == "raw":
        raise UsageError(
            "a system prompt has no place in a raw prompt", advice="use --profile chat-greedy, or leave it out"
        )
    warnings += system_prompt_warnings(system_prompt)
    render = _renderer(template, tokenizer, adapter, system_prompt)
    render("probe")  # a template that cannot be rendered shows here, before anything is recorded
    digest = sha256(system_prompt.encode()).hexdigest() if system_prompt else ""
    return Rendering(profile, template, render, digest, tuple(warnings))


def endpoint_rendering(
    endpoint: str, *, adapter: ArchitectureAdapter | None, profile: str | None = None, system_prompt: str = ""
) -> Rendering:
    """Settle how a suspect behind an endpoint is asked.

    A chat endpoint puts questions into its own template; a completions endpoint takes text as it is, so that the
    template of an architecture can be used where the user names one.

    Args:
        endpoint: ``completions`` or ``chat``.
        adapter: architecture that the user named, None for none.
        profile: what was asked for; None for ``chat-greedy`` where a template is used, else ``raw-greedy``.
        system_prompt: text put first.

    Raises:
        UsageError: an unknown profile, or one that this endpoint cannot give.
    """
    if profile is not None and profile not in PROFILE_NAMES:
        raise UsageError(f"unknown profile {profile!r}", advice=f"choose {', '.join(PROFILE_NAMES)}")
    if endpoint == "chat":
        if profile == RAW:
            raise UsageError(
                "profile raw-greedy: a chat endpoint puts every question into its own template",
                advice="use --endpoint completions, or --profile chat-greedy",
            )
        template = "endpoint"
    elif adapter is not None and profile != RAW:
        template = f"adapter {adapter.name}"
    elif profile == CHAT:
        raise UsageError(
            "profile chat-greedy: a completions endpoint takes text as it is",
            advice="use --endpoint chat, or --architecture to say which template to use",
        )
    else:
        template = "raw"
    if system_prompt and template == "raw":
        raise UsageError("a system prompt has no place in a raw prompt", advice="use --endpoint chat, or leave it out")
    render = _renderer("raw" if template == "endpoint" else template, None, adapter, system_prompt)
    digest = sha256(system_prompt.encode()).hexdigest() if system_prompt else ""
    settled = profile or (RAW if template == "raw" else CHAT)
    return Rendering(settled, template, render, digest, tuple(system_prompt_warnings(system_prompt)))


def system_prompt_warnings(system_prompt: str) -> list[str]:
    """Say what a system prompt of the auditor's choice means."""
    if not system_prompt or system_prompt in published_system_prompts():
        return []
    return [
        "the system prompt is none of the published ones and counts as the suspect's own: its text is part of the "
        "plan, so that anyone can see that it tells no keys"
    ]


def published_system_prompts() -> tuple[str, ...]:
    """Return the system prompts under which keys are trained and a MATCH is possible."""
    from fpvec_audit.training.system_prompts import SYSTEM_PROMPTS

    return SYSTEM_PROMPTS


def _renderer(
    template: str, tokenizer: Any, adapter: ArchitectureAdapter | None, system_prompt: str
) -> Callable[[str], str]:
    if template == "raw":
        return str
    if template == "suspect":
        return lambda prompt: _by_template(tokenizer, prompt, system_prompt)
    assert adapter is not None
    known = adapter
    return lambda prompt: known.prompt(prompt, system_prompt)


def _by_template(tokenizer: Any, prompt: str, system_prompt: str) -> str:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": prompt}]
    if system_prompt:
        messages.insert(0, {"role": "system", "content": system_prompt})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"the suspect's chat template cannot be rendered: {error}",
            advice="use --profile raw-greedy, or leave the system prompt out",
        ) from error
