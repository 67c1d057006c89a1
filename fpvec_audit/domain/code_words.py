"""Which word of a code each licensee gets: in a secret order that follows from the key set's secret.

Licensees of a family are numbered 0, 1, 2, … in the order in which they are added; number j gets the word of rank π(j),
where π is a permutation that only the secret gives. So no two get one word, a retired word never comes back, and the
registry keeps numbers and salted digests, never a word. π is bound when the code is chosen (:attr:`WordBook.binding`):
afterwards nobody, the owner included, can pick a word for somebody.

Laws: ``permuted`` is a permutation of range(size) for every key; a :class:`WordBook` is a pure function of secret,
commitment and code.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from math import isqrt

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.codes import Code
from fpvec_audit.domain.merkle import leaf_hash
from fpvec_audit.domain.secret import KeySetSecret

ROUNDS = 10
"""Rounds of the Feistel network, as many as NIST SP 800-38G takes for its own (FF1)."""


class WordBook:
    """The words of a code in the order in which licensees get them. It follows from the secret, and is never shown.

    Args:
        code: the code.
        secret: the key set's.
        commitment: digest of the key set's commitment, hex.
    """

    def __init__(self, code: Code, secret: KeySetSecret, commitment: str) -> None:
        self._code = code
        self._commitment = commitment
        self._order = _bound(secret, "code-order", commitment, code)
        self._salts = _bound(secret, "code-salt", commitment, code)

    def __repr__(self) -> str:
        return f"WordBook({self._code.text}, <redacted>)"

    @property
    def code(self) -> Code:
        """The code whose words these are."""
        return self._code

    @property
    def binding(self) -> str:
        """SHA-256 of the key that orders the words, hex: what binds all of them before the first is issued."""
        return hashlib.sha256(self._order).hexdigest()

    def rank(self, number: int) -> int:
        """Return the rank of licensee ``number``'s word in the code."""
        return permuted(number, size=self._code.words, key=self._order)

    def word(self, number: int) -> tuple[int, ...]:
        """Return the marks of licensee ``number``, ascending."""
        return self._code.word(self.rank(number))

    def words(self, numbers: Iterable[int]) -> tuple[tuple[int, ...], ...]:
        """Return the words of several licensees."""
        return tuple(map(self.word, numbers))

    def commitment(self, number: int) -> str:
        """Return the salted digest of a licensee's word, hex: SHA-256(0x00 ‖ salt ‖ [C, code, number, word])."""
        return word_digest(self._commitment, self._code.text, number, self.word(number), self.salt(number))

    def salt(self, number: int) -> bytes:
        """Return the 32 bytes that hide a word in its digest."""
        return hmac.digest(self._salts, number.to_bytes(8, "big"), hashlib.sha256)


def word_digest(commitment: str, code: str, number: int, word: Sequence[int], salt: bytes) -> str:
    """Return the salted digest of a word, hex: what stands in the ledger from the moment it is issued.

    Args:
        commitment: digest of the key set's commitment, hex.
        code: as it is written.
        number: of the licensee.
        word: its marks, ascending.
        salt: 32 bytes.
    """
    return leaf_hash(salt + canonical_bytes([commitment, code, number, list(word)])).hex()


def permuted(number: int, *, size: int, key: bytes) -> int:
    """Return where a secret permutation of range(``size``) takes a number.

    A Feistel network over Z_a × Z_b with a·b just above ``size``, walked on while it leads out of the range.

    Args:
        number: in [0, size).
        size: up to 2^512, so that reducing a digest of 512 bits is unbiased to within 2^-256.
        key: gives the permutation.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (Feistel, cycle walking).
    """
    if not 0 <= number < size <= 1 << 512:
        raise ValueError(f"{number} is not in a range of {size}")
    rows = isqrt(size - 1) + 1
    columns = -(-size // rows)
    while True:
        row, column = divmod(number, columns)
        for turn in range(0, ROUNDS, 2):
            row = (row + _drawn(key, turn, column)) % rows
            column = (column + _drawn(key, turn + 1, row)) % columns
        number = row * columns + column
        if number < size:
            return number


def _drawn(key: bytes, turn: int, value: int) -> int:
    return int.from_bytes(hmac.digest(key, bytes([turn]) + value.to_bytes(33, "big"), hashlib.sha512), "big")


def _bound(secret: KeySetSecret, purpose: str, commitment: str, code: Code) -> bytes:
    return hmac.digest(secret.subkey(purpose), bytes.fromhex(commitment) + code.text.encode(), hashlib.sha256)
