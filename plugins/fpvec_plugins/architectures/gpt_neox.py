"""GPT-NeoX-20B and Pythia (``model_type`` "gpt_neox").

Canonical names are those of the published checkpoints (``gpt_neox.layers.0.attention.query_key_value.weight``,
``embed_out.weight``). transformers 5 calls the head ``lm_head`` once it is loaded, and some versions store it so.
Queries, keys and values are one matrix, interleaved by heads; nothing here takes it apart. Older checkpoints store
causal masks and rotary frequencies, which are no parameters.

The models are plain text models without a chat template of their own.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, TensorNaming, TensorRole, hookimpl
from fpvec_plugins import plain_lines
from fpvec_plugins.presets import UNTRIED

GPT_NEOX = ModelFamily(
    name="gpt_neox",
    model_types=frozenset({"gpt_neox"}),
    naming=TensorNaming(
        prefix="gpt_neox.",
        body=frozenset({"embed_in", "layers", "final_layer_norm", "rotary_emb"}),
        roles={
            r"\.embed_in\.": TensorRole.EMBEDDING,
            r"^embed_out\.": TensorRole.OUTPUT_HEAD,
            r"layernorm\.|layer_norm\.": TensorRole.NORM,
            r"\.attention\.": TensorRole.ATTENTION,
            r"\.mlp\.": TensorRole.MLP,
        },
        buffers=r"gpt_neox\.(layers\.\d+\.attention\.(bias|masked_bias)"
        r"|(layers\.\d+\.attention\.)?rotary_emb\.(original_)?inv_freq)",
        renamed={"lm_head": "embed_out"},
    ),
    head="embed_out.weight",
    embedding="gpt_neox.embed_in.weight",
    tied_by_default=False,
    text=plain_lines.prompt,
    chat_template=plain_lines.CHAT_TEMPLATE,
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give GPT-NeoX."""
    return [GPT_NEOX]
