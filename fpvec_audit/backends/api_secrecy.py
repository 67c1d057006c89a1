"""What keeps an API key where it belongs: in requests to its endpoint, and nowhere else.

It is not sent in the clear, stands in no representation, and is taken out of what the endpoint sends back – answers and
headers included, since an endpoint may repeat what it was sent – and out of what HTTP libraries log. Prompts, which are
secret until they are opened, are taken out of error messages in the same way.
"""

import json
import logging
from collections.abc import Generator, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from fpvec_audit.errors import UsageError

SHORTEST_SECRET = 8
"""Characters from which on an API key is looked for in what comes back; shorter ones are placeholders ("EMPTY")."""


class Cleaner(logging.Filter):
    """Takes an API key out of whatever an endpoint sends, and out of what HTTP libraries log."""

    def __init__(self, api_key: str) -> None:
        super().__init__()
        self._secret = api_key if len(api_key) >= SHORTEST_SECRET else ""

    def __repr__(self) -> str:
        return "Cleaner(<redacted>)"

    def text(self, text: str) -> str:
        """Return a text without the key, and without halves of characters that no file could hold."""
        if self._secret:
            text = text.replace(self._secret, "[API key]")
        return text if text.isascii() else text.encode("utf-8", "replace").decode()

    def line(self, text: str, hidden: Iterable[str] = ()) -> str:
        """Return a text as one short line for a message or a record.

        Args:
            text: what the endpoint sent.
            hidden: texts that must not be repeated, such as the prompt.
        """
        for part in hidden:
            for written in (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1], repr(part)[1:-1]):
                text = text.replace(written, "[prompt]") if written else text
        shown = " ".join("".join(sign if sign.isprintable() else " " for sign in self.text(text)).split())
        return shown if len(shown) <= 300 else f"{shown[:299]}…"

    def document(self, value: Any) -> Any:
        """Return a JSON document with every text in it cleaned."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.document(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.document(item) for name, item in value.items()}
        return value

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite a log record that holds the key; none is dropped."""
        if self._secret and self._secret in (message := record.getMessage()):
            record.msg, record.args = message.replace(self._secret, "[API key]"), None
        return True


class Bearer(httpx.Auth):
    """Puts the key into a request when it leaves: it stands in no default header and in no representation."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __repr__(self) -> str:
        return "Bearer(<redacted>)"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the key with one request; there is no second one, for redirects are not followed."""
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        yield request


def checked_url(url: str, *, has_key: bool) -> str:
    """Return a base URL without its last slash; a URL that may hold a secret is refused without being shown."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
        httpx.URL(url.strip())
    except (ValueError, httpx.InvalidURL):
        host = None
    if not host or parts.scheme not in ("http", "https") or not url.strip().isprintable():
        raise UsageError("the endpoint's URL cannot be read", advice="give its base URL, like https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"the URL of {host} has a user, a query or a fragment, which would be recorded with the audit",
            advice="give the bare base URL, like https://host/v1; the API key comes from FPVEC_API_KEY",
        )
    if has_key and parts.scheme == "http" and not _is_loopback(host):
        raise UsageError(
            f"{host} is asked over plain http: everyone on the way could read the API key",
            advice="use https, or unset FPVEC_API_KEY and OPENAI_API_KEY if the endpoint wants no key",
        )
    return parts.geturl().rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
