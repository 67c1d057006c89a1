"""Words that were issued where this registry could not see it.

A word follows from its number, and the next number is how many words were issued. A registry that was restored or
imported may know of fewer than were issued, since the one that was copied may have been used on; it would issue a word
for the second time, and a leaked copy would name somebody innocent. Invariant: the first word that a registry issues
after it came from a copy has a number that its owner named, and all numbers before it are taken.
"""

from typing import TYPE_CHECKING

from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, names_nobody, unrecorded_name
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.errors import UsageError
from fpvec_audit.services.code_summary import CodeSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fpvec_audit.registry.unit_of_work import UnitOfWork

MOST_AT_ONCE = 100_000
"""Numbers that are recorded as taken at once: some ten minutes, in which nobody else can write."""
REASON = "issued outside of this registry"


def checked_first_number(
    uow: "UnitOfWork", summary: CodeSummary, code: CodeRecord | None, *, named: int | None = None
) -> int:
    """Return the number of the next word.

    Args:
        uow: a unit of work.
        summary: of the family's code.
        code: the code as it is recorded, None while it is not chosen.
        named: what its owner says is the first free number, None where nothing is said.

    Raises:
        UsageError: the named number is taken or leaves too many unknown, or none is named, and one must be, since
            this registry came from a copy.
    """
    given, family = summary.issued + summary.retired, summary.key_set.name
    if named is None:
        _refuse_unsure(uow, summary, code, given=given)
        return given
    if named < given:
        raise UsageError(
            f"--first-number {named} is not free: {given} words of the family {family!r} were issued already",
            advice=f"words are issued in the order of their numbers: name {given} or a higher one",
        )
    if named - given > MOST_AT_ONCE and named < summary.code.words:
        raise UsageError(
            f"--first-number {named} leaves {named - given} words of the family {family!r} of which this registry "
            f"knows nothing, and at most {MOST_AT_ONCE} can be recorded at once",
            advice="name one more than the highest number that anybody was given",
        )
    return named


def refuse_names_of_nobody(names: "Sequence[str]") -> None:
    """Refuse licensees that are called as words of nobody known are.

    Raises:
        UsageError: one is.
    """
    for name in names:
        if names_nobody(name):
            raise UsageError(
                f"{name!r} is how words are named that were issued outside of this registry",
                advice="name the licensee otherwise",
            )


def take_numbers(
    uow: "UnitOfWork", family: str, code: CodeRecord, *, numbers: range, book: WordBook, by: str
) -> tuple[CodeWordRecord, ...]:
    """Record words that were issued outside of this registry, each of a licensee that its number names, and retired.

    Args:
        uow: a unit of work that may write.
        family: name of the key set.
        code: whose words.
        numbers: of the words, the next ones.
        book: the words.
        by: who says that they were issued.
    """

    def taken(number: int) -> CodeWordRecord:
        name = unrecorded_name(number, family)
        uow.code_words.issue(code, name, number=number, commitment=book.commitment(number))
        return uow.code_words.retire(code, name, reason=REASON, by=by)

    return tuple(map(taken, numbers))


def _refuse_unsure(uow: "UnitOfWork", summary: CodeSummary, code: CodeRecord | None, *, given: int) -> None:
    arrival = uow.code_words.arrival_before(summary.key_set, code)
    if arrival is None:
        return
    family = summary.key_set.name
    source = arrival.content.get("file") or "a stream"
    came = arrival.event.rpartition(".")[2]
    same_code = "" if code else "; where its code was chosen since, name the same one with --code"
    raise UsageError(
        f"this registry was {came} from {source} on {arrival.at[:10]}: after that copy was taken, others may have been "
        f"given words of the family {family!r} that this registry does not know of, and no word may be issued twice",
        advice="name the first free number with --first-number N: one more than the highest that anybody was given, "
        f"or --first-number {given} where nobody was given any since{same_code}",
    )
