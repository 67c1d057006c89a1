"""One JSON value a line over a socket: how this process and an engine's process talk.

Nothing is pickled, so neither side can be made to run what the other sends. The end of the stream is the only sign of
death that is needed: the kernel closes a socket however its process ends.
"""

import array
import json
import socket
from collections.abc import Sequence
from typing import Any

_PIECE = 1 << 16


class Channel:
    """A connected stream socket that carries JSON values, and file descriptors where asked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._connection.fileno()

    @property
    def waiting(self) -> bool:
        """Whether a value has arrived already, so that receiving it waits for nothing."""
        return b"\n" in self._buffer

    def send(self, value: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a value; with descriptors, copies of them arrive on the other side.

        Raises:
            OSError: the other side is gone.
        """
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            sent = self._connection.sendmsg([line], ancillary)
            line = line[sent:]
        self._connection.sendall(line)

    def receive(self) -> Any:
        """Return the next value, None at the end of the stream."""
        return self.receive_with_descriptors()[0]

    def receive_with_descriptors(self) -> tuple[Any, list[int]]:
        """Return the next value (None at the end of the stream) and the descriptors that came with it."""
        received: list[int] = []
        while b"\n" not in self._buffer:
            try:
                piece, descriptors, _, _ = socket.recv_fds(self._connection, _PIECE, 4)
            except ConnectionResetError:
                piece, descriptors = b"", []
            received += descriptors
            if not piece:
                return None, received
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line), received

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
