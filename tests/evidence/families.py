"""Bundles about the copies of a family, from pure domain objects: nine marks of five keys, twelve licensees."""

from dataclasses import replace
from datetime import UTC, datetime

from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord, WordState
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.codes import parse_code
from fpvec_audit.domain.family_terms import FamilyTerms, OpenedWord, holder_paths
from tests.evidence import builders
from tests.evidence.builders import Story

MARKS, KEYS, DECOYS = 9, 5, 112
CODE, COLLUDERS, EPSILON = "plane:3", 2, "1e-3"
NAMES = tuple(f"licensee {number:02}" for number in range(12))
VECTORS = ["e" * 64, "f" * 64]
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class Family:
    """A key set of several marks, its code, and who has which word."""

    def __init__(self, *, source="witness", code=CODE, colluders=COLLUDERS, names=NAMES):
        self.source = source
        self.key_set, self.secret, self.chance = builders.key_set(
            source=source, size=(MARKS * KEYS, DECOYS), marks=MARKS
        )
        commitment = self.key_set.commitment
        key_set = f"ks-{commitment.digest[:16]}"
        self.book = WordBook(parse_code(code, marks=MARKS), self.secret, commitment.digest)
        self.code = CodeRecord(f"co-{key_set[3:]}", key_set, code, colluders, EPSILON, self.book.binding, WHEN)
        self.holders = tuple(self._holder(number, name) for number, name in enumerate(names))
        self.terms = FamilyTerms.of(self.code, self.holders, families=1)

    def _holder(self, number, name):
        digest = self.book.commitment(number)
        return CodeWordRecord(f"cw-{digest[:16]}", self.code.id, number, name, digest, WordState.ISSUED, WHEN)

    def opened(self, *numbers):
        """Open words as an export does."""
        paths = holder_paths(self.holders)
        return tuple(
            OpenedWord(
                number,
                self.holders[number].licensee,
                self.book.rank(number),
                self.book.word(number),
                self.book.salt(number),
                paths[number],
            )
            for number in numbers
        )

    def events(self, *numbers):
        """What the ledger says of the code and of these words."""
        code = self.code
        chosen = {name: getattr(code, name) for name in ("key_set", "colluders", "epsilon", "binding")}
        return (
            ("code.chosen", code.id, {"code": code.text, **chosen}),
            *(
                (
                    "code_word.issued",
                    word.id,
                    {
                        "code": code.id,
                        "number": word.number,
                        "licensee": word.licensee,
                        "commitment": word.commitment,
                        "state": "issued",
                    },
                )
                for word in (self.holders[number] for number in numbers)
            ),
        )

    def marks_of(self, *numbers):
        return sorted({mark for number in numbers for mark in self.book.word(number)})

    def story(self, marks, *, named, shares=None, carriers=None, likely=None, **changes):
        """Return the story of a trace of a suspect that answers the keys of these marks.

        Args:
            marks: what it answers.
            named: numbers of the licensees whose words are opened.
            shares: λ̂ by mark as decimal text.
            carriers: content of the record of carriers.
            likely: marks whose responses are likely to it; registers the likelihood test.
        """
        tests = {}
        if likely is not None:
            statistic = {"statistic": "response-minus-base", "base": builders.BASE}
            tests = {"tests": ("exact", "likelihood"), "likelihood": statistic}
        plan = builders.plan_for(self.key_set, trace="tr-0123456789abcdef", family=self.terms, **(tests | changes))
        begin = builders.beginning(plan, witness=self.source == "witness")
        knows = {index for mark in marks for index in self.key_set.marks[mark]}
        contents = builders.conversation(self.key_set, plan, begin, knows=knows)
        if likely is not None:
            found = {index for mark in likely for index in self.key_set.marks[mark]}
            contents = tuple(
                item | {"suspect": "-0.25"} if item["kind"] == "likelihood" and item["index"] in found else item
                for item in contents
            )
        measured = []
        if shares is not None:
            measured.append({"kind": "shares", "base": builders.BASE, "vectors": VECTORS, "shares": shares})
        measured += [] if carriers is None else [carriers]
        committed = () if carriers is None else carried(self.code.key_set, *carriers["named"])
        return Story(
            self.key_set,
            self.secret,
            self.chance,
            plan,
            begin,
            (*contents[:-1], *measured, contents[-1]),
            events=(*self.events(*named), *committed),
            words=self.opened(*named),
        )

    def copy(self, number=4, **changes):
        """Return the story of a trace of a licensee's copy."""
        return self.story(self.marks_of(number), named=[number], **changes)

    def average(self, *numbers, **changes):
        """Return the story of a trace of the average of several copies, told by its weights."""
        shares = {
            str(mark): repr(sum(mark in self.book.word(number) for number in numbers) / len(numbers))
            for mark in range(MARKS)
        }
        return self.story([], named=sorted(numbers), shares=shares, likely=range(MARKS), **changes)


def carried(key_set, *licensees):
    """Return the ledger's commitments to the owner's carrier and to these licensees'."""
    return tuple(
        ("carrier.committed", key_set, {"licensee": name, "scheme": "aes-ctr/1", "commitment": "d" * 64})
        for name in ("", *licensees)
    )


def carriers(named, *, owner="21.5", others=("1.5", "-0.25")):
    """Return the record of carriers of a suspect."""
    return {
        "kind": "carriers",
        "scheme": "aes-ctr/1",
        "reference": "6" * 64,
        "elements": 1000,
        "shared": 2000,
        "owner": owner,
        "named": named,
        "others": list(others),
    }


def with_word(evidence, place=0, **changes):
    """Return evidence in which an opened word is another."""
    words = list(evidence.words)
    words[place] = replace(words[place], **changes)
    return replace(evidence, words=tuple(words))
