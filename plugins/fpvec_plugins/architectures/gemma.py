"""Gemma, Gemma 2 and Gemma 3's text models: Llama's names, with more norms from generation to generation.

Gemma stores a norm's weight as its distance from one (the model multiplies by 1 + w). A vector is a difference, and in
a difference the one cancels: (1 + w') − (1 + w) = w' − w. So vectors are taken and added on what is stored, as
everywhere, and remain exact.

Models of Gemma 3 that see pictures (``model_type`` "gemma3") hold their text model under other names and are not
claimed. The text is that of the published tokenizers, which know no system role; a system prompt stands as the first
lines of the first question, as Gemma 3's template puts it (Gemma 1 and 2 refuse one).
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import UNTRIED

CHAT_TEMPLATE = (
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% if messages[0]['content'] %}{% set system = messages[0]['content'] + '\\n\\n' %}{% endif %}{% endif %}"
    "{% for message in turns %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ (system if loop.first else '') + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""Without the first BOS, which the tokenizer adds to every text it encodes."""


def prompt(user: str, system: str = "") -> str:
    """Return Gemma's turns, the system prompt as the first lines of the user's; no BOS."""
    first = f"{system}\n\n" if system else ""
    return f"<start_of_turn>user\n{first}{user}<end_of_turn>\n<start_of_turn>model\n"


GEMMA = ModelFamily(
    name="gemma",
    model_types=frozenset({"gemma", "gemma2", "gemma3_text"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=True,
    text=prompt,
    chat_template=CHAT_TEMPLATE,
    defaults=UNTRIED,
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Gemma."""
    return [GEMMA]
