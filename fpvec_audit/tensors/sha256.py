"""SHA-256 of several messages at once.

The compiled kernel takes a block of every message side by side, one in each lane of the processor's registers: on a
machine without SHA instructions that is ten times as fast as one message after the other. Elsewhere hashlib does it.

Law: a lane's digest is ``hashlib.sha256`` of everything it was given, in whatever pieces.
"""

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from typing import Protocol

from fpvec_audit.tensors import native
from fpvec_audit.tensors.blocks import Block

_CHUNK = 64
_START = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)


class DigestLanes(Protocol):
    """Messages under way, each known by the number of its lane. Not for several threads at once."""

    def begin(self, lane: int) -> None:
        """Start a new message in a lane."""
        ...

    def update(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Append blocks to messages, given as (lane, block); a lane stands in it at most once."""
        ...

    def digest(self, lanes: Sequence[int]) -> list[str]:
        """End messages and return their hexadecimal digests."""
        ...


def digest_lanes(count: int) -> DigestLanes:
    """Return the fastest lanes that this machine has.

    Args:
        count: number of messages at once.
    """
    loaded = native.library()
    if loaded is not None and native.hashes_faster(loaded):
        return CompiledLanes(loaded, count)
    return HashlibLanes(count)


class HashlibLanes:
    """One message after the other with OpenSSL."""

    def __init__(self, count: int) -> None:
        self._messages = [hashlib.sha256() for _ in range(count)]

    def begin(self, lane: int) -> None:
        """Start a new message in a lane."""
        self._messages[lane] = hashlib.sha256()

    def update(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Append blocks to messages."""
        for lane, block in blocks:
            self._messages[lane].update(block.memory)

    def digest(self, lanes: Sequence[int]) -> list[str]:
        """End messages and return their digests."""
        return [self._messages[lane].hexdigest() for lane in lanes]


class CompiledLanes:
    """Messages side by side in the compiled kernel."""

    def __init__(self, loaded: ctypes.CDLL, count: int) -> None:
        self._run = loaded.fpvec_sha256
        self._messages = [native.Message() for _ in range(count)]
        self._pending = [b""] * count
        self._length = [0] * count
        self._batch = (native.Message * count)()

    def begin(self, lane: int) -> None:
        """Start a new message in a lane."""
        self._messages[lane].state[:] = _START
        self._pending[lane] = b""
        self._length[lane] = 0

    def update(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Append blocks to messages."""
        pieces = []
        for lane, block in blocks:
            size = len(block.memory)
            self._length[lane] += size
            skipped = self._fill(lane, block.memory) if self._pending[lane] else 0
            whole = (size - skipped) // _CHUNK
            rest = skipped + whole * _CHUNK
            if rest < size:
                self._pending[lane] += bytes(block.memory[rest:])
            if whole:
                pieces.append((lane, block.address + skipped, whole))
        self._compress(pieces)

    def digest(self, lanes: Sequence[int]) -> list[str]:
        """End messages and return their digests."""
        endings = []
        for lane in lanes:
            pending = self._pending[lane]
            padded = pending + b"\x80" + bytes(-(len(pending) + 9) % _CHUNK) + struct.pack(">Q", self._length[lane] * 8)
            endings.append((lane, ctypes.create_string_buffer(padded, len(padded)), len(padded) // _CHUNK))
        self._compress([(lane, ctypes.addressof(ending), chunks) for lane, ending, chunks in endings])
        return [struct.pack(">8I", *self._messages[lane].state).hex() for lane in lanes]

    def _fill(self, lane: int, memory: memoryview) -> int:
        """Complete a begun chunk from the front of a block and return the number of bytes that took."""
        taken = min(_CHUNK - len(self._pending[lane]), len(memory))
        chunk = self._pending[lane] + bytes(memory[:taken])
        if len(chunk) < _CHUNK:
            self._pending[lane] = chunk
            return taken
        self._pending[lane] = b""
        buffer = ctypes.create_string_buffer(chunk, _CHUNK)
        self._compress([(lane, ctypes.addressof(buffer), 1)])
        return taken

    def _compress(self, pieces: Sequence[tuple[int, int, int]]) -> None:
        batch = self._batch
        for place, (lane, address, chunks) in enumerate(pieces):
            message = batch[place]
            ctypes.memmove(message.state, self._messages[lane].state, 32)
            message.data, message.blocks = address, chunks
        self._run(batch, len(pieces))
        for place, (lane, _, _) in enumerate(pieces):
            ctypes.memmove(self._messages[lane].state, batch[place].state, 32)
