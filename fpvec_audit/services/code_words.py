"""Which marks a licensee's copy carries: the one way in which a code word leaves the vault, always with a reason.

The registry holds numbers and digests of words; the words follow from the key set's secret
(``domain/code_words.py``). A *family* is named by its key set, by name or id, or by a vector family that was trained on
it (``fam-…``): words belong to the key set, so another training of it keeps them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, WordState
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.codes import parse_code
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.errors import KeySetError, RegistryError, UsageError
from fpvec_audit.services.code_summary import marked_key_set

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import UnitOfWork


def code_word(uow: "UnitOfWork", family: str, licensee: str, *, purpose: str) -> tuple[int, ...]:
    """Return the marks that a licensee's copies of a family carry, ascending.

    Args:
        uow: a unit of work that may write: giving a word out is a ledger entry.
        family: name or id of a key set, or id of a vector family.
        licensee: name or whole id of a licensee that has a word.
        purpose: what it is wanted for ("stamp"), written to the ledger.

    Raises:
        UnknownNameError: there is no such family or licensee.
        UsageError: the key set has one mark or no code yet, or a licensee is named twice.
        KeySetError: the licensee's word is retired.
        RegistryError: the vault cannot give the secret, or the word is not the one that was recorded.
    """
    (word,) = code_words(uow, family, [licensee], purpose=purpose).values()
    return word


def code_words(
    uow: "UnitOfWork", family: str, licensees: Sequence[str], *, purpose: str
) -> Mapping[str, tuple[int, ...]]:
    """Return the marks of several licensees by their names, in the order asked for; the vault is asked once.

    Args:
        uow: a unit of work that may write.
        family: name or id of a key set, or id of a vector family.
        licensees: names or whole ids of licensees.
        purpose: what they are wanted for, written to the ledger.

    Raises:
        FpvecError: as :func:`code_word`.
    """
    key_set = marked_key_set(uow, family)
    code = uow.code_words.code_of(key_set.id)
    if code is None:
        raise UsageError(
            f"the family {key_set.name!r} has no code yet, so nobody has a word of it",
            advice=f"`fpvec licensee add NAME --family {key_set.name}` chooses one",
        )
    found = [uow.code_words.find(code, reference) for reference in licensees]
    twice = [name for name, times in Counter(record.licensee for record in found).items() if times > 1]
    if twice:
        raise UsageError(f"licensee {twice[0]!r} is named more than once", advice="name each once")
    for record in found:
        if record.state is WordState.RETIRED:
            raise KeySetError(
                f"the word of {record.licensee!r} in the family {key_set.name!r} is retired",
                advice=f"`fpvec licensee add {record.licensee!r} --family {key_set.name}` issues another",
            )
    words = recorded_words(uow, key_set, code, found, purpose=purpose)
    return {record.licensee: word for record, word in zip(found, words, strict=True)}


def recorded_words(
    uow: "UnitOfWork", key_set: KeySetRecord, code: CodeRecord, records: Sequence[CodeWordRecord], *, purpose: str
) -> tuple[tuple[int, ...], ...]:
    """Return the words of records, checked against the digests that were recorded when they were issued.

    Raises:
        RegistryError: the vault cannot give the secret, or a word is not the recorded one.
    """
    book = word_book(uow, key_set, code, purpose=purpose)
    for record in records:
        if book.commitment(record.number) != record.commitment:
            raise RegistryError(
                f"the word of {record.licensee!r} is not the one that was recorded when it was issued",
                advice="run `fpvec registry verify`, and restore a backup",
            )
    return book.words(record.number for record in records)


def word_book(uow: "UnitOfWork", key_set: KeySetRecord, code: CodeRecord, *, purpose: str) -> WordBook:
    """Return a family's words in the order in which they are issued.

    Raises:
        RegistryError: the vault cannot give the secret, or it gives other words than were bound.
    """
    parsed = parse_code(code.text, marks=key_set.commitment.marks)
    book = WordBook(parsed, uow.vault.reveal(key_set.id, purpose=purpose), key_set.commitment.digest)
    if book.binding != code.binding:
        raise RegistryError(
            f"the words of the family {key_set.name!r} are not those that were bound when its code was chosen",
            advice="run `fpvec registry verify`, and restore a backup",
        )
    return book
