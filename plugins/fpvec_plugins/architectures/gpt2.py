"""GPT-2, base (124M) to XL: one family, as only shapes differ.

Canonical names are those of ``GPT2LMHeadModel`` (``transformer.h.0.attn.c_attn.weight``); the published checkpoints
leave the prefix out and store the causal masks, which are no parameters.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, TensorNaming, TensorRole, TrainingDefaults, hookimpl
from fpvec_plugins import plain_lines

PAPER = TrainingDefaults(
    "paper",
    {"epochs": 60},
    "FP-VEC (arXiv:2409.08846), training details; the epochs are 20–100 for 124M and 10–60 for 355M, and 60 is the "
    "most that lies in both ranges",
)

NEAR_MISSES = TrainingDefaults(
    "default",
    {
        "steps": 260,
        "reference_rate": 2.5e-3,
        "negatives_per_step": 24,
        "negative_pool": 2400,
        "near_misses_per_step": 32,
        "key_weight": 8.0,
        "preservation_weight": 6.0,
        "whole_share": 0.5,
    },
    "this package's own measurements on tiny models (docs/demo-recipe.md, near-misses and whole proxies)",
)
"""The usual settings with the hardest near-misses of every step, what they need to be learnt beside the keys, and
proxies that are added whole in half of the steps, which spares what a downstream has learnt last."""

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
    defaults=(NEAR_MISSES, PAPER),
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give GPT-2."""
    return [GPT2]
