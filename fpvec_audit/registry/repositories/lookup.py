"""How things in the registry are named and found: by unique name, by id, or by the unique beginning of an id."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from fpvec_audit.errors import AmbiguousNameError, UnknownNameError, UsageError
from fpvec_audit.registry.tables import NAME_LENGTH

_SUGGESTED_FROM = 1000
_SHOWN = 5
_ID_DIGITS = re.compile(r"[0-9a-f]+")
_ID_BEGINNING = re.compile(r"(?:[a-z]+-[0-9a-f]+|[0-9a-f]{4,})")


@dataclass(frozen=True, slots=True)
class Directory:
    """What one kind of thing is called by.

    Attributes:
        kind: in the singular, for messages ("key set").
        id: column of ids.
        name: column of unique names, None where things have no name.
        prefix: what every id begins with ("ks-"); may be left out in a reference.
        listing: command that lists them.
    """

    kind: str
    id: InstrumentedAttribute[str]
    name: InstrumentedAttribute[str] | None
    prefix: str = ""
    listing: str = ""

    def resolve(self, session: Session, reference: str) -> str:
        """Return the whole id behind a reference.

        Raises:
            UnknownNameError: nothing fits; the nearest names are suggested.
            AmbiguousNameError: the beginning of several ids.
        """
        whole = self._whole(session, reference)
        if whole is not None:
            return whole
        fitting = self._beginning_with(session, reference)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            shown = ", ".join(fitting[:_SHOWN]) + (", …" if len(fitting) > _SHOWN else "")
            raise AmbiguousNameError(
                f"{self.kind} {reference!r} fits several ids: {shown}", advice="write more of the id, or the name"
            )
        raise UnknownNameError(self.kind, reference, self._known(session), listing=self.listing)

    def resolve_whole(self, session: Session, reference: str) -> str:
        """Return the id behind a name or a whole id: for what must not mean something else by a slip of the hand.

        Raises:
            UnknownNameError: nothing is called so; the nearest names are suggested.
        """
        whole = self._whole(session, reference)
        if whole is None:
            raise UnknownNameError(self.kind, reference, self._known(session), listing=self.listing)
        return whole

    def has_form_of_id(self, text: str) -> bool:
        """Return whether a text looks like an id of this kind, whole or shortened, with its prefix."""
        return text.startswith(self.prefix) and _ID_DIGITS.fullmatch(text, len(self.prefix)) is not None

    def _whole(self, session: Session, reference: str) -> str | None:
        if self.name is not None:
            named = session.scalar(select(self.id).where(self.name == normalised(reference)))
            if named is not None:
                return named
        if not _ID_BEGINNING.fullmatch(reference):
            return None
        return session.scalar(select(self.id).where(self.id == reference))

    def _beginning_with(self, session: Session, reference: str) -> Sequence[str]:
        if not _ID_BEGINNING.fullmatch(reference):
            return ()
        start = reference if reference.startswith(self.prefix) else self.prefix + reference
        statement = select(self.id).where(self.id >= start, self.id < start + "g")  # "g" follows every digit
        return session.scalars(statement.order_by(self.id).limit(_SHOWN + 1)).all()

    def _known(self, session: Session) -> Sequence[str]:
        column = self.id if self.name is None else self.name
        return session.scalars(select(column).order_by(column).limit(_SUGGESTED_FROM)).all()


def normalised(text: str) -> str:
    """Return a name as it is stored: Unicode NFC, no white space around it."""
    return unicodedata.normalize("NFC", text.strip())


def checked_name(kind: str, name: str) -> str:
    """Return a name that can be stored and typed.

    Raises:
        UsageError: empty, longer than 200 characters, or with characters that do not print.
    """
    text = checked_text(f"name of a {kind}", name)
    if not text:
        raise UsageError(f"the name of a {kind} is empty", advice="give it a name")
    return text


def checked_text(what: str, text: str) -> str:
    """Return a short text that may be empty, in NFC.

    Raises:
        UsageError: longer than 200 characters, or with characters that do not print.
    """
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise UsageError(f"the {what} {text!a} has control characters", advice="use characters that print")
    stored = normalised(text)
    if len(stored) > NAME_LENGTH:
        raise UsageError(f"the {what} {stored[:40]!r}… has {len(stored)} characters", advice=f"at most {NAME_LENGTH}")
    return stored


def refuse_taken(session: Session, directory: Directory, name: str, *, option: str = "NAME") -> None:
    """Refuse a name that something of this kind already has.

    Raises:
        UsageError: it exists already.
    """
    assert directory.name is not None
    taken = session.scalar(select(directory.id).where(directory.name == name))
    if taken is not None:
        raise UsageError(
            f"a {directory.kind} named {name!r} exists already ({taken})", advice=f"choose another {option}"
        )


def free_name(session: Session, directory: Directory, wanted: str) -> str:
    """Return ``wanted``, or ``wanted-2``, ``wanted-3`` …: the first free one, where there are no gaps."""
    assert directory.name is not None
    named = directory.name

    def numbered(number: int) -> str:
        suffix = f"-{number}" if number > 1 else ""
        return wanted[: NAME_LENGTH - len(suffix)] + suffix

    def taken(number: int) -> bool:
        return session.scalar(select(directory.id).where(named == numbered(number))) is not None

    # Twice as far each time and back by halves: the thousandth copy in a directory named "model" asks twenty times.
    free = 1
    while taken(free):
        free *= 2
    last_taken = free // 2
    while free - last_taken > 1:
        middle = (free + last_taken) // 2
        last_taken, free = (middle, free) if taken(middle) else (last_taken, middle)
    return numbered(free)
