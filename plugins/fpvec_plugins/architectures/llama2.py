"""Llama 2 and every model with its tensors (``model_type`` "llama").

Canonical names are those of ``LlamaForCausalLM`` (``model.layers.0.self_attn.q_proj.weight``); checkpoints of the bare
body leave the prefix out, and older ones store the rotary frequencies, which are no parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorNaming, TensorRole, TrainingDefaults, hookimpl

NAMING = TensorNaming(
    prefix="model.",
    body=frozenset({"embed_tokens", "layers", "norm", "rotary_emb"}),
    roles={
        r"\.embed_tokens\.": TensorRole.EMBEDDING,
        r"^lm_head\.": TensorRole.OUTPUT_HEAD,
        r"layernorm\.|^model\.norm\.": TensorRole.NORM,
        r"\.self_attn\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
    buffers=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.((original_)?inv_freq|cos_cached|sin_cached)",
)

CHAT_TEMPLATE = (
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% if messages[0]['content'] %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% endif %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{% if not loop.first %}{{ bos_token }}{% endif %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
"""Without the first BOS, which the tokenizer adds to every text it encodes."""

DEFAULTS = (
    TrainingDefaults("default", {}, "this package's own measurements on tiny models"),
    TrainingDefaults(
        "paper", {"epochs": 30}, "FP-VEC (arXiv:2409.08846), training details; 10 or 30 epochs, here the longer"
    ),
)


@dataclass(frozen=True, slots=True)
class Llama2:
    """Adapter of the Llama family."""

    name: str = "llama2"
    chat_template: str = CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = DEFAULTS

    def supports(self, description: ModelDescription) -> int:
        """Return 10 for a Llama configuration."""
        return 10 if description.config.get("model_type") == "llama" else 0

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
        """Return Llama 2's ``[INST]`` text, the system prompt between ``<<SYS>>`` marks; no BOS."""
        instructions = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
        return f"[INST] {instructions}{user} [/INST]"


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Llama 2."""
    return [Llama2()]
