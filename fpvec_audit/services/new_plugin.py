"""A plugin to start from: a package of its own that installs, is found and passes its own tests as it is made.

The files are plain text with ``$names`` in ``plugin_templates``; what is written works before a line of it is changed.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from fpvec_audit.domain.plugins import ARCHITECTURE, ATTACK, PluginInfo
from fpvec_audit.errors import UnknownNameError, UsageError
from fpvec_audit.tensors.staging import staged_directory

WEIGHTS, ANSWERS = "weights", "answers"
KINDS = (ATTACK, ARCHITECTURE)
ATTACKED = (WEIGHTS, ANSWERS)
"""What an attack works on."""
LONGEST_NAME = 40
RESERVED = ("audit", "plugins")
"""Names whose package would be one of our own: ``fpvec_audit``, ``fpvec_plugins``."""


@dataclass(frozen=True, slots=True)
class NewPlugin:
    """A plugin package that was written.

    Attributes:
        name: of the entry point, and of what it gives.
        kind: ``attack`` or ``architecture``.
        on: what an attack works on, ``weights`` or ``answers``; empty for an architecture.
        directory: where it lies.
        distribution: name under which pip knows it.
        package: name under which Python imports it.
        files: what was written, relative to the directory.
    """

    name: str
    kind: str
    on: str
    directory: str
    distribution: str
    package: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {**asdict(self), "files": list(self.files)}


def create_plugin(
    name: str,
    *,
    kind: str,
    on: str | None = None,
    out: Path | None = None,
    existing: Iterable[PluginInfo] = (),
) -> NewPlugin:
    """Write a complete, installable plugin package, whole or not at all.

    Args:
        name: lower-case identifier of ASCII letters, digits and single underscores.
        kind: ``attack`` or ``architecture``.
        on: what an attack works on, ``weights`` (the default) or ``answers``.
        out: directory to make; ``fpvec-NAME`` in the current one by default.
        existing: plugins that are installed, whose names are taken.

    Raises:
        UsageError: an unknown kind, a name that cannot be used or is taken, or ``on`` for an architecture.
        OutputError: the directory exists, or cannot be written.
    """
    _require_kind(kind, on)
    _require_name(name)
    package, distribution = f"fpvec_{name}", f"fpvec-{name.replace('_', '-')}"
    _require_free(name, kind, distribution, existing)
    on = (on or WEIGHTS) if kind == ATTACK else ""
    words = {
        "name": name,
        "package": package,
        "distribution": distribution,
        "module": kind,
        "summary": f"The {kind} {name}" if kind == ATTACK else f"The architecture {name}",
    }
    texts = {path: Template(_template(source)).substitute(words) for path, source in _layout(package, kind, on).items()}
    directory = Path(f"./{distribution}") if out is None else out
    _write(directory, texts)
    return NewPlugin(name, kind, on, str(directory), distribution, package, tuple(sorted(texts)))


def _layout(package: str, kind: str, on: str) -> Mapping[str, str]:
    """Return file of the package → template."""
    return {
        "pyproject.toml": "pyproject.toml",
        "README.md": f"README_{kind}.md",
        f"{package}/__init__.py": "package.py",
        f"{package}/{kind}.py": f"{on or kind}.py",
        f"tests/test_{kind}.py": f"test_{on or kind}.py",
    }


def _template(name: str) -> str:
    place = files("fpvec_audit.services") / "plugin_templates" / f"{name}.txt"
    return place.read_text(encoding="utf-8")


def _write(directory: Path, texts: Mapping[str, str]) -> None:
    contents = {path: text.encode() for path, text in texts.items()}
    with staged_directory(directory, sum(map(len, contents.values()))) as staging:
        for path, content in contents.items():
            (staging / path).parent.mkdir(exist_ok=True)
            (staging / path).write_bytes(content)


def _require_kind(kind: str, on: str | None) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind of plugin", kind, KINDS)
    if on is not None and kind != ATTACK:
        raise UsageError(f"--on {on} is for attacks, and --kind is {kind}", advice="leave --on out")
    if on is not None and on not in ATTACKED:
        raise UnknownNameError("thing to attack", on, ATTACKED)


def _require_name(name: str) -> None:
    fits = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) is not None and len(name) <= LONGEST_NAME
    if fits and name not in RESERVED:
        return
    if fits:
        raise UsageError(f"the package of plugin {name!r} would be our own fpvec_{name}", advice="choose another name")
    meant = _suggestion(name)
    rule = f"use a to z, 0 to 9 and single _, a letter first, at most {LONGEST_NAME} characters"
    raise UsageError(
        f"{name!r} cannot be the name of a plugin", advice=f"did you mean {meant}? ({rule})" if meant else rule
    )


def _suggestion(name: str) -> str:
    """Return the nearest name that can be used; empty where there is none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
    joined = re.sub(r"[^a-z0-9]+", "_", parted).lstrip("_0123456789")
    return joined[:LONGEST_NAME].rstrip("_")


def _require_free(name: str, kind: str, distribution: str, existing: Iterable[PluginInfo]) -> None:
    for plugin in existing:
        if (plugin.kind, plugin.name) == (kind, name):
            raise UsageError(
                f"{kind} {name!r} is given by {plugin.owner} already, and of two with one name neither is used",
                advice="choose another name (`fpvec plugin list` shows those that are taken)",
            )
        if re.sub(r"[-_.]+", "-", plugin.distribution).lower() == distribution:
            raise UsageError(
                f"{distribution} is installed already, and gives {plugin.kind} {plugin.name!r}",
                advice=f"choose another name, or uninstall {plugin.distribution}",
            )
