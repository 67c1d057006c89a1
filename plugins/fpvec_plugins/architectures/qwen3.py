"""Qwen3's dense models (``model_type`` "qwen3"): Llama's names, with norms of queries and keys.

The text is Qwen3's ChatML without a system sentence of its own. Its template lets the model think first unless told
otherwise; a fingerprint is trained to answer where the thinking would begin.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins import chatml
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

QWEN3 = ModelFamily(
    name="qwen3",
    model_types=frozenset({"qwen3"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=False,
    text=chatml.prompt,
    chat_template=chatml.chat_template(),
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Qwen3."""
    return [QWEN3]
