"""What stages gave, as one JSON file each: whole or not there, and taken only for what it was made from.

A result stands under the digest of everything that decided it – settings, and the identities of what it was made of. So
a run that was killed goes on where it stopped, and a changed setting repeats what depends on it and nothing else.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from fpvec_audit.errors import OutputError

SCHEMA = 1
STAGES, MODELS, LOCK = "stages", "models", ".lock"
_KEY_DIGITS = 16
KEYED = re.compile(rf"[0-9a-f]{{{_KEY_DIGITS}}}")
"""Names of the directories that stages write to."""


class StageState(StrEnum):
    """How a stage ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Something that it needs is not there."""
    MISSING = "missing"
    """It was not carried out yet."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one stage ended.

    Attributes:
        name: of the stage.
        key: digest of what decided it, hex; empty where that is not known.
        state: how it ended.
        identity: what it made, for the stages that need it: a model's digest, a key set's id.
        content: what was measured, as JSON values.
        problem: why there is nothing.
        seconds: wall time.
        reused: whether it was taken from an earlier run.
    """

    name: str
    key: str
    state: StageState
    identity: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    seconds: float = 0.0
    reused: bool = False

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.state is StageState.DONE

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {**asdict(self), "state": self.state.value, "content": dict(self.content)}


class StageStore:
    """The directory of a reproduction.

    Args:
        directory: made when it is first written to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, name: str) -> StageResult | None:
        """Return the last result of a stage; None where there is none that can be read."""
        try:
            document = json.loads(self._file(name).read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                return None
            return StageResult(
                name=document["name"],
                key=document["key"],
                state=StageState(document["state"]),
                identity=document["identity"],
                content=document["content"],
                problem=document["problem"],
                seconds=document["seconds"],
                reused=True,
            )
        except (OSError, ValueError, KeyError, TypeError):  # not there, or of another version: the stage is repeated
            return None

    def keep(self, result: StageResult) -> None:
        """Write a result; readers see the old one or the new one, never a part.

        Raises:
            OutputError: it cannot be written.
        """
        document = {"schema": SCHEMA, **result.to_json()}
        document.pop("reused")
        write_whole(self._file(result.name), json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def place(self, name: str, key: str) -> Path:
        """Return the directory for what a stage makes; its name changes with what decides it."""
        return self.directory / MODELS / name / key[:_KEY_DIGITS]

    @contextmanager
    def alone(self, base: str) -> Iterator[None]:
        """Refuse to work on a base that another process works on; the lock goes with the process.

        Raises:
            OutputError: another process does, or the directory cannot be written.
        """
        place = self.directory / STAGES / base
        try:
            place.mkdir(parents=True, exist_ok=True)
            lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(place, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise OutputError(
                f"another process works on {base} in {self.directory}", advice="wait for it, or name another --dir"
            ) from error
        finally:
            os.close(lock)

    def _file(self, name: str) -> Path:
        return self.directory / STAGES / f"{name}.json"


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is whole or what it was before, after a power cut too.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror}", advice="free disk space, or name another --dir")
