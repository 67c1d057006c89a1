r"""The JSON of a safetensors header, scanned in constant memory by the rigid grammar that the format has.

A header is one object. Its member ``__metadata__`` is an object of texts, every other one an object of exactly
``dtype``, ``shape`` and ``data_offsets`` in any order. A parser of any JSON builds whatever it is given before anyone
can object: a gigabyte of objects from 100 MB of ``[1,1,1,…``. This one knows what must come next, refuses at the first
byte that is something else, and yields one small member at a time.

The file is read in windows of 16 KiB, never mapped: a mapped file that another process truncates kills the reader.
Every token but a text and a run of white space is shorter than a window; those two are taken in pieces. Of a text only
its beginning, its length and a keyed digest are kept, so that equal names are found without storing names.

White space, escapes and surrogate pairs are those of JSON (RFC 8259), and UTF-8 must be well formed (RFC 3629): no
overlong form, no surrogate, neither raw nor as half a pair of ``\u`` escapes.
"""

import json
import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple, NoReturn

LENGTH_BYTES = 8
METADATA = "__metadata__"
MOST_DIMENSIONS = 64
SIZE_LIMIT = 1 << 63
FINGERPRINT_BYTES = 16
LONGEST_SHOWN = 200

_WINDOW = 1 << 14
_FRESH = 1 << 10
_LONGEST_TOKEN = 20
_ENTRY = "dtype, shape and data_offsets"
_END = -1
_QUOTE, _COLON, _COMMA = b'":,'
_OBJECT, _LIST = b"{}", b"[]"
_WHITE_BYTES = b" \t\n\r"

_SPACE = rb"[ \t\n\r]*"
_DIGITS = rb"(?:0|[1-9][0-9]{0,18})"
_WHITE = re.compile(_SPACE)
_NUMBER = re.compile(_DIGITS + rb"(?![0-9.eE])")
_PLAIN = re.compile(rb'([ !#-\[\]-\x7f]{0,512})"')
# Bounded repeats, because a group's repeats take memory each; 64 of them still make short work of a long text.
_UNITS = re.compile(
    rb"""(?:
        [ !\#-\[\]-\x7f]{1,128}
      | \\["\\/bfnrt]
      | \\u(?: [0-9a-ce-fA-CE-F][0-9a-fA-F]{3} | [dD][0-7][0-9a-fA-F]{2}
             | [dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2} )
      | [\xc2-\xdf][\x80-\xbf]
      | (?: \xe0[\xa0-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf] | \xed[\x80-\x9f] )[\x80-\xbf]
      | (?: \xf0[\x90-\xbf] | [\xf1-\xf3][\x80-\xbf] | \xf4[\x80-\x8f] )[\x80-\xbf]{2}
    ){0,64}""",
    re.VERBOSE,
)


def _usual() -> re.Pattern[bytes]:
    """Return a pattern of a tensor entry with nothing to be decoded in it, which is how every known writer writes it.

    Each of the three members takes part once, in any order, or its group is empty.
    """
    numbers = rb"(?:%(n)s%(s)s(?:,%(s)s%(n)s%(s)s){0,%(more)d})?"
    pattern = (
        rb"%(s)s\{%(s)s"
        rb'(?:"(?:dtype"%(s)s:%(s)s"([A-Z0-9_]{1,16})"'
        rb'|shape"%(s)s:%(s)s\[%(s)s(' + numbers + rb")\]"
        rb'|data_offsets"%(s)s:%(s)s\[%(s)s(%(n)s)%(s)s,%(s)s(%(n)s)%(s)s\]'
        rb')%(s)s(?:,%(s)s(?=")|(?=\}))){3}\}'
    )
    return re.compile(pattern % {b"s": _SPACE, b"n": _DIGITS, b"more": MOST_DIMENSIONS - 1})


_USUAL = _usual()


class HeaderError(ValueError):
    """The header is not what a safetensors header must be; the message says where and why."""


class Text(NamedTuple):
    """A JSON string of which only the beginning is kept.

    Attributes:
        start: the text, or as much of its beginning as the scanner has room for.
        length: bytes of the whole text in UTF-8.
        fingerprint: keyed BLAKE2b of the whole text in UTF-8, 16 bytes.
    """

    start: str
    length: int
    fingerprint: bytes


class Claim(NamedTuple):
    """What the header says of one tensor, with every number below 2^63 and nothing else checked.

    Attributes:
        name: name of the tensor.
        label: name of the dtype, known or not, cut like every text.
        shape: at most 64 sizes.
        begin: offset of the first byte from the end of the header.
        end: offset after the last byte.
    """

    name: Text
    label: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Note(NamedTuple):
    """One entry of ``__metadata__``.

    Attributes:
        key: its name.
        value: its text.
        read: bytes of the header between the beginning of the metadata and the end of this entry.
    """

    key: Text
    value: Text
    read: int


class HeaderScanner:
    """Scans the header of an open safetensors file once.

    Args:
        descriptor: the file, open for reading; its position is neither used nor changed.
        length: bytes of JSON, which follow the 8 bytes of the length field.
        room: characters that are kept of every text, at least those of the longest dtype and key.
        key: secret of the fingerprints, at most 64 bytes; a file's author must not know it.
    """

    def __init__(self, descriptor: int, *, length: int, room: int, key: bytes) -> None:
        self._descriptor = descriptor
        self._length = length
        self._base = 0
        self._window = b""
        self._at = 0
        self._room = room
        self._digest = blake2b(key=key, digest_size=FINGERPRINT_BYTES)
        self._inside: tuple[str, ...] = ()

    def members(self) -> Iterator[Claim | Note]:
        """Yield tensors and metadata in the order of the header.

        Raises:
            HeaderError: the header is not an object, is not valid JSON, or has members of another form.
            OSError: the file cannot be read.
        """
        self._refill()
        if not self._window.startswith(b"{"):
            raise HeaderError("the header does not begin with an object")
        noted = False
        for _ in self._elements(_OBJECT, "an object"):
            self._inside = ()
            name = self._text()
            self._expect(_COLON, "a colon after its name")
            self._inside = (name.start,)
            if name.start != METADATA:
                yield self._usual_claim(name) or self._claim(name)
            elif noted:
                self._refuse("stands twice in the header")
            else:
                noted = True
                yield from self._notes()
        self._inside = ()
        if self._next() != _END:
            self._refuse("the header goes on after its object")

    def _notes(self) -> Iterator[Note]:
        self._next()
        begin = self._base + self._at
        for _ in self._elements(_OBJECT, "an object of texts"):
            self._inside = (METADATA,)
            key = self._text()
            self._expect(_COLON, "a colon after its name")
            self._inside = (METADATA, key.start)
            yield Note(key, self._text(), self._base + self._at - begin)

    def _usual_claim(self, name: Text) -> Claim | None:
        """Return a tensor entry in one step if it is written the usual way; leave any other to be read in many."""
        self._refill_within(_FRESH)
        found = _USUAL.match(self._window, self._at)
        if found is None or None in (parts := found.groups()):
            return None
        label, sizes, begin, end = parts
        shape = tuple(map(int, sizes.split(b","))) if sizes else ()
        claim = Claim(name, label.decode("ascii"), shape, int(begin), int(end))
        if max(*shape, claim.begin, claim.end) >= SIZE_LIMIT:
            return None
        self._at = found.end()
        return claim

    def _claim(self, name: Text) -> Claim:
        label: str | None = None
        shape: tuple[int, ...] | None = None
        offsets: tuple[int, ...] | None = None
        for _ in self._elements(_OBJECT, f"an object of {_ENTRY}"):
            self._inside = (name.start,)
            key = self._text().start
            self._expect(_COLON, "a colon after its name")
            self._inside = (name.start, key)
            if key == "dtype" and label is None:
                label = self._text().start
            elif key == "shape" and shape is None:
                shape = self._numbers(MOST_DIMENSIONS)
            elif key == "data_offsets" and offsets is None:
                offsets = self._numbers(2)
            else:
                self._refuse("stands twice, or is none of " + _ENTRY)
        self._inside = (name.start,)
        if label is None or shape is None or offsets is None:
            self._refuse("the entry has not all of " + _ENTRY)
        if len(offsets) != 2:
            self._refuse("data_offsets are not two numbers")
        return Claim(name, label, shape, *offsets)

    def _numbers(self, most: int) -> tuple[int, ...]:
        numbers: list[int] = []
        for _ in self._elements(_LIST, "a list of numbers"):
            if len(numbers) == most:
                self._refuse(f"more than {most} numbers")
            self._next()
            self._refill_within(_LONGEST_TOKEN)
            found = _NUMBER.match(self._window, self._at)
            number = int(found.group()) if found else SIZE_LIMIT
            if found is None or number >= SIZE_LIMIT:
                self._refuse("something else than a whole number from 0 to 2^63 - 1")
            self._at = found.end()
            numbers.append(number)
        return tuple(numbers)

    def _text(self) -> Text:
        """Return a JSON string."""
        self._expect(_QUOTE, "a text")
        digest = self._digest.copy()
        plain = _PLAIN.match(self._window, self._at)
        if plain is not None and len(content := plain.group(1)) <= self._room:
            self._at = plain.end()
            digest.update(content)
            return Text(content.decode("ascii"), len(content), digest.digest())
        start = ""
        length = 0
        while piece := self._piece():
            digest.update(piece)
            length += len(piece)
            if len(start) < self._room:
                # grows in its place; a list to join, or one buffer to decode, would take the memory of the text again
                start += piece.decode()[: self._room - len(start)]
        self._at += 1
        return Text(start, length, digest.digest())

    def _piece(self) -> bytes:
        """Return the next bytes of the text that is being read, without escapes; nothing at its closing quote."""
        while True:
            found = _UNITS.match(self._window, self._at)
            assert found is not None
            piece = found.group()
            if piece:
                self._at += len(piece)
                return json.loads(b'"%b"' % piece).encode() if b"\\" in piece else piece
            if self._window[self._at : self._at + 1] == b'"':
                return b""
            if not self._refill_within(_LONGEST_TOKEN):
                ended = self._at == len(self._window)
                self._refuse("the header ends inside a text" if ended else "a text is not valid JSON")

    def _elements(self, brackets: bytes, expected: str) -> Iterator[None]:
        """Step over brackets and commas of a list or object, yielding where an element must be read."""
        opening, closing = brackets
        self._expect(opening, expected)
        if self._next() == closing:
            self._at += 1
            return
        while True:
            yield
            if self._next() == closing:
                self._at += 1
                return
            self._expect(_COMMA, "a comma or the end of " + expected)

    def _expect(self, byte: int, expected: str) -> None:
        if self._next() != byte:
            self._refuse(f"not valid: expected {expected}")
        self._at += 1

    def _next(self) -> int:
        """Step over white space and return the byte after it, or a sign of the end."""
        while True:
            if self._at < len(self._window):
                byte = self._window[self._at]
                if byte not in _WHITE_BYTES:
                    return byte
                found = _WHITE.match(self._window, self._at)
                assert found is not None
                self._at = found.end()
            elif not self._refill_within(1):
                return _END

    def _refill_within(self, size: int) -> bool:
        """Move the window if it shows fewer than ``size`` bytes and the header goes on; return whether it did."""
        shows = len(self._window)
        if shows - self._at >= size or self._base + shows == self._length:
            return False
        self._refill()
        return True

    def _refill(self) -> None:
        """Move the window so that it begins where the scanner stands."""
        self._base += self._at
        self._at = 0
        self._window = b""  # so that there are never two
        size = min(_WINDOW, self._length - self._base)
        while len(self._window) < size:
            place = LENGTH_BYTES + self._base + len(self._window)
            read = os.pread(self._descriptor, size - len(self._window), place)
            if not read:
                raise HeaderError(f"the file ended at byte {place}, inside its header, while it was read")
            self._window += read

    def _refuse(self, problem: str) -> NoReturn:
        subject = "".join(f"{shown(name)}: " for name in self._inside)
        raise HeaderError(f"{subject}{problem} (byte {LENGTH_BYTES + self._base + self._at} of the file)")


def shown(text: str) -> str:
    """Return a claimed text in a length and alphabet that a terminal can bear."""
    return ascii(text)[1:-1][:LONGEST_SHOWN]
