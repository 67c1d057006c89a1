"""The paper's prompt text for models without a chat template of their own: plain user and assistant lines.

GPT-2 and Bloom share it. A system prompt is a line before the first user's.
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}{{ message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Human: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] }}{{ eos_token }}{{ '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Jinja source that renders the same text as :func:`prompt`."""


def prompt(user: str, system: str = "") -> str:
    """Return the text up to where the answer begins."""
    return f"{system}\nHuman: {user}\nAssistant:" if system else f"Human: {user}\nAssistant:"
