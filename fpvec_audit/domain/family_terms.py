"""By what terms a family's marks may name licensees: fixed, with all words, in the plan of a trace.

Whoever could choose rule, c, ε or who counts as a licensee after the answers came could name anybody. So the plan holds
them before the first question, and with them the Merkle root over who has which word: a leaf holds a licensee's number,
name and the salted digest of its word (``domain/code_words.py``). A word is opened, with its salt and path, for whom it
names; the leaves of all others stay sealed, as the digest inside hides the name beside it. Who knows the key set's
secret computes every digest, and can confirm a name by guessing.

Round-trip law: ``FamilyTerms.from_json(terms.to_json()) == terms``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.code_choice import naming_rules
from fpvec_audit.domain.code_records import CodeRecord, CodeWordRecord
from fpvec_audit.domain.code_words import word_digest
from fpvec_audit.domain.codes import Code, parse_code
from fpvec_audit.domain.merkle import leaf_hash, merkle_paths, merkle_root, root_from_path


@dataclass(frozen=True, slots=True)
class FamilyTerms:
    """Terms of one family.

    Attributes:
        code: as it is written (``plane:4``).
        colluders: c of rule A; 0 where rule B alone names.
        epsilon: chance that rule B names anybody wrongly, at most, as decimal text.
        binding: digest of the key that orders the words, hex.
        licensees: L, words that were issued, retired ones too.
        root: Merkle root over their holders and digests, hex.
        families: how many families are read together.
    """

    code: str
    colluders: int
    epsilon: str
    binding: str
    licensees: int
    root: str
    families: int = 1

    @classmethod
    def of(cls, code: CodeRecord, words: Sequence[CodeWordRecord], *, families: int) -> "FamilyTerms":
        """Return the terms of a family as it is recorded, with at least one word."""
        root = merkle_root(holder_leaves(words)).hex()
        return cls(code.text, code.colluders, code.epsilon, code.binding, len(words), root, families)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in a plan."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FamilyTerms":
        """Rebuild terms from :meth:`to_json`."""
        return cls(**{name: value[name] for name in cls.__slots__})

    def parsed(self, marks: int) -> Code:
        """Return the code, over a family of so many marks.

        Raises:
            UsageError: there is no such code.
        """
        return parse_code(self.code, marks=marks)

    def rules(self, code: Code) -> tuple[str, ...]:
        """Return the rules by which licensees are named."""
        return naming_rules(code, self.colluders)

    @property
    def most_wrong(self) -> Fraction:
        """ε as an exact number."""
        return Fraction(self.epsilon)


@dataclass(frozen=True, slots=True)
class OpenedWord:
    """Proof that a licensee held a word when the plan was made.

    Attributes:
        number: from 0, in the order in which words were issued.
        licensee: name of whom it was issued to.
        rank: of the word in the code.
        marks: the word, ascending; follows from the rank.
        salt: what hides it in its digest.
        path: sibling digests from the leaf to the root.
    """

    number: int
    licensee: str
    rank: int
    marks: tuple[int, ...]
    salt: bytes
    path: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"OpenedWord({self.number}, <redacted>)"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in a bundle."""
        return {
            "number": self.number,
            "licensee": self.licensee,
            "rank": str(self.rank),
            "marks": list(self.marks),
            "salt": self.salt.hex(),
            "path": [digest.hex() for digest in self.path],
        }

    def digest(self, commitment: str, terms: FamilyTerms) -> str:
        """Return the salted digest that the registry recorded when the word was issued, hex.

        Args:
            commitment: digest of the key set's commitment, hex.
            terms: of the family.
        """
        return word_digest(commitment, terms.code, self.number, self.marks, self.salt)


def holder_leaf(number: int, licensee: str, digest: str) -> bytes:
    """Return the leaf of a licensee: SHA-256(0x00 ‖ canonical JSON of [number, name, digest of its word])."""
    return leaf_hash(canonical_bytes([number, licensee, digest]))


def holder_leaves(words: Sequence[CodeWordRecord]) -> list[bytes]:
    """Return the leaves of all licensees, by number."""
    return [holder_leaf(word.number, word.licensee, word.commitment) for word in words]


def holder_paths(words: Sequence[CodeWordRecord]) -> tuple[tuple[bytes, ...], ...]:
    """Return the path of every licensee's leaf to the root."""
    return merkle_paths(holder_leaves(words))


def stands_in_terms(word: OpenedWord, commitment: str, terms: FamilyTerms) -> bool:
    """Return whether a licensee held a word by the terms of a plan."""
    leaf = holder_leaf(word.number, word.licensee, word.digest(commitment, terms))
    found = root_from_path(leaf, word.number, terms.licensees, word.path)
    return found is not None and found.hex() == terms.root
