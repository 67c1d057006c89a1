"""The command that acts, as a job records it: without secrets, and without what says which registry.

Options of the registry are left out, so that no database password is ever recorded; who resumes a job has found it in
its registry already. What is left and looks like an address keeps neither a password nor the values of its query.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_PLACES = ("--home", "--registry")
_PASSWORD = re.compile(r"(?P<before>\w[\w+.-]*://[^\s/?#@]*:)[^\s/?#]*(?=@)")
_USER = re.compile(r"(?P<before>\w[\w+.-]*://)[^\s/?#@:]+(?=@)")
_QUERY = re.compile(r"(?P<before>\w[\w+.-]*://[^\s?#]*\?)[^\s#]+")
_COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())


@contextmanager
def acting(arguments: Sequence[str]) -> Iterator[None]:
    """Let a command act: :func:`recorded_command` tells of it meanwhile."""
    token = _COMMAND.set(recordable(arguments))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def recorded_command() -> tuple[str, ...]:
    """Return the arguments of the command that acts, fit to be recorded; empty where none does."""
    return _COMMAND.get()


def recordable(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return arguments without secrets, and without those that say which registry.

    Args:
        arguments: what stood behind ``fpvec``.
    """
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument in _PLACES:
            skip = not skip and argument in _PLACES
        elif not argument.startswith(tuple(f"{place}=" for place in _PLACES)):
            kept.append(_without_secrets(argument))
    return tuple(kept)


def _without_secrets(argument: str) -> str:
    from fpvec_audit.services.jobs import REDACTED

    if "://" not in argument:
        return argument
    for pattern in (_PASSWORD, _USER, _QUERY):
        argument = pattern.sub(rf"\g<before>{REDACTED}", argument)
    return argument
