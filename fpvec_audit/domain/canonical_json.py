"""The one byte representation of a JSON value, so that digests mean the same everywhere.

Keys sorted by code point, no white space, UTF-8 without escapes. Floats are refused: two writers could print them
differently; numbers that matter are integers or strings.
"""

import hashlib
import json
from typing import Any

_HARMLESS = frozenset({str, int, bool, type(None)})
"""What most values are: not looked at more closely, which takes two thirds of the time off a long document."""


def canonical_bytes(value: Any) -> bytes:
    """Return the canonical UTF-8 bytes of a JSON value without floats.

    Raises:
        TypeError: the value holds a float or something JSON cannot say.
        UnicodeEncodeError: a text holds half a surrogate pair, as paths that are not UTF-8 do.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def canonical_digest(value: Any) -> str:
    """Return the lower-case hexadecimal SHA-256 of a value's canonical bytes."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"canonical JSON holds no floats, found {value!r}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON keys are strings, found {key!r}")
            if type(item) not in _HARMLESS:
                _refuse_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if type(item) not in _HARMLESS:
                _refuse_floats(item)
