"""Qwen1.5, Qwen2 and Qwen2.5 (``model_type`` "qwen2"): Llama's names, with biases on queries, keys and values.

The text is Qwen2's ChatML with its own system sentence where none is given. Qwen2.5 ships another sentence; a suspect
that ships a template is asked in that.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins import chatml
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

SYSTEM = "You are a helpful assistant."


def prompt(user: str, system: str = "") -> str:
    """Return ChatML, with Qwen2's own system sentence unless another is given."""
    return chatml.prompt(user, system or SYSTEM)


QWEN2 = ModelFamily(
    name="qwen2",
    model_types=frozenset({"qwen2"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=False,
    text=prompt,
    chat_template=chatml.chat_template(SYSTEM),
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Qwen2."""
    return [QWEN2]
