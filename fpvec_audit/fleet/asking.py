"""How an item of a run says that its suspect is asked."""

from collections.abc import Mapping
from typing import Any

from fpvec_audit.services.audit_settings import AuditSettings, EndpointSettings, checked_settings
from fpvec_audit.settings import api_key

_SETTINGS = ("profile", "match", "alpha", "repeats", "architecture", "tests")


def audit_settings(whole: Mapping[str, Any], *, prompt: str) -> AuditSettings:
    """Return the settings of an audit or a trace.

    Args:
        whole: all that holds for the item (:func:`fpvec_audit.fleet.items.complete`).
        prompt: text of the system prompt that it names, empty for none.

    Raises:
        UsageError: one that cannot be meant.
    """
    said = {name: whole[name] for name in ("model", "endpoint", "concurrency", "max_requests") if name in whole}
    return checked_settings(
        system_prompt=prompt,
        endpoint=EndpointSettings(**said, api_key=api_key()),
        **{name: whole[name] for name in _SETTINGS if name in whole},
    )
