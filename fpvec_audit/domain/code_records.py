"""What the registry remembers of a family's code and of who has which word, as frozen values; never a word itself."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

_OF_NOBODY = re.compile(r"unrecorded-[0-9]+ \(.*\)")
_MOST_OF_A_NAME = 160
"""Characters of a family's name that such a name repeats, so that it is not too long for one."""


class WordState(StrEnum):
    """``issued`` → ``retired``. Copies with a retired word may be out there, so a trace still names its licensee."""

    ISSUED = "issued"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """The code of a family of marks, chosen once.

    Attributes:
        id: ``co-`` and 16 characters.
        key_set: id of the key set whose marks it is over.
        text: the code as it is written (``plane:4``, ``rs:11,3,5``, ``random:8/64``).
        colluders: c, coalitions that it shall bear; 0 where rule B alone names, whatever the number.
        epsilon: chance that rule B names anybody wrongly, at most, as decimal text.
        binding: digest of the key that orders the words, hex (``domain/code_words.py``).
        created_at: when it was chosen.
    """

    id: str
    key_set: str
    text: str
    colluders: int
    epsilon: str
    binding: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CodeWordRecord:
    """A licensee's word, by its number.

    Attributes:
        id: ``cw-`` and 16 characters.
        code: id of the code.
        number: from 0, in the order in which words were issued; never given twice.
        licensee: name of whom it was issued to.
        commitment: salted digest of the word, hex.
        state: see :class:`WordState`.
        created_at: when it was issued.
    """

    id: str
    code: str
    number: int
    licensee: str
    commitment: str
    state: WordState
    created_at: datetime


def several_words(words: Sequence[CodeWordRecord], *, colluders: int) -> tuple[str, ...]:
    """Return whom several words were issued to, in sentences: rule A counts words, and not licensees.

    Args:
        words: of a code that names by rule A.
        colluders: c, how many different words it bears.
    """
    counts = Counter(word.licensee for word in words)
    return tuple(
        f"{licensee} was given {count} words: pooling its own copies alone it holds {count} of the {colluders} "
        "different words that rule A bears"
        for licensee, count in counts.items()
        if count > 1
    )


def unrecorded_name(number: int, family: str) -> str:
    """Return what stands for the licensee of a word that was issued outside of the registry, and whose is not known.

    Args:
        number: of the word.
        family: name of its key set.
    """
    shown = family if len(family) <= _MOST_OF_A_NAME else f"{family[:_MOST_OF_A_NAME]}…"
    return f"unrecorded-{number} ({shown})"


def names_nobody(name: str) -> bool:
    """Return whether a licensee's name could be one of :func:`unrecorded_name`."""
    return _OF_NOBODY.fullmatch(name.strip()) is not None
