"""Carriers: keyed patterns of signs, one for each licensee and one of the owner's own, that follow from one secret.

What a copy carries is decided by chance alone: without the secret, a carrier cannot be told from fair coin tosses
(AES-128 in counter mode under a key of the licensee's own). The secret is committed to before it is used. So whoever
finds a carrier in a model finds contact with the copy that got it, see :mod:`~fpvec_audit.domain.carrier_test`.

Law: element k of the tensor t has, for the carrier with key K, the bit k mod 128 of AES-128_K(nonce(t) ‖ k div 128),
lowest bit of each byte first, where 0 is +1 and 1 is −1.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any

from fpvec_audit.errors import RegistryError

SECRET_BYTES = 32
CIPHER_BYTES = 16
NONCE_BYTES = 12
SCHEME = "aes-ctr/1"
"""Name of the law above; a stamp records under which its carrier was added."""
DEFAULT_STRENGTH = 0.02
"""ε: amplitude of each carrier as a share of the spread of what the vectors add, over each chunk of elements."""

_LABEL = b"fpvec-audit/carrier/1/"


class CarrierKey:
    """The key of one carrier. Never shown: the representation is redacted."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != SECRET_BYTES:
            raise RegistryError(f"a carrier's key has {SECRET_BYTES} bytes, this one {len(material)}")
        self._material = material

    def __repr__(self) -> str:
        return "CarrierKey(<redacted>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CarrierKey) and hmac.compare_digest(self._material, other._material)

    def __hash__(self) -> int:
        return hash(self._material)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a carrier's key is not pickled; derive it from the secret in the vault")

    def reveal(self) -> bytes:
        """Return the 32 bytes, for whoever its owner opens the carrier to."""
        return self._material

    @property
    def commitment(self) -> str:
        """Hexadecimal SHA-256 that the ledger holds before the carrier is used; opening the key proves it was this."""
        return hashlib.sha256(_LABEL + b"commitment\0" + self._material).hexdigest()

    @property
    def cipher(self) -> bytes:
        """The 16 bytes under which AES gives the signs."""
        return hmac.digest(self._material, _LABEL + b"signs", hashlib.sha256)[:CIPHER_BYTES]

    def rounding(self, tensor: str) -> tuple[int, int]:
        """Return two numbers of 32 bits that decide how the elements of a tensor are rounded.

        Args:
            tensor: canonical name.
        """
        digest = hmac.digest(self._material, _LABEL + b"rounding\0" + tensor.encode(), hashlib.sha256)
        first, second = struct.unpack_from("<II", digest)
        return first, second


class CarrierSecret:
    """256 random bits from which all carriers of a key set follow. Never shown: the representation is redacted."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != SECRET_BYTES:
            raise RegistryError(f"a carrier secret has {SECRET_BYTES} bytes, this one {len(material)}")
        self._material = material

    def __repr__(self) -> str:
        return "CarrierSecret(<redacted>)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a carrier secret is not pickled; hand it over through the vault")

    def reveal(self) -> bytes:
        """Return the 32 bytes, for the vault alone."""
        return self._material

    def key(self, licensee: str) -> CarrierKey:
        """Return the key of a licensee's carrier; of the owner's own for the empty name."""
        whose = b"licensee\0" + licensee.encode() if licensee else b"owner"
        return CarrierKey(hmac.digest(self._material, _LABEL + whose, hashlib.sha256))


def tensor_nonce(name: str) -> bytes:
    """Return the 12 bytes that tell the signs of one tensor from those of another.

    Args:
        name: canonical name of the tensor.
    """
    return hashlib.sha256(_LABEL + b"tensor\0" + name.encode()).digest()[:NONCE_BYTES]


def spans_chosen(secret: CarrierSecret, share: float) -> Callable[[str, int], bool]:
    """Return which pieces of a model are read where reading all would take too long: a keyed choice, blind to signs.

    Args:
        secret: keeps the choice from whoever would erase a carrier just there.
        share: of the pieces that are chosen, in (0, 1].
    """
    key = hmac.digest(secret.reveal(), _LABEL + b"spans", hashlib.sha256)
    limit = int(share * 2**64)

    def chosen(tensor: str, span: int) -> bool:
        digest = hmac.digest(key, tensor.encode() + b"\0" + struct.pack("<Q", span), hashlib.sha256)
        return int.from_bytes(digest[:8], "little") < limit

    return chosen
