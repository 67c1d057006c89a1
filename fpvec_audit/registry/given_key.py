"""Master keys that whoever runs the program gives: as they are, or by a passphrase that they follow from.

The text that was given is never part of a representation or an error.
"""

import secrets
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.master_key import (
    ENVIRONMENT,
    HEX_KEY,
    KEY_BYTES,
    KEY_VARIABLE,
    PASSPHRASE,
    PASSPHRASE_VARIABLE,
    KnownKey,
    MasterKey,
    wrong_key,
)

_SCRYPT = {"kdf": "scrypt", "n": 1 << 17, "r": 8, "p": 1}
"""128 MiB and about half a second a guess (OWASP's recommendation for scrypt)."""
_MOST_SCRYPT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key that the environment gives.

    Attributes:
        text: 64 hexadecimal digits.
        variable: which variable gave it.
    """

    text: str = field(repr=False)
    variable: str = KEY_VARIABLE

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return ENVIRONMENT

    @property
    def shown(self) -> str:
        """See :class:`MasterKeySource`."""
        return self.variable

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return the given key."""
        return self._key(), {}

    def find(self, known: KnownKey) -> MasterKey:
        """Return the given key if it is the one; see :class:`MasterKeySource`."""
        key = self._key()
        if key.id != known.id:
            raise wrong_key(known, f"{self.variable} is {key.id}")
        return key

    def _key(self) -> MasterKey:
        text = self.text.strip().lower()
        if not HEX_KEY.fullmatch(text):
            raise RegistryError(
                f"{self.variable} is no master key: it is not 64 hexadecimal digits",
                advice="`openssl rand -hex 32` makes one",
            ) from None
        return MasterKey(bytes.fromhex(text))


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key that follows from a passphrase by scrypt; salt and cost lie in the registry.

    Attributes:
        text: the passphrase.
        entropy: gives random bytes.
        variable: which variable gave it.
    """

    text: str = field(repr=False)
    entropy: Callable[[int], bytes] = secrets.token_bytes
    variable: str = PASSPHRASE_VARIABLE

    @property
    def source(self) -> str:
        """See :class:`MasterKeySource`."""
        return PASSPHRASE

    @property
    def shown(self) -> str:
        """See :class:`MasterKeySource`."""
        return self.variable

    def first(self) -> tuple[MasterKey, Mapping[str, Any]]:
        """Return a key with a salt of its own."""
        derivation = {**_SCRYPT, "salt": self.entropy(16).hex()}
        return self._derived(derivation), derivation

    def find(self, known: KnownKey) -> MasterKey:
        """Return the key if the passphrase is the one; see :class:`MasterKeySource`."""
        if known.source != PASSPHRASE:
            raise wrong_key(known, f"{self.variable} is set")
        key = self._derived(known.derivation)
        if key.id != known.id:
            raise RegistryError(
                f"the passphrase is not that of the master key {known.id}", advice=f"check {self.variable}"
            )
        return key

    def _derived(self, derivation: Mapping[str, Any]) -> MasterKey:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        if not self.text:
            raise RegistryError("the passphrase is empty", advice=f"set {self.variable}")
        try:
            cost, block, lanes = (int(derivation[name]) for name in ("n", "r", "p"))
            if derivation["kdf"] != "scrypt" or 128 * cost * block * lanes > _MOST_SCRYPT_BYTES:
                raise ValueError(derivation["kdf"])
            kdf = Scrypt(salt=bytes.fromhex(derivation["salt"]), length=KEY_BYTES, n=cost, r=block, p=lanes)
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                "the registry does not say how its master key follows from a passphrase",
                advice="run `fpvec registry verify` and restore a backup",
            ) from error
        # however it was typed: one way to write accents, and bytes that are no text as the environment has them
        text = unicodedata.normalize("NFC", self.text).encode("utf-8", "surrogateescape")
        try:
            return MasterKey(kdf.derive(text))
        except (MemoryError, ValueError) as error:
            raise RegistryError(
                "the master key cannot be derived from the passphrase: there is too little memory",
                advice=f"{128 * cost * block >> 20} MiB are needed",
            ) from error
