"""Ed25519 keys and signed documents: DSSE envelopes with one payload, one signature and one spelling.

A signature here decides which candidates are issued and in which order they are asked, so nothing may be left to
choice: the payload is canonical JSON, base64 and hex have one spelling, exactly one signature is allowed, its key id
must be that of the key, and keys under which every message would verify are refused. Private keys never show in a
representation, are never pickled, and lie in files that only their owner can read.

Round-trip laws:
    * ``verify_envelope(sign_document(kind, document, key).to_json(), key.public_key, kind) == document``
    * ``PublicKey.from_hex(key.hex) == key`` and ``PublicKey.load(path)`` gives back what ``key.save(path)`` wrote.

Source: RFC 8032 (Ed25519); DSSE, github.com/secure-systems-lab/dsse, protocol version 1.
"""

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.documents import PRIVATE_MODE, checked_fields, parse_document, read_bytes, write_new

KEY_BYTES = 32
SIGNATURE_BYTES = 64
MOST_KEY_FILE_BYTES = 4096

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT, _FIELD_PRIME - _ORDER_EIGHT})
"""Second coordinates of the eight points of small order: under such a "key" one signature fits every message."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise EvidenceError(f"an Ed25519 public key has {KEY_BYTES} bytes, this one {len(self.raw)}")
        coordinate = int.from_bytes(self.raw, "little") & (1 << 255) - 1
        if coordinate >= _FIELD_PRIME or coordinate in _SMALL_ORDER:
            raise EvidenceError(f"{self.raw.hex()} is no public key that could tell one signer from another")

    def __repr__(self) -> str:
        return f"PublicKey({self.hex})"

    @property
    def hex(self) -> str:
        """The 32 bytes as 64 lower-case hexadecimal digits."""
        return self.raw.hex()

    @property
    def key_id(self) -> str:
        """SHA-256 of the 32 bytes, hex: what an envelope calls its signer by."""
        return hashlib.sha256(self.raw).hexdigest()

    @classmethod
    def from_hex(cls, text: str) -> "PublicKey":
        """Return the key that 64 lower-case hexadecimal digits stand for.

        Raises:
            EvidenceError: anything else, or a key of small order.
        """
        if not isinstance(text, str) or not _HEX_KEY.fullmatch(text):
            raise EvidenceError(f"{str(text)[:80]!r} is no public key: 64 lower-case hexadecimal digits are wanted")
        return cls(bytes.fromhex(text))

    @classmethod
    def parse(cls, content: bytes) -> "PublicKey":
        """Return the key in the content of a file: SubjectPublicKeyInfo as PEM, or 64 hexadecimal digits.

        Raises:
            EvidenceError: neither, or a key of another kind.
        """
        text = content.strip()
        if b"-----BEGIN" not in text:
            return cls.from_hex(text.decode("ascii", "backslashreplace"))
        if b"PRIVATE" in text:
            raise EvidenceError("this is a private key, not a public one", advice="use the .pub file beside it")
        try:
            key = serialization.load_pem_public_key(text)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise EvidenceError("this is no public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            raise EvidenceError(f"this is a {type(key).__name__}, not an Ed25519 public key")
        return cls(key.public_bytes_raw())

    @classmethod
    def load(cls, path: Path) -> "PublicKey":
        """Read a key from a file; see :meth:`parse`.

        Raises:
            EvidenceError: it cannot be read, or holds no such key.
        """
        content = read_bytes(path, "public key", most=MOST_KEY_FILE_BYTES)
        try:
            return cls.parse(content)
        except EvidenceError as error:
            raise EvidenceError(f"{path}: {error.problem}", advice=error.advice) from error

    def save(self, path: Path) -> None:
        """Write the key as PEM to a new file.

        Raises:
            EvidenceError: the file exists, or cannot be written.
        """
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        write_new(path, key.public_bytes(serialization.Encoding.PEM, form), "public key")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether a signature over a message was made with this key's private half."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """An Ed25519 private key. Never shown: the representation is redacted."""

    __slots__ = ("_key", "_public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise EvidenceError(f"an Ed25519 private key has {KEY_BYTES} bytes, this one {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self._public.hex}, <redacted>)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a signing key is not pickled; hand over the path of its file")

    @property
    def public_key(self) -> PublicKey:
        """The half that may be shown."""
        return self._public

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = secrets.token_bytes) -> "SigningKey":
        """Draw a new key.

        Args:
            entropy: gives random bytes.
        """
        return cls(entropy(KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a key from a file that only its owner can read.

        Raises:
            EvidenceError: missing, readable by others, or no unencrypted Ed25519 private key in PKCS#8 PEM form.
        """
        content = read_bytes(path, "private key", most=MOST_KEY_FILE_BYTES, private=True)
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
            raise EvidenceError(
                f"{path} holds no unencrypted private key in PEM form",
                advice="make one with `fpvec witness init`",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise EvidenceError(
                f"{path} holds a {type(key).__name__}, not an Ed25519 key", advice="make one with `fpvec witness init`"
            )
        return cls(key.private_bytes_raw())

    def save(self, path: Path) -> None:
        """Write the key as PKCS#8 PEM to a new file that only its owner can read.

        Raises:
            EvidenceError: the file exists, or cannot be written.
        """
        content = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_new(path, content, "private key", mode=PRIVATE_MODE)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a message; the same message always gets the same one."""
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed document (DSSE). Its signature is not verified by making one: see :func:`verify_envelope`.

    Attributes:
        payload_type: what kind of document it is, part of what is signed.
        payload: canonical JSON bytes of the document.
        key_id: SHA-256 of the signer's public key, hex.
        signature: 64 bytes.
    """

    payload_type: str
    payload: bytes = field(repr=False)
    key_id: str
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is written to files."""
        return {
            "payload": _encoded(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": self.key_id, "sig": _encoded(self.signature)}],
        }

    @classmethod
    def from_json(cls, value: Any) -> "Envelope":
        """Rebuild an envelope from :meth:`to_json`.

        Raises:
            EvidenceError: unknown or missing fields, another number of signatures than one, base64 in another form.
        """
        outer = checked_fields(value, {"payload": str, "payloadType": str, "signatures": list}, "envelope")
        if len(outer["signatures"]) != 1:
            raise EvidenceError(f"this envelope has {len(outer['signatures'])} signatures; exactly one is wanted")
        inner = checked_fields(outer["signatures"][0], {"keyid": str, "sig": str}, "signature")
        if not _HEX_KEY.fullmatch(inner["keyid"]):
            raise EvidenceError("the key id of this signature is not 64 lower-case hexadecimal digits")
        signature = _decoded(inner["sig"], "signature")
        if len(signature) != SIGNATURE_BYTES:
            raise EvidenceError(f"an Ed25519 signature has {SIGNATURE_BYTES} bytes, this one {len(signature)}")
        return cls(outer["payloadType"], _decoded(outer["payload"], "payload"), inner["keyid"], signature)

    @property
    def document(self) -> dict[str, Any]:
        """The document inside, whoever signed it.

        Raises:
            EvidenceError: it is not canonical JSON.
        """
        return parse_document(self.payload, "payload")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the envelope, hex."""
        return canonical_digest(self.to_json())


def sign_document(payload_type: str, document: Mapping[str, Any], key: SigningKey) -> Envelope:
    """Sign a JSON object without floats.

    Args:
        payload_type: what kind of document it is ("application/vnd.fpvec-audit.witness+json").
        document: the object; its canonical bytes become the payload.
        key: the signer's.
    """
    payload = canonical_bytes(dict(document))
    signature = key.sign(signed_bytes(payload_type, payload))
    return Envelope(payload_type, payload, key.public_key.key_id, signature)


def verify_envelope(envelope_json: Any, public_key: PublicKey, payload_type: str) -> dict[str, Any]:
    """Return the document of an envelope after checking that this key signed it as this kind of document.

    Raises:
        EvidenceError: malformed, of another kind, by another key, or altered.
    """
    envelope = envelope_json if isinstance(envelope_json, Envelope) else Envelope.from_json(envelope_json)
    if envelope.payload_type != payload_type:
        raise EvidenceError(f"this envelope holds {envelope.payload_type[:80]!r}, not {payload_type!r}")
    if envelope.key_id != public_key.key_id:
        raise EvidenceError(
            f"this envelope was signed by another key (id {envelope.key_id[:16]}…, not {public_key.key_id[:16]}…)",
            advice="check whose public key you were given",
        )
    if not public_key.verifies(envelope.signature, signed_bytes(payload_type, envelope.payload)):
        raise EvidenceError("the signature does not fit: envelope or payload were altered after signing")
    return envelope.document


def signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """Return what a DSSE signature is made over: type and payload with their lengths, so that neither can move."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _decoded(text: str, what: str) -> bytes:
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise EvidenceError(f"the {what} of this envelope is not base64") from error
    if _encoded(content) != text:  # unused bits of the last character may hold anything
        raise EvidenceError(f"the {what} of this envelope is not base64 in its one canonical form")
    return content
