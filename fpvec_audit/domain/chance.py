"""Unbiased numbers and orders from a key, the same on every machine: HMAC-SHA-256 in counter mode.

The stream belongs to the key set generator's version: other bytes here would be other key sets.
"""

import hashlib
import hmac
from collections.abc import Sequence


class Numbers:
    """Unbiased integers from HMAC-SHA-256 in counter mode."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counter = 0

    def below(self, bound: int) -> int:
        """Return a uniform integer in [0, bound)."""
        limit = (1 << 64) - (1 << 64) % bound
        while True:
            block = hmac.digest(self._key, self._counter.to_bytes(8, "big"), hashlib.sha256)
            self._counter += 1
            number = int.from_bytes(block[:8], "big")
            if number < limit:
                return number % bound

    def choice(self, items: Sequence[str]) -> str:
        """Return one of the items."""
        return items[self.below(len(items))]


def shuffled(count: int, key: bytes) -> list[int]:
    """Return range(count) in an order that is uniform over all permutations for a random key (Fisher–Yates)."""
    numbers = Numbers(key)
    order = list(range(count))
    for place in range(count - 1):
        other = place + numbers.below(count - place)
        order[place], order[other] = order[other], order[place]
    return order
