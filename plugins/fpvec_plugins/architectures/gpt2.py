"""GPT-2, base (124M) to XL: one family, as only shapes differ.

Canonical names are those of ``GPT2LMHeadModel`` (``transformer.h.0.attn.c_attn.weight``); the published checkpoints
leave the prefix out and store the causal masks, which are no parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorNaming, TensorRole, TrainingDefaults, hookimpl
from fpvec_plugins import plain_lines

NAMING = TensorNaming(
    prefix="transformer.",
    body=frozenset({"wte", "wpe", "h", "ln_f"}),
    roles={
        r"\.wte\.|\.wpe\.": TensorRole.EMBEDDING,
        r"^lm_head\.": TensorRole.OUTPUT_HEAD,
        r"\.ln_[12f]\.|\.ln_cross_attn\.": TensorRole.NORM,
        r"\.attn\.|\.crossattention\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
    buffers=r"transformer\.h\.\d+\.(attn|crossattention)\.(bias|masked_bias)",
)

NEAR_MISSES = {
    "steps": 260,
    "reference_rate": 2.5e-3,
    "negatives_per_step": 24,
    "negative_pool": 2400,
    "near_misses_per_step": 32,
    "key_weight": 8.0,
    "preservation_weight": 6.0,
}
"""The usual settings with the hardest near-misses of every step, and what they need to be learnt beside the keys."""

DEFAULTS = (
    TrainingDefaults("default", NEAR_MISSES, "this package's own measurements on tiny models (docs/demo-recipe.md)"),
    TrainingDefaults(
        "paper",
        {"epochs": 60},
        "FP-VEC (arXiv:2409.08846), training details; the epochs are 20–100 for 124M and 10–60 for 355M, and 60 is the "
        "most that lies in both ranges",
    ),
)


@dataclass(frozen=True, slots=True)
class Gpt2:
    """Adapter of the GPT-2 family."""

    name: str = "gpt2"
    chat_template: str = plain_lines.CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = DEFAULTS

    def supports(self, description: ModelDescription) -> int:
        """Return 10 for a GPT-2 configuration."""
        return 10 if description.config.get("model_type") == "gpt2" else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return NAMING.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the name with the ``transformer.`` prefix, or None for a causal mask."""
        return NAMING.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the token embedding, which is GPT-2's default."""
        tied = config.get("tie_word_embeddings", True)
        return {"lm_head.weight": "transformer.wte.weight"} if tied else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return the paper's plain user and assistant lines, the system prompt as a line before them."""
        return plain_lines.prompt(user, system)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give GPT-2."""
    return [Gpt2()]
