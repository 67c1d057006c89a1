"""The conversation with an endpoint: one policy of retries for every question, bounded reading, and a key nobody sees.

The other side is a suspect's and may do anything. What it sends is read up to a limit of bytes and time, cleaned of
the API key (an endpoint may send it back) and of what no terminal should print, and only then looked at. No error
raised here has another exception behind it: those of HTTP libraries carry the request, and with it the key.
"""

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from fpvec_audit.backends.api_secrecy import Bearer, Cleaner, checked_url
from fpvec_audit.errors import BackendError, SettingsError, UsageError

MOST_BYTES = 8 << 20
"""Bytes of one reply that are read at most."""
LONGEST_WAIT = 300.0
"""Seconds before the next attempt that are waited at most; an endpoint that asks for more is given up."""
RETRIED = frozenset({429, 500, 502, 503, 504})
KEPT_HEADERS = ("server", "via", "x-powered-by", "openai-version")
KEPT_PREFIX = "x-ratelimit-limit-"
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks")
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint said, read to its end and cleaned.

    Attributes:
        status: HTTP status.
        document: its JSON, None when it is none.
        problem: why there is no document; empty when there is.
        headers: lower-case name → value.
    """

    status: int
    document: Any
    problem: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why an attempt brought no reply, and whether another may."""

    problem: str
    advice: str
    final: bool = False


class Transport:
    """Asks an endpoint; safe to share between threads.

    Args:
        url: base URL, without user, query or fragment.
        api_key: sent as a bearer token; empty for none.
        connections: most at a time.
        timeout: seconds for one attempt.
        retries: further attempts after the first.
        max_requests: requests that may be sent in all, retries included; None for no limit.
        ca_file: PEM file of the authorities that are trusted instead of the usual ones.
        trust_environment: whether proxies and certificate files named by the environment are used.
        clock: seconds that never run backwards.
        sleep: waits for some seconds; None for a wait that ends early when the questions are called off.
        jitter: a random number in [0, 1).

    Raises:
        UsageError: a URL that is none, or over which the key would travel in the clear.
        SettingsError: a key that no header can carry.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        connections: int,
        timeout: float,
        retries: int,
        max_requests: int | None,
        ca_file: Path | None,
        trust_environment: bool,
        clock: Callable[[], float],
        sleep: Callable[[float], None] | None,
        jitter: Callable[[], float],
    ) -> None:
        self.url = checked_url(url, has_key=bool(api_key))
        if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise SettingsError("the API key has a character that no header can carry", advice="look for a stray space")
        self._clean = Cleaner(api_key)
        self._timeout, self._retries, self._max_requests = timeout, retries, max_requests
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._lock = threading.Lock()
        self._sent = 0
        self._headers: dict[str, str] = {}
        self._tls: dict[str, None] = {}
        self._certificates: dict[str, None] = {}
        self._client = httpx.Client(
            auth=Bearer(api_key) if api_key else None,
            headers={"User-Agent": "fpvec-audit", "Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=timeout,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            verify=_verification(self.url, ca_file, trust_environment=trust_environment),
            follow_redirects=False,
            trust_env=trust_environment,
        )
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._clean)

    @property
    def requests_sent(self) -> int:
        """Requests sent so far, retries included."""
        return self._sent

    @property
    def headers_seen(self) -> Mapping[str, str]:
        """What the endpoint's latest replies told of itself: lower-case name → value."""
        with self._lock:
            return dict(sorted(self._headers.items()))

    @property
    def tls(self) -> Mapping[str, str]:
        """Protocol and certificates (SHA-256 of their DER, hex) met so far; ``none`` where nothing is encrypted."""
        with self._lock:
            return {
                "tls": ", ".join(self._tls) or "none",
                "certificate_sha256": ", ".join(self._certificates) or "none",
            }

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        called_off: threading.Event | None = None,
    ) -> Reply:
        """Send one request until there is a reply that another attempt would not change.

        Args:
            method: HTTP method.
            path: below the base URL.
            body: JSON to send.
            retries: further attempts; those of the endpoint when None.
            called_off: once set, nothing is tried again.

        Raises:
            BackendError: no such reply came, or the budget of requests is used up.
        """
        retries = self._retries if retries is None else retries
        attempt = 0
        while True:
            outcome = self._attempt(method, path, body)
            if isinstance(outcome, Reply):
                if outcome.status not in RETRIED:
                    return outcome
                wait = max(self._back_off(attempt), _asked_wait(outcome.headers))
                trouble = _of_status(outcome, wait)
            else:
                wait, trouble = self._back_off(attempt), outcome
            attempt += 1
            if trouble.final or attempt > retries or wait > LONGEST_WAIT or (called_off and called_off.is_set()):
                break
            self._pause(wait, called_off)
        tried = f" (after {attempt} attempts)" if attempt > 1 else ""
        raise BackendError(f"{self.url}: {trouble.problem}{tried}", advice=trouble.advice)

    def line(self, text: str, hidden: Iterable[str] = ()) -> str:
        """Return what the endpoint said as one short line without the API key and without the hidden texts."""
        return self._clean.line(text, hidden)

    def close(self) -> None:
        """Hang up; further requests are an error."""
        self._client.close()
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._clean)

    def _attempt(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply | _Trouble:
        self._count()
        deadline = self._clock() + self._timeout
        try:
            with self._client.stream(method, f"{self.url}/{path}", json=body) as response:
                headers = self._note(response)
                content = self._read(response, deadline)
        except httpx.TimeoutException:
            return self._too_slow()
        except httpx.HTTPError as error:
            return _of_network(error, self._clean)
        if isinstance(content, _Trouble):
            return content
        return Reply(response.status_code, *_parsed(content, headers, self._clean), headers)

    def _count(self) -> None:
        with self._lock:
            if self._max_requests is not None and self._sent >= self._max_requests:
                raise BackendError(
                    f"{self.url}: the budget of {self._max_requests} requests is used up",
                    advice="what came is kept: raise --max-requests and go on with --resume",
                )
            self._sent += 1

    def _note(self, response: httpx.Response) -> dict[str, str]:
        """Remember what a reply tells of the endpoint and of the connection; return its headers."""
        headers = {name.lower(): self._clean.line(value) for name, value in response.headers.items()}
        stream = response.extensions.get("network_stream")
        encrypted = stream.get_extra_info("ssl_object") if stream is not None else None
        certificate = encrypted.getpeercert(True) if encrypted is not None else None  # noqa: FBT003 - takes no name
        with self._lock:
            self._headers |= {
                name: value for name, value in headers.items() if name in KEPT_HEADERS or name.startswith(KEPT_PREFIX)
            }
            if encrypted is not None:
                self._tls[str(encrypted.version())] = None
            if certificate:
                self._certificates[sha256(certificate).hexdigest()] = None
        return headers

    def _read(self, response: httpx.Response, deadline: float) -> bytes | _Trouble:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            return _Trouble(
                "the reply is compressed, although that was declined", "audit without the proxy", final=True
            )
        content = bytearray()
        for piece in response.iter_raw():
            content += piece
            if len(content) > MOST_BYTES:
                return _Trouble(
                    f"the reply is larger than {MOST_BYTES >> 20} MiB", "look at what answers there", final=True
                )
            if self._clock() > deadline:
                return self._too_slow()
        return bytes(content)

    def _too_slow(self) -> _Trouble:
        return _Trouble(
            f"no whole reply within {self._timeout:g} s",
            "what came is kept: lower --concurrency or raise the timeout, and go on with --resume",
        )

    def _back_off(self, attempt: int) -> float:
        return min(60.0, 2.0**attempt) * (0.5 + 0.5 * self._jitter())

    def _pause(self, seconds: float, called_off: threading.Event | None) -> None:
        if self._sleep is not None:
            self._sleep(seconds)
        elif called_off is not None:
            called_off.wait(seconds)
        else:
            time.sleep(seconds)


def _verification(url: str, ca_file: Path | None, *, trust_environment: bool) -> ssl.SSLContext:
    if ca_file is None:
        if url.startswith("http:") and not trust_environment:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no one; nothing is loaded for a connection in clear
        return httpx.create_ssl_context(trust_env=trust_environment)
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"{ca_file} cannot be read as certificates: {error}", advice="give a PEM file") from error


def _parsed(content: bytes, headers: Mapping[str, str], clean: Cleaner) -> tuple[Any, str]:
    """Return (document, why there is none)."""
    try:
        # Numbers that are none ("NaN") become null; a document nested too deeply ends in RecursionError.
        return clean.document(json.loads(content, parse_constant=lambda _: None)), ""
    except (ValueError, RecursionError):
        pass
    if not content:
        return None, "an empty reply"
    if "html" in headers.get("content-type", "").lower() or content.lstrip()[:1] == b"<":
        return None, "a web page instead of JSON"
    return None, f"{len(content)} bytes that are no whole JSON document"


def _of_status(reply: Reply, wait: float) -> _Trouble:
    if wait > LONGEST_WAIT:
        return _Trouble(
            f"HTTP {reply.status}, and the endpoint asks to wait {wait:g} s",
            "what came is kept: go on with --resume by then",
        )
    if reply.status == 429:
        return _Trouble("too many requests (HTTP 429)", "what came is kept: lower --concurrency and use --resume")
    return _Trouble(
        f"the endpoint fails (HTTP {reply.status})", "what came is kept: go on with --resume when it is up again"
    )


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that Retry-After asks for: a number, or a date beside the reply's own; 0 when it does not."""
    asked = headers.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    try:
        until, sent = parsedate_to_datetime(asked), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - sent).total_seconds())
    except (ValueError, TypeError, OverflowError):  # no date, or one with and one without a time zone
        return 0.0


def _of_network(error: httpx.HTTPError, clean: Cleaner) -> _Trouble:
    """Say why there was no connection, or why it ended."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    said = clean.line(str(error)) or type(error).__name__
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _Trouble(
                f"the certificate does not verify: {clean.line(cause.verify_message)}",
                "--ca-file FILE names the authority that signed it; check that this is the host you mean",
                final=True,
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return _Trouble(
                f"no TLS connection: {said}", "check that the endpoint speaks https on this port", final=True
            )
    if isinstance(error, httpx.ConnectError):
        return _Trouble(f"cannot be reached: {said}", "check the URL and that the server runs")
    return _Trouble(
        f"the connection broke: {said}", "what came is kept: go on with --resume when the endpoint is up again"
    )
