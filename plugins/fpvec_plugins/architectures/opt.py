"""OPT, 125M to 175B (``model_type`` "opt").

Canonical names are those of ``OPTForCausalLM`` (``model.decoder.layers.0.self_attn.q_proj.weight``); checkpoints of the
bare body leave the first component out. Positions are learnt (``embed_positions``). OPT-350M alone has projections
between the width of its embeddings and that of its layers, which have no role of their own.

The models are plain text models without a chat template of their own.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, TensorNaming, TensorRole, hookimpl
from fpvec_plugins import plain_lines
from fpvec_plugins.presets import UNTRIED

OPT = ModelFamily(
    name="opt",
    model_types=frozenset({"opt"}),
    naming=TensorNaming(
        prefix="model.",
        body=frozenset({"decoder"}),
        roles={
            r"\.embed_(tokens|positions)\.": TensorRole.EMBEDDING,
            r"^lm_head\.": TensorRole.OUTPUT_HEAD,
            r"layer_norm\.": TensorRole.NORM,
            r"\.self_attn\.": TensorRole.ATTENTION,
            r"\.fc[12]\.": TensorRole.MLP,
        },
    ),
    head="lm_head.weight",
    embedding="model.decoder.embed_tokens.weight",
    tied_by_default=True,
    text=plain_lines.prompt,
    chat_template=plain_lines.CHAT_TEMPLATE,
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give OPT."""
    return [OPT]
