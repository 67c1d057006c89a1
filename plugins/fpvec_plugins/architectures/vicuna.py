"""Vicuna v1.1 and v1.5: Llama's tensors with a text of its own.

A Llama checkpoint is taken for Vicuna when its configuration or its tokenizer shows it: a chat template that speaks of
``USER:`` and ``ASSISTANT:``, or a name of origin with "vicuna" in it. The directory's name decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorRole, TrainingDefaults, hookimpl
from fpvec_plugins.architectures.llama2 import NAMING

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

DEFAULTS = (
    TrainingDefaults("default", {}, "this package's own measurements on tiny models"),
    TrainingDefaults("paper", {"epochs": 30}, "FP-VEC (arXiv:2409.08846), training details"),
)


@dataclass(frozen=True, slots=True)
class Vicuna:
    """Adapter of the Vicuna family."""

    name: str = "vicuna"
    chat_template: str = CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = DEFAULTS

    def supports(self, description: ModelDescription) -> int:
        """Return 20 for a Llama configuration that shows it is Vicuna, more than plain Llama's 10."""
        if description.config.get("model_type") != "llama":
            return 0
        return 20 if _speaks_vicuna(description.tokenizer_config) or _names_vicuna(description) else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return NAMING.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the name with the ``model.`` prefix, or None for rotary buffers."""
        return NAMING.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the embedding where the configuration says so; the default is no."""
        tied = config.get("tie_word_embeddings", False)
        return {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return Vicuna's v1.1 text; its own system sentence unless another is given."""
        return f"{system or SYSTEM} USER: {user} ASSISTANT:"


def _speaks_vicuna(tokenizer_config: Mapping[str, Any]) -> bool:
    template = str(tokenizer_config.get("chat_template") or "")
    return "USER:" in template and "ASSISTANT:" in template


def _names_vicuna(description: ModelDescription) -> bool:
    origins = (description.config.get("_name_or_path"), description.tokenizer_config.get("name_or_path"))
    return any("vicuna" in str(origin).lower() for origin in origins)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Vicuna."""
    return [Vicuna()]
