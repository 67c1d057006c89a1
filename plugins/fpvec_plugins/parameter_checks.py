"""Checks that the parameters of several plugins share; what is refused is named with its value."""

from math import isfinite
from typing import Any

from fpvec_audit.api import UsageError


def check_at_least(least: int, parameters: Any, *names: str) -> None:
    """Refuse whole numbers that are too small.

    Args:
        least: smallest value that can be meant.
        parameters: a plugin's ``Parameters``.
        names: fields to look at.

    Raises:
        UsageError: one is smaller.
    """
    for name in names:
        if getattr(parameters, name) < least:
            raise UsageError(
                f"{name} is {getattr(parameters, name)}", advice=f"give a whole number of at least {least}"
            )


def check_learning_rate(rate: float | None) -> None:
    """Refuse a rate at which nobody trains; None stands for the usual one.

    Raises:
        UsageError: not above 0, or above 1.
    """
    if rate is not None and not (isfinite(rate) and 0.0 < rate <= 1.0):
        raise UsageError(f"learning_rate is {rate}", advice="give a number above 0 and at most 1")
