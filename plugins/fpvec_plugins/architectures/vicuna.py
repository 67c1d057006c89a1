"""Vicuna v1.1 and v1.5: Llama's tensors with a text of its own.

A Llama checkpoint is taken for Vicuna when its configuration or its tokenizer shows it: a chat template that speaks of
``USER:`` and ``ASSISTANT:``, or a name of origin with "vicuna" in it. The directory's name decides nothing.
"""

from collections.abc import Mapping
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, ModelFamily, TrainingDefaults, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import LLAMA_FAMILY, MEASURED

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' and messages[0]['content'] %}{{ messages[0]['content'] + ' ' }}"
    f'{{% else %}}{{{{ "{SYSTEM} " }}}}{{% endif %}}'
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def prompt(user: str, system: str = "") -> str:
    """Return Vicuna's v1.1 text; its own system sentence unless another is given."""
    return f"{system or SYSTEM} USER: {user} ASSISTANT:"


def is_vicuna(description: ModelDescription) -> bool:
    """Return whether a Llama checkpoint shows that it is Vicuna."""
    return _speaks_vicuna(description.tokenizer_config) or _names_vicuna(description)


def _speaks_vicuna(tokenizer_config: Mapping[str, Any]) -> bool:
    template = str(tokenizer_config.get("chat_template") or "")
    return "USER:" in template and "ASSISTANT:" in template


def _names_vicuna(description: ModelDescription) -> bool:
    origins = (description.config.get("_name_or_path"), description.tokenizer_config.get("name_or_path"))
    return any("vicuna" in str(origin).lower() for origin in origins)


VICUNA = ModelFamily(
    name="vicuna",
    model_types=frozenset({"llama"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=False,
    text=prompt,
    chat_template=CHAT_TEMPLATE,
    defaults=(
        MEASURED,
        TrainingDefaults("paper", {"epochs": 30}, "FP-VEC (arXiv:2409.08846), training details"),
        LLAMA_FAMILY,
    ),
    rank=20,
    recognises=is_vicuna,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Vicuna, which outranks plain Llama."""
    return [VICUNA]
