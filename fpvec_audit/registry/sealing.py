"""Sealed bytes: AES-256-GCM whose associated data is the place where they lie.

What is sealed for one row does not open in another: the name of the table and the row's key are authenticated. Law:
``unsealed(key, sealed(key, secret, place), place) == secret``, and any other key, place or byte raises.

A sealed value is a nonce of 12 random bytes, the ciphertext, and its tag of 16 bytes. A data key seals far fewer than
the 2^32 values up to which random nonces are safe (NIST SP 800-38D, section 8.3).
"""

import secrets
from collections.abc import Callable, Sequence

from fpvec_audit.domain.canonical_json import canonical_bytes

SCHEME = "aes-256-gcm"
NONCE_BYTES, TAG_BYTES = 12, 16

Place = Sequence[str | int]
"""Where a value lies: the table, then the row's key."""


def sealed(key: bytes, secret: bytes, place: Place, *, entropy: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return a secret sealed for one place.

    Args:
        key: 32 bytes.
        secret: what to seal.
        place: where it will lie.
        entropy: gives random bytes.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = entropy(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, secret, _associated(place))


def unsealed(key: bytes, value: bytes, place: Place) -> bytes:
    """Return what was sealed.

    Args:
        key: 32 bytes.
        value: as :func:`sealed` gave it.
        place: where it lies.

    Raises:
        ValueError: it was sealed with another key or for another place, or was changed since.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not isinstance(value, bytes):  # SQLite keeps in a column whatever it is given
        raise ValueError("it is no bytes any more")
    if len(value) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("it is too short")
    try:
        return AESGCM(key).decrypt(value[:NONCE_BYTES], value[NONCE_BYTES:], _associated(place))
    except InvalidTag:
        raise ValueError("it was sealed with another key or for another row, or was changed since") from None


def _associated(place: Place) -> bytes:
    return canonical_bytes(["fpvec sealed v1", *place])
