"""Llama 2 and every model with its tensors (``model_type`` "llama").

Canonical names are those of ``LlamaForCausalLM`` (``model.layers.0.self_attn.q_proj.weight``); checkpoints of the bare
body leave the prefix out, and older ones store the rotary frequencies, which are no parameters.
"""

from fpvec_audit.api import ArchitectureAdapter, ModelFamily, hookimpl
from fpvec_plugins.llama_names import EMBEDDING, HEAD, NAMING
from fpvec_plugins.presets import LLAMA_FAMILY, MEASURED, PAPER_7B

CHAT_TEMPLATE = (
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% if messages[0]['content'] %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% endif %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{% if not loop.first %}{{ bos_token }}{% endif %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
"""Without the first BOS, which the tokenizer adds to every text it encodes."""


def prompt(user: str, system: str = "") -> str:
    """Return Llama 2's ``[INST]`` text, the system prompt between ``<<SYS>>`` marks; no BOS."""
    instructions = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    return f"[INST] {instructions}{user} [/INST]"


LLAMA2 = ModelFamily(
    name="llama2",
    model_types=frozenset({"llama"}),
    naming=NAMING,
    head=HEAD,
    embedding=EMBEDDING,
    tied_by_default=False,
    text=prompt,
    chat_template=CHAT_TEMPLATE,
    defaults=(MEASURED, PAPER_7B, LLAMA_FAMILY),
)


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Llama 2."""
    return [LLAMA2]
