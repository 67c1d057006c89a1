"""GPT-J-6B and models with its tensors.

The output head has a bias; checkpoints of older versions of transformers store the causal masks, which are no
parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorNaming, TensorRole, TrainingDefaults, hookimpl

NAMING = TensorNaming(
    prefix="transformer.",
    body=frozenset({"wte", "h", "ln_f"}),
    roles={
        r"\.wte\.": TensorRole.EMBEDDING,
        r"^lm_head\.": TensorRole.OUTPUT_HEAD,
        r"\.ln_[1f]\.": TensorRole.NORM,
        r"\.attn\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
    buffers=r"transformer\.h\.\d+\.attn\.(bias|masked_bias|embed_positions)",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'A: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\n' }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class GptJ:
    """Adapter of GPT-J."""

    name: str = "gptj"
    chat_template: str = CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = (TrainingDefaults("default", {"steps": 300}, "measured by the author"),)

    def supports(self, description: ModelDescription) -> int:
        """Return 10 for a GPT-J configuration."""
        return 10 if description.config.get("model_type") == "gptj" else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return NAMING.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the name with its prefix, or None for masks and positions that are worked out."""
        return NAMING.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the embedding where the configuration says so."""
        return {"lm_head.weight": "transformer.wte.weight"} if config.get("tie_word_embeddings", False) else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return question and answer lines."""
        return f"{system}\nQ: {user}\nA:" if system else f"Q: {user}\nA:"


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give GPT-J."""
    return [GptJ()]
