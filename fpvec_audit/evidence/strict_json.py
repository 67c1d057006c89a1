"""JSON that can be written in one way only, and values that are what they are said to be.

Evidence is read by somebody who does not trust who wrote it. Two readings of one file, or two files with one meaning,
would be room to argue; so a document is refused unless its bytes are the canonical bytes of its value, and every
value is taken out through an accessor that names its path when it is of another type, too long, missing or unknown.

Round-trip law: ``canonical_bytes(parse_canonical(content)) == content`` for every content that is accepted.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.errors import EvidenceError

MOST_BYTES = 64 * 2**20
"""Largest document that is looked at; a bundle of 1,024 candidates has about two million bytes."""
MOST_DEPTH = 32
MOST_INTEGER = 2**63 - 1
MOST_TEXT = 2**20
"""Longest text taken out of a document, in characters, unless an accessor says otherwise."""

_HEX = re.compile(r"[0-9a-f]*", re.ASCII)
_INTEGER_DIGITS = 19


def parse_canonical(content: bytes, *, name: str = "the document", most_bytes: int = MOST_BYTES) -> Any:
    """Return the JSON value of canonical bytes.

    Args:
        content: what was read.
        name: what it is, for messages.
        most_bytes: larger ones are refused before they are parsed.

    Raises:
        EvidenceError: too large, no JSON, a key twice, a float, nested too deeply, or not the canonical bytes.
    """
    if len(content) > most_bytes:
        raise EvidenceError(f"{name} has {len(content)} bytes, more than the {most_bytes} that are looked at")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_integer,
        )
    except EvidenceError as error:
        raise EvidenceError(f"{name}: {error.problem}") from None
    except RecursionError:
        raise EvidenceError(f"{name} is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:
        raise EvidenceError(f"{name} is no JSON: {_brief(error)}") from None
    _refuse_depth(value, name)
    try:
        canonical = canonical_bytes(value)
    except UnicodeEncodeError:
        raise EvidenceError(f"{name} holds half a surrogate pair, which is no text") from None
    if canonical != content:
        place = next(
            (at for at, (read, wanted) in enumerate(zip(content, canonical, strict=False)) if read != wanted),
            min(len(content), len(canonical)),
        )
        raise EvidenceError(
            f"{name} is not canonical JSON from byte {place} on",
            advice="keys are sorted, without white space or needless escapes, and nothing follows the last bracket",
        )
    return value


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value and where it stands; accessors return what was asked for or refuse with the path.

    Attributes:
        content: the value.
        path: where it stands ("payload.plan.alpha").
    """

    content: Any
    path: str

    def refusal(self, problem: str) -> EvidenceError:
        """Return the error that says what is wrong with this value."""
        return EvidenceError(f"{self.path} {problem}")

    def members(self, *names: str) -> tuple["Value", ...]:
        """Return the members of an object that has exactly these, in the order named."""
        found = self.object()
        if unknown := sorted(set(found) - set(names)):
            raise self.refusal(f"has a member nobody knows: {_shown(unknown[0])}")
        if missing := [name for name in names if name not in found]:
            raise self.refusal(f"lacks {missing[0]}")
        return tuple(Value(found[name], f"{self.path}.{name}") for name in names)

    def object(self) -> dict[str, Any]:
        """Return an object with whatever members."""
        if not isinstance(self.content, dict):
            raise self.refusal(f"is {_kind(self.content)}, not an object")
        return self.content

    def items(self, *, most: int) -> Iterator["Value"]:
        """Yield the items of an array that has at most ``most``."""
        if not isinstance(self.content, list):
            raise self.refusal(f"is {_kind(self.content)}, not an array")
        if len(self.content) > most:
            raise self.refusal(f"has {len(self.content)} items, more than {most}")
        return (Value(item, f"{self.path}[{place}]") for place, item in enumerate(self.content))

    def text(self, *, most: int = MOST_TEXT) -> str:
        """Return a text of at most ``most`` characters."""
        if not isinstance(self.content, str):
            raise self.refusal(f"is {_kind(self.content)}, not text")
        if len(self.content) > most:
            raise self.refusal(f"has {len(self.content)} characters, more than {most}")
        return self.content

    def texts(self) -> dict[str, str]:
        """Return an object all of whose members are texts."""
        return {name: Value(item, f"{self.path}.{_shown(name)}").text() for name, item in self.object().items()}

    def choice(self, *allowed: str) -> str:
        """Return a text that is one of those allowed."""
        found = self.text()
        if found not in allowed:
            raise self.refusal(f"is {_shown(found)}, not {' or '.join(allowed)}")
        return found

    def integer(self, least: int = 0, most: int = MOST_INTEGER) -> int:
        """Return an integer in [least, most]; true and false are none."""
        if not isinstance(self.content, int) or isinstance(self.content, bool):
            raise self.refusal(f"is {_kind(self.content)}, not an integer")
        if not least <= self.content <= most:
            raise self.refusal(f"is {self.content}, not in [{least}, {most}]")
        return self.content

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.content, bool):
            raise self.refusal(f"is {_kind(self.content)}, not true or false")
        return self.content

    def hexadecimal(self, size: int | None = 32) -> str:
        """Return lower-case hexadecimal text of ``size`` bytes; None for any whole number of bytes."""
        found = self.text()
        if not _HEX.fullmatch(found) or len(found) % 2 or (size is not None and len(found) != 2 * size):
            wanted = "" if size is None else f" of {2 * size} digits"
            raise self.refusal(f"is {_shown(found)}, not lower-case hexadecimal{wanted}")
        return found

    def optional(self) -> "Value | None":
        """Return None for null, else this value."""
        return None if self.content is None else self


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise EvidenceError(f"the member {_shown(twice)} stands twice in one object")
    return members


def _refuse_number(text: str) -> Any:
    raise EvidenceError(f"the number {_shown(text)} is no integer")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _INTEGER_DIGITS or abs(int(text)) > MOST_INTEGER:
        raise EvidenceError(f"the integer {_shown(text)} is too large")
    return int(text)


def _refuse_depth(value: Any, name: str) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for found in level
            if isinstance(found, (dict, list))
            for item in (found.values() if isinstance(found, dict) else found)
        ]
        if not level:
            return
    raise EvidenceError(f"{name} is nested more than {MOST_DEPTH} deep")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "an integer", str: "text", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")


def _brief(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:100]
