"""Decimal text: how exact numbers are written in plans and evidence.

Guarded here: what is accepted from a user is what whoever verifies a bundle accepts. ``1/1000`` or a number with three
thousand digits in its exponent would be refused there, when it is too late to change.
"""

import re
from fractions import Fraction

_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?", re.ASCII)


def is_decimal(text: str) -> bool:
    """Return whether a text is a decimal number whose exact value is small enough to be computed with."""
    return _DECIMAL.fullmatch(text) is not None


def decimal_number(text: str) -> Fraction:
    """Return the exact value of decimal text.

    Raises:
        ValueError: it is none.
    """
    if not is_decimal(text):
        raise ValueError(f"{text!r} is not a decimal number")
    return Fraction(text)
