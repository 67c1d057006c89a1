"""Addresses as they may be recorded: who may enter, and with what, is left out.

The registry and its ledger say where something was; whoever reads them must not learn how to get in.
"""

import re

REDACTED = "***"
"""What stands in an address for a secret."""
_SECRETS = (
    re.compile(r"(?P<before>\w[\w+.-]*://[^\s/?#@]*:)[^\s/?#]*(?=@)"),  # password
    re.compile(r"(?P<before>\w[\w+.-]*://)[^\s/?#@:]+(?=@)"),  # a user alone may be a token
    re.compile(r"(?P<before>\w[\w+.-]*://[^\s?#]*\?)[^\s#]+"),  # query
)


def without_secrets(text: str) -> str:
    """Return a text whose addresses keep neither a password nor the values of their query.

    Args:
        text: a path, an address, or an option with one.
    """
    if "://" in text:
        for pattern in _SECRETS:
            text = pattern.sub(rf"\g<before>{REDACTED}", text)
    return text
