"""Arithmetic in finite fields of any prime-power order, for the codes that licensees' words come from.

Elements are the whole numbers below the order: the digits of one in base p are the coefficients of a polynomial over
the prime field, lowest first. Which field of an order is meant never changes – the first primitive polynomial in a
fixed search – because the words that licensees were issued follow from it.
"""

from functools import lru_cache
from itertools import product

from fpvec_audit.errors import UsageError

MOST_ELEMENTS = 1024


class FiniteField:
    """The field of a prime-power order.

    Args:
        order: number of elements, q = p^e, from 2 to 1024.

    Raises:
        UsageError: there is no such field.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self._prime, self._degree = prime_power(order)
        self._powers = _powers_of_a_generator(self._prime, self._degree)
        self._logarithm = {element: exponent for exponent, element in enumerate(self._powers)}

    def add(self, one: int, other: int) -> int:
        """Return the sum of two elements."""
        if self._degree == 1:
            return (one + other) % self._prime
        total, place = 0, 1
        while one or other:
            (one, first), (other, second) = divmod(one, self._prime), divmod(other, self._prime)
            total += (first + second) % self._prime * place
            place *= self._prime
        return total

    def multiply(self, one: int, other: int) -> int:
        """Return the product of two elements."""
        if one == 0 or other == 0:
            return 0
        return self._powers[(self._logarithm[one] + self._logarithm[other]) % len(self._powers)]

    def evaluate(self, coefficients: tuple[int, ...], at: int) -> int:
        """Return the value of a polynomial, lowest coefficient first, at an element (Horner's rule)."""
        value = 0
        for coefficient in reversed(coefficients):
            value = self.add(self.multiply(value, at), coefficient)
        return value


@lru_cache(maxsize=16)
def field(order: int) -> FiniteField:
    """Return the field of an order, made once."""
    return FiniteField(order)


def prime_power(order: int) -> tuple[int, int]:
    """Return the prime p and the exponent e of an order p^e.

    Raises:
        UsageError: it is no prime power from 2 to 1024.
    """
    found = _prime_power(order)
    if found is None:
        raise UsageError(
            f"there is no finite field of {order} elements",
            advice=f"choose a prime power from 2 to {MOST_ELEMENTS}: 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, …",
        )
    return found


def prime_powers(least: int, most: int) -> tuple[int, ...]:
    """Return the prime powers from ``least`` to ``most``, ascending."""
    return tuple(order for order in range(max(2, least), most + 1) if _prime_power(order) is not None)


def _prime_power(order: int) -> tuple[int, int] | None:
    if not 2 <= order <= MOST_ELEMENTS:
        return None
    prime = next(divisor for divisor in range(2, order + 1) if order % divisor == 0)
    degree, rest = 0, order
    while rest % prime == 0:
        rest //= prime
        degree += 1
    return (prime, degree) if rest == 1 else None


def _powers_of_a_generator(prime: int, degree: int) -> tuple[int, ...]:
    """Return 1, g, g², … – all non-zero elements – for the first generator g.

    Modulo a polynomial that is not irreducible, powers of x never run through all but 0: what does is a field.
    """
    order = prime**degree
    if degree == 1:
        candidates = ((_prime_powers_of(generator, prime)) for generator in range(1, prime))
    else:
        candidates = (_powers_of_x(low, prime) for low in product(range(prime), repeat=degree))
    return next(powers for powers in candidates if len(powers) == order - 1)


def _prime_powers_of(generator: int, prime: int) -> tuple[int, ...]:
    powers = [1]
    while (following := powers[-1] * generator % prime) != 1:
        powers.append(following)
    return tuple(powers)


def _powers_of_x(low: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Return 1, x, x², … until they repeat or vanish, modulo x^e + Σ low[i]·x^i."""
    digits = (1, *(0 for _ in low[1:]))
    seen: dict[tuple[int, ...], None] = {}
    while digits not in seen and any(digits):
        seen[digits] = None
        shifted, carry = (0, *digits[:-1]), digits[-1]
        digits = tuple((digit - carry * coefficient) % prime for digit, coefficient in zip(shifted, low, strict=True))
    return tuple(sum(digit * prime**place for place, digit in enumerate(each)) for each in seen)
