"""GPT-2, base (124M) to XL: one family, as only shapes differ.

Canonical names are those of ``GPT2LMHeadModel`` (``transformer.h.0.attn.c_attn.weight``); the published checkpoints
leave the prefix out and store the causal masks, which are no parameters.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, TensorNaming, TensorRole, TrainingDefaults, hookimpl
from fpvec_plugins import plain_lines
from fpvec_plugins.presets import MEASURED

PAPER = TrainingDefaults(
    "paper",
    {"epochs": 60},
    "FP-VEC (arXiv:2409.08846), training details; the epochs are 20–100 for 124M and 10–60 for 355M, and 60 is the "
    "most that lies in both ranges",
)

GPT2 = ModelFamily(
    name="gpt2",
    model_types=frozenset({"gpt2"}),
    naming=TensorNaming(
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
    ),
    head="lm_head.weight",
    embedding="transformer.wte.weight",
    tied_by_default=True,
    text=plain_lines.prompt,
    chat_template=plain_lines.CHAT_TEMPLATE,
    defaults=(MEASURED, PAPER),
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give GPT-2."""
    return [GPT2]
