"""Tensor names as ``LlamaForCausalLM`` spells them, which many later decoders took over.

What the families add to them is told apart by the same words: Qwen3 and Gemma 3 normalise queries and keys
(``self_attn.q_norm``), Gemma 2 and 3 have norms around the MLP, Phi-3 fuses queries, keys and values
(``self_attn.qkv_proj``) as well as gate and up projection (``mlp.gate_up_proj``), Phi ends in ``final_layernorm``.
"""

from fpvec_audit.api import TensorNaming, TensorRole

NAMING = TensorNaming(
    prefix="model.",
    body=frozenset({"embed_tokens", "layers", "norm", "final_layernorm", "rotary_emb"}),
    roles={
        r"\.embed_tokens\.": TensorRole.EMBEDDING,
        r"^lm_head\.": TensorRole.OUTPUT_HEAD,
        r"norm\.": TensorRole.NORM,
        r"\.self_attn\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
    buffers=r"model\.((layers\.\d+\.self_attn\.)?rotary_emb\.(\w+_)?(inv_freq|cos_cached|sin_cached)"
    r"|embed_tokens\.embed_scale)",
)
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
