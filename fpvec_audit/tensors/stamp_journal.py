"""What an interrupted stamp had written already: one line per tensor, beside the files of its staging directory.

A line is appended when the bytes of a tensor were handed to the system. ``kill -9`` loses no such bytes; a power cut
may. So nothing here is believed: whoever goes on reads what was written again, digests it, and keeps only what has the
digest that its line says. The first line binds the journal to one order and to the very files it read.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.checkpoint import Checkpoint
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.tensors.digest import tensor_digests
from fpvec_audit.tensors.kernels import Sums

JOURNAL = "fpvec-progress.jsonl"
_LARGEST = 256_000_000


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A stored tensor that is written.

    Attributes:
        file: its file.
        tensor: its stored name.
        before: hexadecimal SHA-256 of what was read.
        after: hexadecimal SHA-256 of what was written.
        sums: what the addition did.
    """

    file: str
    tensor: str
    before: str
    after: str
    sums: Sums


class StampJournal:
    """The journal of one staging directory.

    Args:
        staging: the directory.
        order: what is being made, see :func:`order_digest`.
        written: what an interrupted run has written there and was found right; empty for a new directory.
        resumed: whether the directory is such a run's.
    """

    def __init__(
        self, staging: Path, order: str, written: Mapping[str, WrittenTensor] | None = None, *, resumed: bool = False
    ) -> None:
        self._path = staging / JOURNAL
        self.written = dict(written or {})
        self.resumed = resumed
        temporary = staging / f"{JOURNAL}.new"
        lines = [{"order": order}, *(asdict(item) for item in self.written.values())]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        temporary.replace(self._path)

    def add(self, tensor: WrittenTensor) -> None:
        """Take note of a tensor; one call at a time."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(tensor)) + "\n")

    def remove(self) -> None:
        """Remove the journal: what is about to be renamed into place holds nothing of ours."""
        self._path.unlink(missing_ok=True)


def order_digest(order: Mapping[str, Any], inputs: Mapping[str, Checkpoint]) -> str:
    """Return a digest of what is asked and of the very files it is read from.

    Args:
        order: scales, policies and the like, without floats.
        inputs: what is read, by a name of its part in the order.
    """
    files = {
        name: [[file, *_state(checkpoint.path / file)] for file in checkpoint.files]
        for name, checkpoint in inputs.items()
    }
    return canonical_digest({"order": dict(order), "files": files})


def reread(
    staging: Path, order: str, target: Checkpoint, *, progress: Progress = NO_PROGRESS
) -> dict[str, WrittenTensor] | None:
    """Return what an interrupted run wrote and what still is what it wrote, None if it made something else.

    Args:
        staging: its directory.
        order: what is to be made now.
        target: the model it read.
        progress: where to report.
    """
    found = _read(staging / JOURNAL, order)
    if found is None:
        return None
    specs = [
        spec
        for spec in target.tensors.values()
        if spec.name in found and found[spec.name].file == spec.file and _holds(staging / spec.file, spec.end)
    ]
    digests = tensor_digests(staging, specs, progress=progress)
    return {
        spec.name: found[spec.name]
        for spec, digest in zip(specs, digests, strict=True)
        if digest == found[spec.name].after
    }


def _read(path: Path, order: str) -> dict[str, WrittenTensor] | None:
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines or json.loads(lines[0]) != {"order": order}:
            return None
    except (OSError, ValueError):
        return None
    found = {}
    for line in lines[1:]:
        with suppress(ValueError, TypeError, KeyError):  # the last line may be half a line
            value = json.loads(line)
            item = WrittenTensor(**{**value, "sums": Sums(**value["sums"])})
            found[item.tensor] = item
    return found


def _holds(file: Path, end: int) -> bool:
    return file.is_file() and not file.is_symlink() and file.stat().st_size >= end


def _state(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
