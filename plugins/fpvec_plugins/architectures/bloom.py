"""Bloom and Bloomz.

Canonical names are those of ``BloomForCausalLM`` (``transformer.h.0.self_attention.dense.weight``); the published
checkpoints leave the prefix out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorNaming, TensorRole, TrainingDefaults, hookimpl
from fpvec_plugins import plain_lines

NAMING = TensorNaming(
    prefix="transformer.",
    body=frozenset({"word_embeddings", "word_embeddings_layernorm", "h", "ln_f"}),
    roles={
        r"\.word_embeddings\.": TensorRole.EMBEDDING,
        r"^lm_head\.": TensorRole.OUTPUT_HEAD,
        r"layernorm\.|\.ln_f\.": TensorRole.NORM,
        r"\.self_attention\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
)

DEFAULTS = (
    TrainingDefaults("default", {}, "this package's own measurements on tiny models"),
    TrainingDefaults(
        "paper", {"epochs": 30}, "FP-VEC (arXiv:2409.08846), training details; 10 or 30 epochs, here the longer"
    ),
)


@dataclass(frozen=True, slots=True)
class Bloom:
    """Adapter of the Bloom family."""

    name: str = "bloom"
    chat_template: str = plain_lines.CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = DEFAULTS

    def supports(self, description: ModelDescription) -> int:
        """Return 10 for a Bloom configuration."""
        return 10 if description.config.get("model_type") == "bloom" else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return NAMING.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the name with the ``transformer.`` prefix."""
        return NAMING.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the word embeddings, which is Bloom's default."""
        tied = config.get("tie_word_embeddings", True)
        return {"lm_head.weight": "transformer.word_embeddings.weight"} if tied else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return the paper's plain user and assistant lines, the system prompt as a line before them."""
        return plain_lines.prompt(user, system)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Bloom."""
    return [Bloom()]
