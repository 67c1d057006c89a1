"""What is said to an OpenAI-compatible endpoint, and what its replies mean. Nothing here touches the network.

One prompt travels in one request, for every candidate in the same words: only the prompt and, in sampled audits, the
seed differ. A reply that is no answer to that very question is an error, never an empty answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.ports import Completion, Sampling
from fpvec_audit.errors import BackendError

COMPLETIONS, CHAT = "completions", "chat"
PATHS = {COMPLETIONS: "completions", CHAT: "chat/completions"}
OLD_LENGTH, NEW_LENGTH = "max_tokens", "max_completion_tokens"
CONTENT_CODES = ("content_filter", "content_policy_violation")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an endpoint turned out to understand.

    Attributes:
        length_field: name under which it takes the most tokens to generate.
        first_tokens: how many of the likeliest first tokens it tells; 0 when it does not.
    """

    length_field: str = OLD_LENGTH
    first_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an endpoint says it counted for one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


def question(
    endpoint: str, model: str, prompt: str, *, system_prompt: str, sampling: Sampling, place: int, dialect: Dialect
) -> dict[str, Any]:
    """Return the JSON body that asks one prompt.

    Args:
        endpoint: ``completions`` or ``chat``.
        model: as the endpoint calls it.
        prompt: the user's text for chat, the rendered text for completions.
        system_prompt: put first in a chat; empty for none.
        sampling: how answers are drawn.
        place: of the prompt among those asked together; moves the seed.
        dialect: what the endpoint understands.
    """
    body: dict[str, Any] = {"model": model}
    if endpoint == CHAT:
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        body["messages"] = [*system, {"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body |= {dialect.length_field: sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body["top_p"] = sampling.top_p
    if sampling.seed is not None:
        body["seed"] = sampling.seed + place
    if dialect.first_tokens:
        chat = {"logprobs": True, "top_logprobs": dialect.first_tokens}
        body |= chat if endpoint == CHAT else {"logprobs": dialect.first_tokens}
    return body


def served_models(document: Any) -> list[str]:
    """Return the models that an endpoint lists.

    Raises:
        BackendError: the document is no list of models.
    """
    listed = document.get("data") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise BackendError("the reply is no list of models", advice="check the URL: a base URL often ends in /v1")
    return [item["id"] for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]


def shown(names: list[str]) -> str:
    """Return names for a message: not more than a few, not longer than a line."""
    parts = [name if len(name) <= 100 else f"{name[:99]}…" for name in names[:_SHOWN]]
    return ", ".join(ascii(part) if not part.isprintable() else part for part in parts) + (
        ", …" if len(names) > _SHOWN else ""
    )


def completion_of(document: Any, *, endpoint: str, model: str) -> tuple[Completion, Usage]:
    """Read the answer to one prompt.

    Raises:
        BackendError: the document answers nothing, more than was asked, or for another model.
    """
    if not isinstance(document, dict):
        raise BackendError("the reply is JSON, but no answer", advice="check the URL and --endpoint")
    answered_by = document.get("model")
    if isinstance(answered_by, str) and answered_by != model:
        raise BackendError(
            f"model {shown([model])} was asked, and {shown([answered_by])} answered",
            advice="name the model that is meant with --model; an alias may stand for several",
        )
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else 0
        raise BackendError(
            f"one prompt was asked, and {count} choices came back"
            if count != 1
            else "the one choice that came back is no JSON object",
            advice="check that the endpoint is OpenAI-compatible, and --endpoint",
        )
    answer = _chat_answer(choices[0]) if endpoint == CHAT else _text_answer(choices[0])
    return answer, _usage(document.get("usage"))


def is_refusal_for_content(document: Any) -> bool:
    """Tell whether an error reply refuses the prompt for what it says, which counts as an answer."""
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and any(error.get(field) in CONTENT_CODES for field in ("code", "type"))


def error_text(document: Any) -> str:
    """Return what an error reply says in words; empty when it says nothing."""
    for name in ("error", "message", "detail"):
        said = document.get(name) if isinstance(document, dict) else None
        if isinstance(said, dict):
            said = said.get("message")
        if isinstance(said, list):  # a validator's findings
            said = "; ".join(str(item.get("msg", "")) for item in said if isinstance(item, dict))
        if isinstance(said, str) and said:
            return said
    return ""


def _text_answer(choice: Mapping[str, Any]) -> Completion:
    logprobs = choice.get("logprobs")
    positions = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    first = positions[0] if isinstance(positions, list) and positions else None
    pairs = list(first.items()) if isinstance(first, dict) else []
    return _answer(choice.get("text"), choice.get("finish_reason"), pairs)


def _chat_answer(choice: Mapping[str, Any]) -> Completion:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    logprobs = choice.get("logprobs")
    positions = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = positions[0] if isinstance(positions, list) and positions else None
    listed = first.get("top_logprobs") if isinstance(first, dict) else None
    items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    pairs = [(item.get("token"), item.get("logprob")) for item in items]
    refusal = message.get("refusal")
    return _answer(
        message.get("content"), choice.get("finish_reason"), pairs, refusal if isinstance(refusal, str) else ""
    )


def _answer(text: Any, finish: Any, pairs: list[tuple[Any, Any]], refusal: str = "") -> Completion:
    first_tokens: dict[str, float] = {}
    for token, value in pairs:
        if isinstance(token, str) and isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value) if abs(value) < 1e300 else math.inf  # an integer may be too large for a float
            if math.isfinite(number):
                first_tokens[token] = max(number, first_tokens.get(token, -math.inf))
    error = ""
    if finish == "content_filter":
        error = "the endpoint filtered the answer for its content"
    elif not isinstance(text, str):
        error = f"the endpoint refused: {refusal}" if refusal else "the answer has no text"
    reason = "error" if error else "length" if finish == "length" else "stop"
    return Completion(text if isinstance(text, str) else "", reason, error, first_tokens)


def _usage(usage: Any) -> Usage:
    def count(name: str) -> int:
        value = usage.get(name) if isinstance(usage, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0

    return Usage(count("prompt_tokens"), count("completion_tokens"))
