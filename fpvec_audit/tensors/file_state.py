"""Whether files may have changed since they were read: inode, size and times, as a build tool remembers them.

The time of the last change of an inode (ctime) is the system's own; no program sets it. Files with the same inode,
size and times as when they were digested have the same bytes, short of somebody who writes to the disk past the file
system or turns the clock back – against whom one reads again.

A change within the clock's resolution would go unseen, so a state counts only if it is older than that when it is
taken.
"""

import time
from dataclasses import dataclass

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.checkpoint import Checkpoint
from fpvec_audit.errors import CheckpointError

SETTLED_SECONDS = 2.0
"""Age of the last change from which on a state counts; coarse clocks of file systems included."""
OWN_SETTLED_SECONDS = 0.1
"""The same for files that this process has written and synced itself, and nobody else knew of until then."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The tensor files of a directory as they are.

    Attributes:
        digest: SHA-256 over machine, inodes, sizes and times, and what the files were taken for.
        settled: whether the last change is long enough ago.
    """

    digest: str
    settled: bool


def file_state(checkpoint: Checkpoint, *, machine: str, taken_for: str, own: bool = False) -> FileState:
    """Return the state of the tensor files of a checkpoint or vector, and of its configuration.

    Args:
        checkpoint: what was read of it.
        machine: whose disks the inodes are of.
        taken_for: what else decides the digest of the same bytes: the adapter's name.
        own: whether this process wrote them just now.

    Raises:
        CheckpointError: a file is gone.
    """
    found, newest = [], 0
    for name in (*checkpoint.files, "config.json"):
        try:
            status = (checkpoint.path / name).stat()
        except OSError as error:
            if name in checkpoint.files:
                raise CheckpointError(f"{checkpoint.path / name}: {error.strerror}", advice="fetch it again") from error
            continue
        found.append([name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    settled = time.time_ns() - newest >= (OWN_SETTLED_SECONDS if own else SETTLED_SECONDS) * 1e9
    return FileState(canonical_digest({"machine": machine, "taken_for": taken_for, "files": found}), settled)
