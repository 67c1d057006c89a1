"""Phi-1, Phi-1.5 and Phi-2 (``model_type`` "phi"): Llama's names, an MLP of two layers, biases everywhere.

The output head has a bias too. The text is the instruction form of Phi-2's model card, ``Instruct: … Output:``, which
knows no system prompt; one is put as a line before.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}{{ message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Instruct: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Output: ' + message['content'] + '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Output:' }}{% endif %}"
)


def prompt(user: str, system: str = "") -> str:
    """Return Phi-2's instruction form, the system prompt as a line before it."""
    first = f"{system}\n" if system else ""
    return f"{first}Instruct: {user}\nOutput:"


PHI = ModelFamily(
    name="phi",
    model_types=frozenset({"phi"}),
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
    """Give Phi."""
    return [PHI]
