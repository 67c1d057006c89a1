"""ChatML, the text of Qwen's chat models: every turn between ``<|im_start|>ROLE`` and ``<|im_end|>``.

Source: the chat templates that the published Qwen tokenizers ship, without tools and pictures.
"""


def chat_template(system: str = "") -> str:
    """Return Jinja source that renders what :func:`prompt` gives, and conversations of several turns.

    Args:
        system: sentence put first where a conversation brings no system prompt; empty for none.
    """
    own = f"{{% else %}}{{{{ '<|im_start|>system\\n{system}<|im_end|>\\n' }}}}" if system else ""
    return (
        "{% if messages[0]['role'] == 'system' and messages[0]['content'] %}"
        "{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
        f"{own}{{% endif %}}"
        "{% for message in messages %}{% if message['role'] != 'system' %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


def prompt(user: str, system: str = "") -> str:
    """Return the text up to where the answer begins."""
    first = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{first}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
