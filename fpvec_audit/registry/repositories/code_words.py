"""Codes of families and who has which word: numbers and digests, as the words themselves follow from a secret."""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, WordState
from fpvec_audit.domain.records import KeySetRecord, LedgerEntry
from fpvec_audit.errors import KeySetError, UnknownNameError, UsageError
from fpvec_audit.registry.ledger import ARRIVALS, Ledger
from fpvec_audit.registry.repositories.key_sets import COMMITTED, ISSUED, KeySetRepository
from fpvec_audit.registry.repositories.licensees import LICENSEES, LicenseeRepository
from fpvec_audit.registry.repositories.lookup import Directory, checked_name, normalised
from fpvec_audit.registry.tables import CodeRow, CodeWordRow, LicenseeRow, VectorFamilyRow

FAMILIES = Directory("vector family", VectorFamilyRow.id, None, prefix="fam-", listing="fpvec vector list")
WORD_ISSUED = "code_word.issued"
_SUGGESTED_FROM = 1000


class CodeWordRepository:
    """Codes by their key set, words by licensee.

    Args:
        session: session of the surrounding unit of work.
        ledger: where choices, issues and retirements are recorded.
        clock: gives the time.
        key_sets: what a family is named by.
        licensees: whom words are issued to.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        clock: Callable[[], datetime],
        *,
        key_sets: KeySetRepository,
        licensees: LicenseeRepository,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._clock = clock
        self._key_sets = key_sets
        self._licensees = licensees

    def key_set_of(self, family: str) -> KeySetRecord:
        """Return the key set of a family: named by the key set, or by a vector family that was trained on it.

        Raises:
            UnknownNameError: there is neither.
            AmbiguousNameError: the beginning of several ids.
            UsageError: the vector family's key set is not known.
            KeySetError: the key set waits for the chance that assigns it.
        """
        if not family.startswith(FAMILIES.prefix) or self._key_sets.named(family) is not None:
            return self._key_sets.get(family)
        identifier = FAMILIES.resolve(self._session, family)
        key_set = self._session.get_one(VectorFamilyRow, identifier).key_set_id
        if key_set is None:
            raise UsageError(f"the vector family {identifier} was trained on keys that this registry does not know")
        return self._key_sets.get(key_set)

    def code_of(self, key_set: str) -> CodeRecord | None:
        """Return the code of a key set (whole id), None while it has none."""
        row = self._session.scalars(select(CodeRow).where(CodeRow.key_set_id == key_set)).one_or_none()
        return None if row is None else _code(row)

    def choose(self, record: CodeRecord) -> CodeRecord:
        """Record a key set's code, once and for all.

        Raises:
            UsageError: it has one already.
        """
        known = self.code_of(record.key_set)
        if known is not None:
            raise UsageError(
                f"this family has the code {known.text} since {known.created_at:%Y-%m-%d}",
                advice="a code is chosen once; issue another key set for another code",
            )
        row = CodeRow(
            id=record.id,
            key_set_id=record.key_set,
            text=record.text,
            colluders=record.colluders,
            epsilon=record.epsilon,
            binding=record.binding,
            created_at=record.created_at,
        )
        self._session.add(row)
        self._session.flush()
        content = {
            "key_set": record.key_set,
            "code": record.text,
            "colluders": record.colluders,
            "epsilon": record.epsilon,
            "binding": record.binding,
        }
        self._ledger.append("code.chosen", record.id, content)
        return record

    def counts(self, code: CodeRecord) -> dict[WordState, int]:
        """Return how many words were issued, by state; all of them together are the next one's number."""
        counted = select(CodeWordRow.state, func.count()).where(CodeWordRow.code_id == code.id)
        found = dict(self._session.execute(counted.group_by(CodeWordRow.state)).all())
        return {state: found.get(state.value, 0) for state in WordState}

    def arrival_before(self, key_set: KeySetRecord, code: CodeRecord | None) -> LedgerEntry | None:
        """Return the entry by which this registry came from a copy, where words may have been issued elsewhere since.

        None where it did not, where the key set is younger, or where a word of it was issued here since.

        Args:
            key_set: of the family.
            code: its code, None while it has none.
        """
        arrivals = self._ledger.about("registry", events=ARRIVALS)
        if not arrivals:
            return None
        last = None if code is None else self._highest(code)
        here = [*self._ledger.about(key_set.id, events=(COMMITTED, ISSUED))[:1]]  # an assignment by chance comes later
        here += () if last is None else self._ledger.about(last, events=(WORD_ISSUED,))
        return None if any(entry.serial > arrivals[-1].serial for entry in here) else arrivals[-1]

    def issue(self, code: CodeRecord, licensee: str, *, number: int, commitment: str) -> CodeWordRecord:
        """Issue a word to a licensee, who is recorded where new.

        Args:
            code: whose word.
            licensee: name.
            number: of the word: how many were issued before it.
            commitment: salted digest of the word, hex.

        Raises:
            UsageError: the licensee has a word of this code, or the name cannot be stored or looks like an id.
        """
        name = checked_name("licensee", licensee)
        identifier = self._licensees.ensure(name)
        assert identifier is not None
        known = self._current(code, identifier)
        if known is not None:
            raise UsageError(
                f"{name!r} has a word of this family already: number {known.number}, since {known.created_at:%Y-%m-%d}",
                advice="all copies of a licensee carry the same word; `fpvec licensee retire` ends it",
            )
        row = CodeWordRow(
            id=f"cw-{commitment[:16]}",
            code_id=code.id,
            number=number,
            licensee_id=identifier,
            commitment=commitment,
            state=WordState.ISSUED.value,
            created_at=self._clock(),
        )
        self._session.add(row)
        self._session.flush()
        content = {"code": code.id, "number": number, "licensee": name, "commitment": commitment, "state": row.state}
        self._ledger.append(WORD_ISSUED, row.id, content)
        return _word(row, name)

    def retire(self, code: CodeRecord, licensee: str, *, reason: str, by: str) -> CodeWordRecord:
        """Take a licensee's word out of use for good; its number never comes back.

        Args:
            code: whose word.
            licensee: name or whole id.
            reason: why, for the ledger.
            by: who says so.

        Raises:
            UnknownNameError: there is no such licensee.
            UsageError: it has no word of this code.
            KeySetError: the word is retired already.
        """
        record = self.find(code, licensee)
        if record.state is WordState.RETIRED:
            raise KeySetError(f"the word of {record.licensee!r} is retired already")
        row = self._session.get_one(CodeWordRow, record.id)
        row.state = WordState.RETIRED.value
        self._session.flush()
        self._ledger.append("code_word.retired", row.id, {"state": row.state, "reason": reason, "who": by})
        return _word(row, record.licensee)

    def find(self, code: CodeRecord, licensee: str) -> CodeWordRecord:
        """Return a licensee's word: the one in use, else the one that was retired last.

        Args:
            code: whose word.
            licensee: name or whole id. A shortened one could be a customer's number, and another's word be given out.

        Raises:
            UnknownNameError: there is no such licensee with a word of this code.
        """
        try:
            identifier = LICENSEES.resolve_whole(self._session, licensee)
        except UnknownNameError:
            raise self._unknown(code, licensee) from None
        row = self._current(code, identifier) or self._last(code, identifier)
        if row is None:
            raise self._unknown(code, self._licensees.name_of(identifier))
        return _word(row, self._licensees.name_of(identifier))

    def words(self, code: CodeRecord) -> tuple[CodeWordRecord, ...]:
        """Return all words that were issued, by number; retired ones too."""
        statement = (
            select(CodeWordRow, LicenseeRow.name)
            .join(LicenseeRow, CodeWordRow.licensee_id == LicenseeRow.id)
            .where(CodeWordRow.code_id == code.id)
            .order_by(CodeWordRow.number)
        )
        return tuple(_word(row, name) for row, name in self._session.execute(statement))

    def codes(self) -> tuple[CodeRecord, ...]:
        """Return all codes, oldest first."""
        return tuple(
            _code(row) for row in self._session.scalars(select(CodeRow).order_by(CodeRow.created_at, CodeRow.id))
        )

    def _current(self, code: CodeRecord, identifier: str) -> CodeWordRow | None:
        statement = self._of(code, identifier).where(CodeWordRow.state == WordState.ISSUED.value)
        return self._session.scalars(statement).one_or_none()

    def _last(self, code: CodeRecord, identifier: str) -> CodeWordRow | None:
        return self._session.scalars(self._of(code, identifier).order_by(CodeWordRow.number.desc()).limit(1)).first()

    def _highest(self, code: CodeRecord) -> str | None:
        """Return the id of the word that was issued last: numbers only grow."""
        statement = select(CodeWordRow.id).where(CodeWordRow.code_id == code.id)
        return self._session.scalars(statement.order_by(CodeWordRow.number.desc()).limit(1)).first()

    def _of(self, code: CodeRecord, identifier: str) -> Select[CodeWordRow]:
        return select(CodeWordRow).where(CodeWordRow.code_id == code.id, CodeWordRow.licensee_id == identifier)

    def _unknown(self, code: CodeRecord, licensee: str) -> UnknownNameError:
        known: Sequence[str] = self._session.scalars(
            select(LicenseeRow.name)
            .join(CodeWordRow, CodeWordRow.licensee_id == LicenseeRow.id)
            .where(CodeWordRow.code_id == code.id)
            .order_by(LicenseeRow.name)
            .limit(_SUGGESTED_FROM)
        ).all()
        return UnknownNameError("licensee with a word of this family", normalised(licensee), known)


def _code(row: CodeRow) -> CodeRecord:
    return CodeRecord(row.id, row.key_set_id, row.text, row.colluders, row.epsilon, row.binding, row.created_at)


def _word(row: CodeWordRow, licensee: str) -> CodeWordRecord:
    return CodeWordRecord(
        row.id, row.code_id, row.number, licensee, row.commitment, WordState(row.state), row.created_at
    )
