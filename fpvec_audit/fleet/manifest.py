"""Manifests: lists of models in CSV, JSON Lines or TOML, read line by line and never held whole.

CSV names its fields in the first line. JSON Lines holds an object a line. TOML holds tables ``[[item]]``, each read by
itself, so that a long one is a stream as well. Lines are counted from 1, and a broken one is told by its number.
"""

import csv
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpvec_audit.errors import UsageError

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is no item."""
_ITEM = re.compile(r"\s*\[\[\s*item\s*\]\]\s*(#.*)?")


@dataclass(frozen=True, slots=True)
class ManifestLine:
    """One item as it stands in a manifest.

    Attributes:
        number: line where it begins.
        fields: what it says.
        problem: why it cannot be read; empty if it can.
    """

    number: int
    fields: Mapping[str, Any]
    problem: str = ""


def read_manifest(path: Path) -> Iterator[ManifestLine]:
    """Yield the items of a manifest, broken ones too.

    Raises:
        UsageError: it cannot be read, or is none of the three kinds.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} is no manifest: its name ends in {path.suffix or 'nothing'}",
            advice=f"name it by its kind: {', '.join(_READERS)}",
        )
    try:
        with path.open("rb") as file:
            yield from reader(_lines(file))
    except OSError as error:
        raise UsageError(f"the manifest {path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    problem: str = ""


def _lines(file: Any) -> Iterator[_Line]:
    number = 0
    while content := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(content) > LONGEST_LINE:
            yield _Line(number, "", f"it is longer than {LONGEST_LINE} bytes")
            while content and not content.endswith(b"\n"):
                content = file.readline(LONGEST_LINE)
            continue
        try:
            yield _Line(number, content.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield _Line(number, "", f"it is no UTF-8: {error.reason} at byte {error.start}")


def _json_lines(lines: Iterator[_Line]) -> Iterator[ManifestLine]:
    for line in lines:
        if line.problem:
            yield ManifestLine(line.number, {}, line.problem)
        elif line.text.strip():
            yield _json_item(line)


def _json_item(line: _Line) -> ManifestLine:
    try:
        value = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return ManifestLine(line.number, {}, f"it is no JSON: {error}")
    if not isinstance(value, dict):
        return ManifestLine(line.number, {}, "it is no JSON object")
    return ManifestLine(line.number, value)


def _csv(lines: Iterator[_Line]) -> Iterator[ManifestLine]:
    """Read records one by one; a quoted field may go over several lines."""
    names: list[str] | None = None
    for line in lines:
        if not line.text.strip() and not line.problem:
            continue
        record, problem = _csv_record(line, lines)
        if names is None:
            names = [name.strip() for name in record]
            if problem or not all(names) or len(set(names)) < len(names):
                raise UsageError(
                    f"line {line.number} does not name the fields: {problem or 'a name is missing or twice'}"
                )
        elif problem:
            yield ManifestLine(line.number, {}, problem)
        elif len(record) != len(names):
            yield ManifestLine(line.number, {}, f"it has {len(record)} fields, the first line names {len(names)}")
        else:
            yield ManifestLine(line.number, dict(zip(names, record, strict=True)))


def _csv_record(line: _Line, lines: Iterator[_Line]) -> tuple[list[str], str]:
    problems = [line.problem] if line.problem else []

    def texts() -> Iterator[str]:
        yield line.text
        for following in lines:
            if following.problem:
                problems.append(following.problem)
            yield following.text

    if problems:
        return [], problems[0]
    try:
        record = next(csv.reader(texts(), strict=True), [])
    except csv.Error as error:
        return [], f"it is no CSV: {error}"
    return record, problems[0] if problems else ""


def _toml(lines: Iterator[_Line]) -> Iterator[ManifestLine]:
    begun, text, problem = 0, "", ""
    for line in lines:
        if _ITEM.fullmatch(line.text.rstrip("\r\n")):
            yield from _toml_item(begun, text, problem)
            begun, text, problem = line.number, "", ""
        problem = problem or line.problem
        text += line.text
        if len(text) > LONGEST_LINE:
            problem, text = problem or f"it is longer than {LONGEST_LINE} bytes", ""
    yield from _toml_item(begun, text, problem)


def _toml_item(begun: int, text: str, problem: str) -> Iterator[ManifestLine]:
    try:
        document = {} if problem else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, document = f"it is no TOML: {error}", {}
    items = document.get("item", [])
    if problem or document.keys() - {"item"}:
        strange = ", ".join(sorted(document.keys() - {"item"}))
        yield ManifestLine(max(begun, 1), {}, problem or f"{strange} stands outside of every [[item]]")
    elif begun:
        yield ManifestLine(begun, items[0])


_READERS: Mapping[str, Callable[[Iterator[_Line]], Iterator[ManifestLine]]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".toml": _toml,
}
