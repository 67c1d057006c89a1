"""The secret that a key set follows from: redacted, never pickled, sub-keys derived for one purpose each."""

import hashlib
import hmac
from typing import Any

from fpvec_audit.errors import KeySetError

SECRET_BYTES = 32


class KeySetSecret:
    """256 random bits from which a key set follows. Never shown: the representation is redacted."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != SECRET_BYTES:
            raise KeySetError(f"a key set secret has {SECRET_BYTES} bytes, this one {len(material)}")
        self._material = material

    def __repr__(self) -> str:
        return "KeySetSecret(<redacted>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySetSecret) and hmac.compare_digest(self._material, other._material)

    def __hash__(self) -> int:
        return hash(self._material)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a key set secret is not pickled; hand it over through the vault")

    def reveal(self) -> bytes:
        """Return the 32 bytes, for the vault alone."""
        return self._material

    def subkey(self, purpose: str) -> bytes:
        """Derive the 32-byte sub-key of a purpose (HKDF-SHA-256, RFC 5869, empty salt, one block)."""
        pseudorandom_key = hmac.digest(bytes(32), self._material, hashlib.sha256)
        return hmac.digest(pseudorandom_key, f"fpvec-audit/{purpose}".encode() + b"\x01", hashlib.sha256)
