"""A real HTTP server on 127.0.0.1 that answers like an OpenAI-compatible endpoint, and fails as it is told to.

Faults are functions that get the handler and take over one request; :attr:`FakeEndpoint.faults` are used up by
questions in the order in which they arrive, probes apart.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fpvec_audit.backends.api import PROBE

MODEL = "suspect-1"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def prompt(self) -> str:
        """The text of the question."""
        if "messages" in self.body:
            return self.body["messages"][-1]["content"]
        return self.body["prompt"]


Fault = Callable[["Handler"], None]


@dataclass
class FakeEndpoint:
    """What the endpoint serves, how it fails, and what it has seen."""

    models: list[str] = field(default_factory=lambda: [MODEL])
    faults: deque[Fault] = field(default_factory=deque)
    probe_faults: deque[Fault] = field(default_factory=deque)
    listing_faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    answer: Callable[[str], str] = str.upper
    headers: dict[str, str] = field(default_factory=dict)
    meet: threading.Barrier | None = None
    seen: list[Seen] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def questions(self) -> list[Seen]:
        """Requests for answers, probes apart."""
        return [seen for seen in self.seen if seen.method == "POST" and seen.prompt != PROBE]

    @property
    def asked(self) -> list[str]:
        """Prompts in the order in which they arrived, probes apart."""
        return [seen.prompt for seen in self.questions]

    def next_fault(self, seen: Seen) -> Fault | None:
        """Return what goes wrong with a request."""
        if seen.method == "GET":
            queue = self.listing_faults
        else:
            queue = self.probe_faults if seen.prompt == PROBE else self.faults
        with self.lock:
            return queue.popleft() if queue else self.always if queue is self.faults else None


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of a reply are two writes; the second would wait for 40 ms
    endpoint: FakeEndpoint
    seen: Seen

    def do_GET(self):
        self._serve(None)

    def do_POST(self):
        self._serve(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def reply(self, document, *, status=200, headers=None, raw=None):
        """Send a whole JSON reply."""
        content = json.dumps(document).encode() if raw is None else raw
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **self.endpoint.headers,
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def answer(self, **changes):
        """Send the right answer, with some of its fields changed."""
        text, body = self.endpoint.answer(self.seen.prompt), self.seen.body
        choice = {"index": 0, "finish_reason": "stop"}
        count = body.get("top_logprobs") or body.get("logprobs")
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": text}
            if count:
                top = [{"token": f"t{place}", "logprob": -1.0 - place, "bytes": None} for place in range(count)]
                choice["logprobs"] = {"content": [{"token": "t0", "logprob": -1.0, "top_logprobs": top}]}
        else:
            choice["text"] = text
            if count:
                choice["logprobs"] = {"top_logprobs": [{f"t{place}": -1.0 - place for place in range(count)}]}
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        self.reply({"model": body["model"], "choices": [choice], "usage": usage} | changes)

    def log_message(self, *_):
        """Say nothing."""

    def _serve(self, body):
        endpoint = self.endpoint
        self.seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        question = self.command == "POST" and self.seen.prompt != PROBE
        with endpoint.lock:
            endpoint.seen.append(self.seen)
            endpoint.at_once += question
            endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            if question and endpoint.meet is not None:
                endpoint.meet.wait(10)
        finally:
            with endpoint.lock:
                endpoint.at_once -= question
        fault = endpoint.next_fault(self.seen)
        if fault is not None:
            fault(self)
        elif self.command == "GET":
            self.reply({"object": "list", "data": [{"id": name, "object": "model"} for name in endpoint.models]})
        else:
            self.answer()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hung up is no news."""


@contextlib.contextmanager
def fake_endpoint(tls: ssl.SSLContext | None = None, **settings: Any) -> Iterator[FakeEndpoint]:
    """Serve until the context ends; ``url`` of the endpoint is its base URL."""
    endpoint = FakeEndpoint(**settings)
    server = _Server(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"endpoint": endpoint}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    endpoint.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(number: int, document: Any = None, **headers: str) -> Fault:
    """Reply with an HTTP status."""
    said = {"error": {"message": f"status {number}"}} if document is None else document
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(said, status=number, headers=named)


def raw(content: bytes, kind: str = "application/json", **headers: str) -> Fault:
    """Reply with bytes that need not be JSON."""
    named = {"Content-Type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(None, raw=content, headers=named)


def changed(**fields: Any) -> Fault:
    """Answer with some fields changed."""
    return lambda handler: handler.answer(**fields)


def hang_up(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut(handler: Handler) -> None:
    """Promise a reply and close the connection amid it."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"model": "suspect')
    hang_up(handler)


def nonsense(handler: Handler) -> None:
    """Speak something that is not HTTP, and repeat the key."""
    handler.wfile.write(f"SSH-2.0 {handler.headers.get('authorization', '')}\r\n\r\n".encode())
    hang_up(handler)


def endless(handler: Handler) -> None:
    """Send more than anybody wants to read."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * (1 << 16))


def until(released: threading.Event, then: Fault | None = None) -> Fault:
    """Answer only when an event is set."""

    def wait(handler: Handler) -> None:
        released.wait(10)
        with contextlib.suppress(OSError):
            (then or Handler.answer)(handler)

    return wait


def trickle(released: threading.Event) -> Fault:
    """Send a byte now and then, so that no single read takes long, until an event is set."""

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.close_connection = True
        with contextlib.suppress(OSError):
            while not released.wait(0.01):
                handler.wfile.write(b" ")

    return drip


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path, bytes]:
    """Make a certificate for 127.0.0.1; return (server's context, PEM file, SHA-256 of the DER)."""
    from datetime import UTC, datetime, timedelta
    from hashlib import sha256
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "endpoint of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "certificate.pem", directory / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return context, chain, sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
