"""Plans as TOML files: the presets that are shipped, and the user's own.

Everything is named: a table or a setting that does not exist is refused with its place and the nearest name that does,
and so is a value of the wrong kind. ``{data}`` in any text stands for the directory that ``data`` at the top names;
it and all other relative paths are relative to the working directory.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fpvec_audit.errors import FpvecError, SettingsError, UnknownNameError
from fpvec_audit.reproduction.plan import Plan

PRESETS = ("tiny", "paper")
DATA = "data"
"""Top-level setting that ``{data}`` stands for, and its default."""


def preset_text(name: str) -> str:
    """Return the TOML of a preset, to be copied and changed.

    Raises:
        UnknownNameError: there is no such preset.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return files("fpvec_audit.reproduction").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def preset_plan(name: str, *, data: Path | None = None) -> Plan:
    """Return the plan of a preset.

    Args:
        name: one of :data:`PRESETS`.
        data: directory that ``{data}`` stands for; what the preset says when None.

    Raises:
        UnknownNameError: there is no such preset.
    """
    return parse_plan(preset_text(name), where=f"preset {name}", data=data)


def read_plan(path: Path, *, data: Path | None = None) -> Plan:
    """Return the plan of a file.

    Raises:
        SettingsError: it cannot be read, is no TOML, or names something that does not exist.
        UsageError: a value that cannot be meant.
    """
    return parse_plan(plan_text(path), where=str(path), data=data)


def plan_text(path: Path) -> str:
    """Return the text of a plan's file.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{path} cannot be read: {reason}", advice="`fpvec reproduce --show-config` prints a plan to begin with"
        ) from error


def parse_plan(text: str, *, where: str, data: Path | None = None) -> Plan:
    """Return the plan that a TOML text describes.

    Args:
        text: TOML.
        where: what to call it in messages.
        data: directory that ``{data}`` stands for, instead of the plan's own.

    Raises:
        SettingsError: it is no TOML, or names something that does not exist.
        UsageError: a value that cannot be meant.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where} is not valid TOML: {error}") from error
    named = values.pop(DATA, DATA)
    if not isinstance(named, str):
        raise SettingsError(f"{where}: data is {named!r}", advice="write a directory in quotes")
    place = (data or Path(named)).expanduser().absolute()
    made = _built(Plan, _filled(values, str(place)), where, extra=(DATA,))
    assert isinstance(made, Plan)
    return made


def _filled(value: Any, data: str) -> Any:
    """Return TOML values with ``{data}`` filled in wherever it stands."""
    if isinstance(value, str):
        return value.replace("{data}", data)
    if isinstance(value, list):
        return [_filled(item, data) for item in value]
    return {name: _filled(item, data) for name, item in value.items()} if isinstance(value, dict) else value


def _built(kind: type, values: Mapping[str, Any], where: str, *, extra: tuple[str, ...] = ()) -> Any:
    """Return an instance of a dataclass from a TOML table."""
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for name in values:
        if name not in known:
            problem = UnknownNameError("setting", name, (*known, *extra))
            raise SettingsError(f"{where}: {problem.problem}", advice=problem.advice)
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise SettingsError(f"{where}: {name} is missing", advice=f"add {name} = …")
    given = {name: _value(hints[name], value, _place(where, name)) for name, value in values.items()}
    try:
        return kind(**given)
    except FpvecError as error:
        raise SettingsError(f"{where}: {error.problem}", advice=error.advice) from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return a TOML value as the type of a field."""
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise SettingsError(f"{where} is {value!r}", advice=f"write it as a table, [{where.split(': ')[-1]}]")
        return _built(kind, value, where)  # type: ignore[arg-type]
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{where} is {value!r}", advice="write it as a list, […]")
        return tuple(_value(get_args(kind)[0], item, f"{where}[{place}]") for place, item in enumerate(value, start=1))
    if origin is not None:  # a table of single settings
        if not isinstance(value, dict) or not all(isinstance(item, (str, int, float)) for item in value.values()):
            raise SettingsError(f"{where} is {value!r}", advice="write it as a table of numbers and texts")
        return dict(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise SettingsError(f"{where} is {value!r}", advice=f"give {_WORDS[kind]}")
    return value


_WORDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def _place(where: str, name: str) -> str:
    return f"{where}.{name}" if ": " in where else f"{where}: {name}"
