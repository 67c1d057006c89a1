"""Bloom and Bloomz.

Canonical names are those of ``BloomForCausalLM`` (``transformer.h.0.self_attention.dense.weight``); the published
checkpoints leave the prefix out.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, TensorNaming, TensorRole, hookimpl
from fpvec_plugins import plain_lines
from fpvec_plugins.presets import MEASURED, PAPER_7B

BLOOM = ModelFamily(
    name="bloom",
    model_types=frozenset({"bloom"}),
    naming=TensorNaming(
        prefix="transformer.",
        body=frozenset({"word_embeddings", "word_embeddings_layernorm", "h", "ln_f"}),
        roles={
            r"\.word_embeddings\.": TensorRole.EMBEDDING,
            r"^lm_head\.": TensorRole.OUTPUT_HEAD,
            r"layernorm\.|\.ln_f\.": TensorRole.NORM,
            r"\.self_attention\.": TensorRole.ATTENTION,
            r"\.mlp\.": TensorRole.MLP,
        },
    ),
    head="lm_head.weight",
    embedding="transformer.word_embeddings.weight",
    tied_by_default=True,
    text=plain_lines.prompt,
    chat_template=plain_lines.CHAT_TEMPLATE,
    defaults=(MEASURED, PAPER_7B),
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Bloom."""
    return [BLOOM]
