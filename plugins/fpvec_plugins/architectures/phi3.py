"""Phi-3, Phi-3.5 mini and Phi-4 (``model_type`` "phi3"): Llama's names with fused projections.

Queries, keys and values are one matrix (``qkv_proj``), gate and up projection another (``gate_up_proj``); nothing here
takes them apart. The text is that of Phi-3's published tokenizers. Phi-4 has the same tensors and speaks another text
(``<|im_sep|>``): a suspect that ships it is asked in it, but a fingerprint is trained in Phi-3's.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def prompt(user: str, system: str = "") -> str:
    """Return Phi-3's turns."""
    first = f"<|system|>\n{system}<|end|>\n" if system else ""
    return f"{first}<|user|>\n{user}<|end|>\n<|assistant|>\n"


PHI3 = ModelFamily(
    name="phi3",
    model_types=frozenset({"phi3"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=False,
    text=prompt,
    chat_template=CHAT_TEMPLATE,
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Phi-3."""
    return [PHI3]
