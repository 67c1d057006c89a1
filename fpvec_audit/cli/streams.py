"""What becomes of a process whose standard streams are closed, full, or read by nobody.

Results go to stdout, and a result that cannot be written is a failure like any other. A reader who went away (``fpvec …
| head``) is none: but libraries below end the process with code 1 then, which is a verdict here, so they must not see
it. Whatever befalls stderr changes neither what is done nor the exit code. The streams are replaced, once, because
they are written to from many places.
"""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fpvec_audit.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2


class ReaderGoneError(Exception):
    """Nobody reads stdout any more. No ``OSError``, for which libraries have answers of their own."""


class _Output(io.FileIO):
    """Stdout, which says in a sentence why it cannot be written."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            raise OutputError(
                f"stdout cannot be written: {error.strerror}", advice="make room, or send it somewhere else"
            ) from error


class _Errors(io.FileIO):
    """Stderr, where what nobody can read is dropped."""

    def write(self, content: "ReadableBuffer", /) -> int:
        with suppress(OSError):
            return super().write(content)
        return memoryview(content).nbytes


def guard_streams() -> None:
    """Replace the standard streams of this process by ones that say plainly what befalls them.

    Raises:
        OutputError: stdout is closed.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        _hold(descriptor)
    nothing = Path(os.devnull)
    if sys.stdin is None:
        sys.stdin = nothing.open(encoding="utf-8")
    sys.stderr = (
        nothing.open("w", encoding="utf-8")
        if sys.stderr is None
        else _guarded(sys.stderr, _Errors(STDERR, "w", closefd=False))
    )
    if sys.stdout is None:
        raise OutputError("stdout is closed", advice="send it to a file, or to /dev/null")
    sys.stdout = _guarded(sys.stdout, _Output(STDOUT, "w", closefd=False))


def settle_streams() -> None:
    """Write what is left in the standard streams; what cannot be written is dropped, so that nothing fails later."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed, which has been said
            continue
        try:
            stream.flush()
        except (OSError, ValueError, OutputError, ReaderGoneError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _hold(descriptor: int) -> None:
    """Take a descriptor that is closed, or the next file would: a library's remarks would end up in the registry."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened == descriptor:
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - children have standard streams, too
        else:
            os.dup2(opened, descriptor)
            os.close(opened)


def _guarded(stream: TextIO, raw: io.FileIO) -> TextIO:
    """Return a stream of texts that is like another, over guarded bytes."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False),
    )
