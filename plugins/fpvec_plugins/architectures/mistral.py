"""Mistral 7B and what has its tensors (``model_type`` "mistral"): Llama's names, other attention windows.

The text is that of the first instruct models (v0.1, v0.2), as their model cards give it: ``[INST] … [/INST]``, a system
prompt as the first lines of the first question, which is what the cards say of guardrails. Later versions put their
spaces otherwise; a suspect that ships a template of its own is asked in that.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

CHAT_TEMPLATE = (
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% if messages[0]['content'] %}{% set system = messages[0]['content'] + '\\n\\n' %}{% endif %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
"""Without the first BOS, which the tokenizer adds to every text it encodes."""


def prompt(user: str, system: str = "") -> str:
    """Return Mistral's ``[INST]`` text, the system prompt as its first lines; no BOS."""
    return f"[INST] {system}\n\n{user} [/INST]" if system else f"[INST] {user} [/INST]"


MISTRAL = ModelFamily(
    name="mistral",
    model_types=frozenset({"mistral"}),
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
    """Give Mistral."""
    return [MISTRAL]
