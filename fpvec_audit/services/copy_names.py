"""What the directories of stamped copies are called that lie beside each other.

Guarded here: a name that every file system takes, and never one name for two long names of licensees.
"""

import hashlib
import re
from pathlib import Path

LONGEST_NAME = 231
"""Bytes: file systems take 255, and what a copy is called while it is written has 24 more (``tensors/staging``)."""


def copy_name(source: Path, licensee: str) -> str:
    """Return what a copy is called beside others: its downstream's name, with whom it is for.

    Args:
        source: directory of the downstream model or adapter.
        licensee: for whom, empty for nobody in particular.
    """
    name = source.resolve().name
    if not licensee:
        return name
    whole = f"{name}-{_file_name(licensee)}"
    if len(_bytes(whole)) <= LONGEST_NAME:
        return whole
    # What is cut off may be all that tells two licensees apart, so a digest of both whole names takes its place.
    ending = f"-{hashlib.sha256(_bytes(f'{name}/{licensee}')).hexdigest()[:16]}"
    return _bytes(whole)[: LONGEST_NAME - len(ending)].decode("utf-8", "ignore") + ending


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # a directory's name need not be Unicode


def _file_name(licensee: str) -> str:
    return re.sub(r"[^\w.-]+", "-", licensee).strip("-.") or "licensee"
