"""Issue the words of a family's code to licensees, retire them, and show who has which.

The first word chooses the code (``services/code_summary.py``). Numbers only grow, so no two licensees get one word and
a retired word never comes back; all of it is one transaction, so several are added together or not at all. A registry
that came from a copy does not know which numbers are taken, and asks (``services/unrecorded_words.py``).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.code_choice import Demand, fewest_marks_text, proposals
from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, several_words
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.codes import RULE_A, RULE_B
from fpvec_audit.errors import UsageError
from fpvec_audit.services.code_summary import (
    NOTHING,
    CodeSummary,
    code_in_use,
    known_code,
    marked_key_set,
    proposed_code,
    refuse_beyond_chance,
)
from fpvec_audit.services.code_summary import Wanted as Wanted
from fpvec_audit.services.code_summary import family_code as family_code
from fpvec_audit.services.code_words import recorded_words, word_book
from fpvec_audit.services.key_life import refuse_ended
from fpvec_audit.services.unrecorded_words import checked_first_number, refuse_names_of_nobody, take_numbers

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


@dataclass(frozen=True, slots=True)
class ChosenWords:
    """Words that were just issued or retired.

    Attributes:
        summary: the code they are of.
        words: one for each licensee.
        unrecorded: words of nobody known, with the numbers before, that were recorded with them.
        several: which of these licensees hold other words too, in sentences.
    """

    summary: CodeSummary
    words: tuple[CodeWordRecord, ...]
    unrecorded: tuple[CodeWordRecord, ...] = ()
    several: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its owner should know, in sentences."""
        told = (*self.summary.warnings, *self.several)
        if not self.unrecorded:
            return told
        first, last = self.unrecorded[0].number, self.unrecorded[-1].number
        words = f"word {first} is" if first == last else f"words {first} to {last} are"
        return (*told, f"{words} recorded as issued outside of this registry, to nobody known, and retired")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no word."""
        return {
            "family": self.summary.to_json(),
            "words": [word_json(word, self.summary.code.weight) for word in self.words],
            "unrecorded": [word_json(word, self.summary.code.weight) for word in self.unrecorded],
            "warnings": list(self.warnings),
        }


def word_json(word: CodeWordRecord, weight: int) -> dict[str, Any]:
    """Return the JSON object of a licensee's word: its number and digest, not its marks."""
    return {
        "id": word.id,
        "licensee": word.licensee,
        "number": word.number,
        "state": word.state.value,
        "weight": weight,
        "commitment": word.commitment,
        "created_at": word.created_at.isoformat(),
    }


def add_licensees(
    names: Sequence[str],
    family: str,
    *,
    registry: "Registry",
    wanted: Wanted = NOTHING,
    first_number: int | None = None,
) -> ChosenWords:
    """Issue a word to each of several licensees, all or none; the first one's family gets its code.

    Args:
        names: of licensees; new ones are recorded.
        family: name or id of a key set, or id of a vector family.
        registry: where they are recorded.
        wanted: what a new code shall bear.
        first_number: of the first licensee's word; numbers before it that are not known here are recorded as issued
            outside of this registry. The next number when None.

    Raises:
        UnknownNameError: there is no such family.
        UsageError: a licensee has a word, is named twice or like an id, or there are fewer words left than licensees;
            the first number is taken, or must be named, since the registry came from a copy.
        KeySetError: the key set is retired or compromised.
        RegistryError: the vault cannot give the secret.
    """
    refuse_names_of_nobody(names)
    _refuse_repeated(names)
    wanted = replace(wanted, at_once=len(names))
    with registry.unit_of_work() as uow:
        key_set = marked_key_set(uow, family)
        refuse_ended(uow, [key_set.id])
        known = uow.code_words.code_of(key_set.id)
        summary = proposed_code(uow, key_set, wanted) if known is None else known_code(uow, key_set, known, wanted)
        given = summary.issued + summary.retired
        first = checked_first_number(uow, summary, known, named=first_number)
        _refuse_too_many(len(names), first, summary)
        if known is None:
            known, book = _choose(uow, summary, registry)
        else:
            book = word_book(uow, key_set, known, purpose="word of a licensee")
        unrecorded = take_numbers(uow, key_set.name, known, numbers=range(given, first), book=book, by=registry.actor)
        words = tuple(
            uow.code_words.issue(known, name, number=number, commitment=book.commitment(number))
            for number, name in enumerate(names, start=first)
        )
        issued = known_code(uow, key_set, known)
        again = {word.licensee for word in words}
        held = [word for word in uow.code_words.words(known) if word.licensee in again]
        told = several_words(held, colluders=known.colluders) if RULE_A in issued.rules else ()
        return ChosenWords(issued, words, unrecorded, told)


def retire_licensee(licensee: str, family: str, *, registry: "Registry", reason: str) -> ChosenWords:
    """Take a licensee's word out of use for good. Copies that carry it are still traced to the licensee.

    Args:
        licensee: name or whole id.
        family: name or id of a key set, or id of a vector family.
        registry: where it is recorded.
        reason: why, for the ledger.

    Raises:
        UnknownNameError: there is no such family, or no such licensee with a word of it.
        UsageError: there is no reason, or the family has no code.
        KeySetError: the word is retired already.
    """
    if not reason.split():
        raise UsageError("a word is retired without a reason", advice="say why: --reason TEXT")
    with registry.unit_of_work() as uow:
        key_set = marked_key_set(uow, family)
        code = code_in_use(uow, key_set)
        word = uow.code_words.retire(code, licensee, reason=" ".join(reason.split()), by=registry.actor)
        return ChosenWords(known_code(uow, key_set, code), (word,))


@dataclass(frozen=True, slots=True)
class FamilyWords:
    """Who has which word of a family.

    Attributes:
        summary: the code.
        words: by number.
        marks: the marks of each word, None unless a reveal was asked for.
    """

    summary: CodeSummary
    words: tuple[CodeWordRecord, ...]
    marks: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds words only where they were revealed."""
        rows = [word_json(word, self.summary.code.weight) for word in self.words]
        if self.marks is not None:
            rows = [row | {"marks": list(marks)} for row, marks in zip(rows, self.marks, strict=True)]
        return {"family": self.summary.to_json(), "words": rows, "warnings": list(self.summary.warnings)}


def family_words(family: str, *, registry: "Registry", reveal: bool = False, reason: str = "") -> FamilyWords:
    """Return who has which word of a family; with ``reveal`` the words themselves, which the ledger records.

    Raises:
        UnknownNameError: there is no such family.
        UsageError: it has no code yet.
        RegistryError: the vault cannot give the secret.
    """
    with registry.unit_of_work() if reveal else registry.snapshot() as uow:
        key_set = marked_key_set(uow, family)
        code = code_in_use(uow, key_set)
        words = uow.code_words.words(code)
        purpose = ": ".join(part for part in ("words shown to their owner", " ".join(reason.split())) if part)
        marks = recorded_words(uow, key_set, code, words, purpose=purpose) if reveal else None
        return FamilyWords(known_code(uow, key_set, code), words, marks)


def _refuse_repeated(names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"{name!r} is named {count} times", advice="name each licensee once")


def _refuse_too_many(wanted: int, first: int, summary: CodeSummary) -> None:
    if first + wanted <= summary.code.words:
        if summary.rules == (RULE_B,):
            refuse_beyond_chance(summary.code, first + wanted, Fraction(summary.epsilon))
        return
    code, named = summary.code, first > summary.issued + summary.retired
    demand = Demand(first + wanted, max(1, summary.colluders), Fraction(summary.epsilon))
    more = "1 more licensee is" if wanted == 1 else f"{wanted} more licensees are"
    begin = f"{more} too many from number {first} on" if named else f"{more} too many"
    words = f"the {code.words} words of {code.text}"
    why = f"the last of {words} is number {code.words - 1}" if named else f"{first} of {words} were issued"
    raise UsageError(
        f"{begin}: {why}, and none is issued twice; {first + wanted} take {fewest_marks_text(proposals(demand))}",
        advice="issue a key set with that many --marks for the others",
    )


def _choose(uow: "UnitOfWork", summary: CodeSummary, registry: "Registry") -> tuple[CodeRecord, WordBook]:
    key_set = summary.key_set
    secret = uow.vault.reveal(key_set.id, purpose="code of the family")
    book = WordBook(summary.code, secret, key_set.commitment.digest)
    record = CodeRecord(
        id=f"co-{key_set.id.removeprefix('ks-')}",
        key_set=key_set.id,
        text=summary.code.text,
        colluders=summary.colluders,
        epsilon=summary.epsilon,
        binding=book.binding,
        created_at=registry.clock(),
    )
    return uow.code_words.choose(record), book
