"""Where plugins are announced: entry points of the installed distributions, and who owns each.

The part of the catalog that reads what strangers' packages say of themselves. One distribution whose metadata cannot be
read fails the standard library's look-up for all; here it fails for itself.
"""

import functools
import re
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points

UNKNOWN = "unknown"


def announced_plugins(group: str) -> tuple[Sequence[EntryPoint], Sequence[tuple[str, str]]]:
    """Return the entry points of a group, and (distribution, problem) of those that cannot be read.

    Args:
        group: name of the entry-point group.
    """
    try:
        return tuple(entry_points(group=group)), ()
    except Exception:  # noqa: BLE001 - a stranger's file, whose fault is found below, distribution by distribution
        return _one_by_one(group)


def _one_by_one(group: str) -> tuple[Sequence[EntryPoint], Sequence[tuple[str, str]]]:
    found: list[EntryPoint] = []
    unreadable: list[tuple[str, str]] = []
    seen: set[str] = set()
    for distribution in distributions():
        name, _ = name_and_version(distribution)
        normal = re.sub(r"[-_.]+", "-", name).lower()
        if normal in seen:  # the first on the path is the one that is imported
            continue
        seen.add(normal)
        try:
            found.extend(distribution.entry_points.select(group=group))
        except Exception as error:  # noqa: BLE001 - whatever a stranger's file does to the reader
            if f"[{group}]" in (distribution.read_text("entry_points.txt") or ""):
                unreadable.append((name, f"its entry_points.txt cannot be read: {type(error).__name__}: {error}"))
    return found, unreadable


def owner(point: EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution that an entry point belongs to; "unknown" where it does not say."""
    distribution = getattr(point, "dist", None)
    return (UNKNOWN, "") if distribution is None else name_and_version(distribution)


@functools.cache  # by identity; each look at a distribution's name reads and parses its metadata anew
def name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return name and version of a distribution; "unknown" and nothing where its metadata does not say."""
    try:
        metadata = distribution.metadata
        return str(metadata["Name"] or UNKNOWN), str(metadata["Version"] or "")
    except Exception:  # noqa: BLE001 - metadata that is missing or cannot be decoded
        return UNKNOWN, ""
