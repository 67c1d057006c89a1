"""What an item of a run may say, by action: the options of the single command that differ from model to model.

A field stands in a manifest's line or, for all lines that do not say otherwise, in an option of ``fpvec fleet``. All of
it is public: ids, paths and parameters. What belongs to one model is an item; its key is a digest of what is done to
what.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fpvec_audit.domain.addresses import without_secrets
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.fleet import FleetAction
from fpvec_audit.errors import UnknownNameError, UsageError
from fpvec_audit.storage.addresses import is_url, read_address

IDENTITY = "digest"
"""Field of an item from the registry: canonical digest of the model, by which it is known wherever it lies."""
INTO = "into"
"""Option of a stamp: directory of all copies that do not say where they are to lie."""


class Kind(StrEnum):
    """How the value of a field is written."""

    TEXT = "text"
    """As it stands."""
    PLACE = "place"
    """A directory or file, relative to the manifest's; an address as it stands."""
    SUSPECT = "suspect"
    """Likewise; what lies nowhere and looks like a hub's id is one."""
    LIST = "list"
    """Several, in CSV between semicolons."""
    VECTORS = "vectors"
    """Several likewise: ids, addresses, or directories, which are relative as places are; each with its scale."""
    COUNT = "count"
    """A whole number."""
    SHARE = "share"
    """A number, kept as text."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What items of one action may say.

    Attributes:
        subject: the field that names the model; every item has it.
        kinds: field → how it is written.
        one_of: of these fields one at least must be there.
    """

    subject: str
    kinds: Mapping[str, Kind]
    one_of: tuple[str, ...]


_ASKED = {
    "profile": Kind.TEXT,
    "match": Kind.TEXT,
    "alpha": Kind.SHARE,
    "repeats": Kind.COUNT,
    "tests": Kind.LIST,
    "system_prompt": Kind.PLACE,
    "backend": Kind.TEXT,
    "model": Kind.TEXT,
    "endpoint": Kind.TEXT,
    "concurrency": Kind.COUNT,
    "max_requests": Kind.COUNT,
    "architecture": Kind.TEXT,
    "device": Kind.TEXT,
}
FIELDS: Mapping[FleetAction, Fields] = {
    FleetAction.STAMP: Fields(
        "downstream",
        {
            "downstream": Kind.PLACE,
            "out": Kind.PLACE,
            "vector": Kind.VECTORS,
            "family": Kind.TEXT,
            "licensee": Kind.TEXT,
            "base": Kind.PLACE,
            "vocabulary": Kind.TEXT,
            "skip": Kind.LIST,
            "adapter": Kind.TEXT,
            "carrier": Kind.SHARE,
            "architecture": Kind.TEXT,
        },
        ("vector", "family"),
    ),
    FleetAction.AUDIT: Fields("suspect", {"suspect": Kind.SUSPECT, "key": Kind.TEXT, **_ASKED}, ("key",)),
    FleetAction.TRACE: Fields(
        "suspect", {"suspect": Kind.SUSPECT, "keys": Kind.LIST, "family": Kind.LIST, **_ASKED}, ()
    ),
    FleetAction.ATTACK: Fields(
        "stamped",
        {
            "stamped": Kind.PLACE,
            "key": Kind.TEXT,
            "suite": Kind.TEXT,
            "attack": Kind.LIST,
            "seed": Kind.COUNT,
            "time_limit": Kind.SHARE,
            "backend": Kind.TEXT,
            "architecture": Kind.TEXT,
            "device": Kind.TEXT,
        },
        ("key",),
    ),
}


def read_fields(action: FleetAction, raw: Mapping[str, Any], *, directory: Path) -> dict[str, Any]:
    """Return the fields of an item as they are recorded: checked, places whole, what is empty left out.

    Args:
        action: what is done.
        raw: as it stands in the manifest.
        directory: what places are relative to.

    Raises:
        UsageError: a field that is unknown or cannot be meant, or an address with a secret in it.
    """
    fields = FIELDS[action]
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if value is None or value in ("", []):
            continue
        if name not in fields.kinds:
            raise UnknownNameError(f"field of a {action.value}", str(name), fields.kinds)
        found[name] = _READERS[fields.kinds[name]](name, value, directory)
    return found


def complete(action: FleetAction, options: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that holds for an item: what it says itself, and for the rest the options of the run.

    Raises:
        UsageError: something is missing, or cannot be meant together.
    """
    fields = FIELDS[action]
    whole = {**options, **content}
    for own, other in (("vector", "family"), ("family", "vector")):  # an item's own takes the place of the run's
        if own in content and other not in content:
            whole.pop(other, None)
    if fields.subject not in whole:
        raise UsageError(f"no {fields.subject}", advice=f"every item of a {action.value} names one")
    if fields.one_of and not any(name in whole for name in fields.one_of):
        named = " or ".join(fields.one_of)
        raise UsageError(
            f"no {named} for {whole[fields.subject]}", advice=f"name it in the manifest, or with --{fields.one_of[0]}"
        )
    _CHECKS[action](whole)
    if action is FleetAction.STAMP:
        return _with_place(whole)
    return whole


def item_key(action: FleetAction, whole: Mapping[str, Any]) -> str:
    """Return the digest of what is done to what.

    Args:
        action: what is done.
        whole: all that holds for the item, as :func:`complete` gives it.
    """
    known = {name: value for name, value in whole.items() if IDENTITY not in whole or name != FIELDS[action].subject}
    return canonical_digest({"action": action.value, **known})


def _with_place(whole: dict[str, Any]) -> dict[str, Any]:
    """Say where a copy is to lie."""
    from fpvec_audit.services.copy_names import copy_name

    into = whole.pop(INTO, None)
    if "out" not in whole:
        if into is None:
            raise UsageError(f"nothing says where the copy of {whole['downstream']} is to lie", advice="give --out DIR")
        name = copy_name(Path(whole["downstream"]), whole.get("licensee", ""))
        whole["out"] = f"{into.rstrip('/')}/{name}" if is_url(into) else str(Path(into) / name)
    return whole


def _text(name: str, value: Any, _directory: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"{name} is {value!r}", advice="write it as text")
    return str(value).strip()


def _place(name: str, value: Any, directory: Path) -> str:
    text = _text(name, value, directory)
    if "\0" in text:
        raise UsageError(f"{name} {text!a} is no path")
    if is_url(text):
        if without_secrets(text) != text:
            raise UsageError(
                f"{name} {without_secrets(text)} has a secret in it, which would be recorded",
                advice="leave it out, and give it to the workers' environment",
            )
        return text if text.startswith(("http://", "https://")) else read_address(text).url
    return str((directory / Path(text).expanduser()).absolute())


def _suspect(name: str, value: Any, directory: Path) -> str:
    from fpvec_audit.services.suspects import is_hub_id

    place, text = _place(name, value, directory), _text(name, value, directory)
    return text if is_hub_id(text) and not Path(place).exists() else place


def _list(name: str, value: Any, directory: Path) -> list[str]:
    items = value if isinstance(value, list) else _text(name, value, directory).split(";")
    return [text for text in (_text(name, item, directory) for item in items) if text]


def _vectors(name: str, value: Any, directory: Path) -> list[str]:
    from fpvec_audit.services.stored_stamps import split_scale

    found = []
    for text in _list(name, value, directory):
        place, scale = split_scale(text)
        here = directory / Path(place).expanduser()
        found.append(f"{here.absolute()}{scale}" if not is_url(place) and here.is_dir() else text)
    return found


def _count(name: str, value: Any, directory: Path) -> int:
    text = _text(name, value, directory)
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}", advice="write a whole number") from error


def _share(name: str, value: Any, directory: Path) -> str:
    text = _text(name, value, directory)
    try:
        float(text)
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}", advice="write a number") from error
    return text


_READERS: Mapping[Kind, Callable[[str, Any, Path], Any]] = {
    Kind.TEXT: _text,
    Kind.PLACE: _place,
    Kind.SUSPECT: _suspect,
    Kind.LIST: _list,
    Kind.VECTORS: _vectors,
    Kind.COUNT: _count,
    Kind.SHARE: _share,
}


def _check_stamp(whole: Mapping[str, Any]) -> None:
    from fpvec_audit.services.stamp_orders import adapter_mode, skipped_roles, vocabulary_policy

    if "vector" in whole and "family" in whole:
        raise UsageError("vector and family at once", advice="name vectors, or a family of marks and a licensee")
    vocabulary_policy(whole.get("vocabulary", "refuse"))
    skipped_roles(whole.get("skip", ()))
    adapter_mode(whole.get("adapter"))


def _check_asked(whole: Mapping[str, Any]) -> None:
    from fpvec_audit.fleet.asking import audit_settings
    from fpvec_audit.services.suspects import is_endpoint

    if is_endpoint(whole["suspect"]) and "model" not in whole:
        raise UsageError(
            f"{whole['suspect']} is an endpoint, and nothing says which of its models is meant",
            advice="name the model, so that an audit of it is found again",
        )
    audit_settings(whole, prompt="")


def _check_attack(whole: Mapping[str, Any]) -> None:
    if is_url(whole["stamped"]):
        raise UsageError(
            f"{whole['stamped']} lies elsewhere", advice="attacks keep copies of what they attack: give a directory"
        )
    if "suite" not in whole and "attack" not in whole:
        raise UsageError(f"nothing says how {whole['stamped']} is attacked", advice="give a suite, or attacks")


_CHECKS: Mapping[FleetAction, Callable[[Mapping[str, Any]], None]] = {
    FleetAction.STAMP: _check_stamp,
    FleetAction.AUDIT: _check_asked,
    FleetAction.TRACE: _check_asked,
    FleetAction.ATTACK: _check_attack,
}
