"""Files that hold one canonical JSON object, written once and read with bounds; files that only their owner reads.

How canonical JSON is parsed stands in ``strict_json``; here it meets the disk.

Round-trip law: ``read_document(path)`` gives back what ``write_document(path, document)`` wrote.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.strict_json import parse_canonical

MOST_DOCUMENT_BYTES = 1 << 20
"""Largest document that is read unless its reader expects more (1 MiB)."""

PUBLIC_MODE, PRIVATE_MODE = 0o644, 0o600


def parse_document(content: bytes, what: str = "document") -> dict[str, Any]:
    """Return the JSON object that canonical bytes stand for.

    Args:
        content: the bytes.
        what: what they are, for messages ("witness statement").

    Raises:
        EvidenceError: no JSON object, or one that would be written differently.
    """
    value = parse_canonical(content, name=f"this {what}")
    if not isinstance(value, dict):
        raise EvidenceError(f"this {what} is not a JSON object")
    return value


def checked_fields(value: Any, fields: Mapping[str, type], what: str) -> dict[str, Any]:
    """Return a JSON object that has exactly these fields with values of these types.

    Args:
        value: what was read.
        fields: name → type; a bool is no int.
        what: what it is, for messages.

    Raises:
        EvidenceError: another type, a field missing or one too many.
    """
    if not isinstance(value, dict):
        raise EvidenceError(f"this {what} is not a JSON object")
    for name in sorted(fields.keys() ^ value.keys()):
        raise EvidenceError(f"this {what} " + (f"lacks {name!r}" if name in fields else f"has an unknown {name!r}"))
    for name, kind in fields.items():
        if type(value[name]) is not kind:
            raise EvidenceError(f"{name!r} of this {what} is not {_article(kind)}")
    return value


def read_document(path: Path, what: str = "document", *, most: int = MOST_DOCUMENT_BYTES) -> dict[str, Any]:
    """Read a canonical JSON object from a file; see :func:`parse_document`.

    Raises:
        EvidenceError: the file cannot be read, is larger than ``most`` bytes or not canonical.
    """
    return parse_document(read_bytes(path, what, most=most), what)


def write_document(path: Path, document: Mapping[str, Any], what: str = "document", *, mode: int = PUBLIC_MODE) -> None:
    """Write a JSON object canonically to a new file, whole or not at all; the same file already there is fine.

    Args:
        path: the file.
        document: the object.
        what: what it is, for messages.
        mode: who may read it.

    Raises:
        EvidenceError: another file is there, or one that others can read where they must not, or it cannot be written.
    """
    content = canonical_bytes(dict(document))
    try:
        write_new(path, content, what, mode=mode)
    except EvidenceError as error:
        if not (isinstance(error.__cause__, FileExistsError) and _holds(path, content)):
            raise
        read_bytes(path, what, most=len(content), private=mode == PRIVATE_MODE)


def read_bytes(path: Path, what: str, *, most: int, private: bool = False) -> bytes:
    """Return the content of a regular file of bounded size.

    Args:
        path: the file.
        what: what it is, for messages.
        most: size in bytes from which on it is refused.
        private: whether only its owner may be able to read it.

    Raises:
        EvidenceError: missing, not a regular file, too large, or open to others where it must not be.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not keep us waiting
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise EvidenceError(f"{path} is not a regular file, so no {what}")
            if private and state.st_mode & 0o077:
                raise EvidenceError(
                    f"{path} can be read by others (mode {stat.S_IMODE(state.st_mode):04o})",
                    advice=f"run `chmod 600 {path}`, and think about who may have copied it",
                )
            content = file.read(most + 1)
    except OSError as error:
        raise EvidenceError(f"the {what} {path} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise EvidenceError(f"{path} is larger than a {what} may be ({most} bytes)")
    return content


def write_new(path: Path, content: bytes, what: str, *, mode: int = PUBLIC_MODE) -> None:
    """Write a file that does not exist yet; on any failure nothing is left behind.

    Raises:
        EvidenceError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise EvidenceError(f"{path} exists already", advice=f"name another file for the {what}") from error
    except OSError as error:
        raise EvidenceError(f"the {what} cannot be written to {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise EvidenceError(f"the {what} cannot be written to {path}: {error.strerror}") from error
        raise


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_bytes(path, "document", most=len(content)) == content
    except EvidenceError:
        return False


def _article(kind: type) -> str:
    return {str: "text", int: "an integer", list: "a list", dict: "an object"}.get(kind, kind.__name__)
