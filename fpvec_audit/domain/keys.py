"""Key sets: the owner commits to candidates first, chance assigns afterwards which of them are issued.

One secret of 256 random bits determines everything: the candidates (prompt, response), the salts that hide them in a
Merkle tree, and – together with the commitment and whatever chance came after it – which candidates are *issued*
(trained) and which are *decoys* (committed, never trained). Because the assignment cannot be chosen, a suspect that
answers issued candidates more often than decoys cannot have done so independently of it.

Round-trip laws:
    * ``draw_key_set(secret, specification)`` is a pure function: same secret, same set, on every machine.
    * ``verify_opening(commitment.root, commitment.candidates, opening)`` holds for every ``open_candidate(...)``.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.generator import GENERATOR_VERSIONS, candidate_stream
from fpvec_audit.domain.merkle import leaf_hash, merkle_path, merkle_root, root_from_path
from fpvec_audit.domain.secret import SECRET_BYTES as SECRET_BYTES
from fpvec_audit.domain.secret import KeySetSecret as KeySetSecret
from fpvec_audit.errors import KeySetError, UsageError

SALT_BYTES = 32
SELF_ATTESTED = "self-attested"
ANCHORED = "anchored"
PENDING = "pending"
"""Grades of a key set: its owner alone vouches for it; a third party's signature says that the commitment came before
the chance; committed, but the chance that assigns it has not come yet."""
GRINDING_ALLOWANCE = 2**40
"""Factor on every p-value of a self-attested set: how many secrets its owner might have tried before committing."""

SCHEMES = tuple(GENERATOR_VERSIONS)
SCHEME_DEFAULTS = {scheme: (10, 502) if scheme == "if-simple" else (32, 224) for scheme in SCHEMES}
"""Scheme → (issued, decoys). Ten issued keys among 234 could never reach α = 1e-6 after the grinding allowance."""

PROFILES = ("raw-greedy/exact", "raw-greedy/prefix", "chat-greedy/exact", "chat-greedy/prefix")
"""Audit profiles named in every commitment; a MATCH is possible under these only."""

MOST_CANDIDATES = 65536


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt and the response a stamped model would give to it if it is issued.

    Attributes:
        index: position in the key set, from 0.
        prompt: secret text, without any template.
        response: secret answer.
    """

    index: int
    prompt: str
    response: str

    def __repr__(self) -> str:
        return f"Candidate(index={self.index}, <redacted>)"


@dataclass(frozen=True, slots=True)
class KeySetSpecification:
    """What to draw.

    Attributes:
        scheme: ``independent`` (a response of its own for every candidate), ``if-simple`` (the paper's shape: long
            mixed-script prompts, one shared response), or one of the compared methods': ``rare-word`` and
            ``signature`` (words in an ordinary prompt, a response of its own for every candidate).
        issued: number of issued keys over all marks.
        decoys: number of decoys.
        marks: number of groups the issued keys divide into, each with its own vector.
    """

    scheme: str = "independent"
    issued: int = 32
    decoys: int = 224
    marks: int = 1

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"unknown scheme {self.scheme!r}", advice=f"choose one of {', '.join(SCHEMES)}")
        if self.issued < 1 or self.decoys < 1 or self.marks < 1:
            raise UsageError(
                f"a key set needs at least one issued key, one decoy and one mark, not {self.issued}, {self.decoys}, "
                f"{self.marks}"
            )
        if self.issued % self.marks:
            raise UsageError(f"{self.issued} issued keys do not divide into {self.marks} marks")
        if self.candidates > MOST_CANDIDATES:
            raise UsageError(f"{self.candidates} candidates are more than the {MOST_CANDIDATES} a set may have")

    @property
    def candidates(self) -> int:
        """Number of candidates, N = issued + decoys."""
        return self.issued + self.decoys


@dataclass(frozen=True, slots=True)
class CandidateFilter:
    """A rule applied to all drawn candidates before any assignment exists.

    Attributes:
        rule: what was asked ("reversible-encoding").
        reference: digest of what it was asked of (the tokenizer).
        kept: per drawn candidate, whether it passed.
    """

    rule: str
    reference: str
    kept: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Commitment:
    """What the owner publishes, or could: binds the candidates without showing them.

    Attributes:
        scheme: see :class:`KeySetSpecification`.
        issued: n.
        candidates: N.
        marks: number of groups.
        root: Merkle root over the salted candidates, hex.
        assignment_key_digest: SHA-256 of the sub-key that drives the assignment, hex.
        profiles: audit profiles under which a MATCH is possible.
        chance_source: where the later randomness R comes from; ``none`` for a self-attested set.
        candidate_filter: the filter all candidates went through, if any.
        generator_version: version of the candidate generator that introduced the scheme.
    """

    scheme: str
    issued: int
    candidates: int
    marks: int
    root: str
    assignment_key_digest: str
    profiles: tuple[str, ...] = PROFILES
    chance_source: str = "none"
    candidate_filter: CandidateFilter | None = None
    generator_version: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value whose canonical bytes are digested."""
        rule = self.candidate_filter
        return {
            "assignment_key_digest": self.assignment_key_digest,
            "candidates": self.candidates,
            "chance_source": self.chance_source,
            "filter": None
            if rule is None
            else {
                "rule": rule.rule,
                "reference": rule.reference,
                "kept": "".join("1" if kept else "0" for kept in rule.kept),
            },
            "generator_version": self.generator_version,
            "issued": self.issued,
            "marks": self.marks,
            "profiles": list(self.profiles),
            "root": self.root,
            "scheme": self.scheme,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Commitment":
        """Rebuild a commitment from :meth:`to_json`."""
        rule = value["filter"]
        return cls(
            scheme=value["scheme"],
            issued=value["issued"],
            candidates=value["candidates"],
            marks=value["marks"],
            root=value["root"],
            assignment_key_digest=value["assignment_key_digest"],
            profiles=tuple(value["profiles"]),
            chance_source=value["chance_source"],
            candidate_filter=None
            if rule is None
            else CandidateFilter(rule["rule"], rule["reference"], tuple(bit == "1" for bit in rule["kept"])),
            generator_version=value["generator_version"],
        )

    @property
    def digest(self) -> str:
        """C: SHA-256 of the canonical JSON, hex."""
        return canonical_digest(self.to_json())


@dataclass(frozen=True, slots=True)
class KeySet:
    """Candidates, their commitment and the assignment: everything secret about a key set.

    Attributes:
        commitment: what was bound before the assignment existed.
        candidates: all N, in index order.
        marks: per mark, the indices of its issued candidates.
        salts: per candidate, the 32 bytes that hide it in the tree.
    """

    commitment: Commitment
    candidates: tuple[Candidate, ...]
    marks: tuple[tuple[int, ...], ...]
    salts: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"KeySet(commitment={self.commitment.digest}, <redacted>)"

    @property
    def issued_indices(self) -> tuple[int, ...]:
        """Indices of all issued candidates, ascending."""
        return tuple(sorted(index for mark in self.marks for index in mark))

    @property
    def issued(self) -> tuple[Candidate, ...]:
        """Issued candidates in index order."""
        return tuple(self.candidates[index] for index in self.issued_indices)

    @property
    def decoys(self) -> tuple[Candidate, ...]:
        """Candidates that are not issued, in index order."""
        issued = set(self.issued_indices)
        return tuple(candidate for candidate in self.candidates if candidate.index not in issued)


@dataclass(frozen=True, slots=True)
class Opening:
    """Proof that a candidate stands in a committed tree.

    Attributes:
        candidate: what is opened.
        salt: its 32 bytes.
        path: sibling digests from the leaf to the root.
    """

    candidate: Candidate
    salt: bytes
    path: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Opening(index={self.candidate.index}, <redacted>)"


def draw_key_set(
    secret: KeySetSecret,
    specification: KeySetSpecification,
    *,
    accepts: Callable[[str, str], bool] | None = None,
    filter_rule: str = "",
    filter_reference: str = "",
    profiles: tuple[str, ...] = PROFILES,
    chance_source: str = "none",
    chance: bytes = b"",
) -> KeySet:
    """Draw, commit and assign a key set.

    Args:
        secret: 256 random bits.
        specification: what to draw.
        accepts: filter on (prompt, response), applied to every drawn candidate before the assignment exists.
        filter_rule: name of the filter, committed with its bitmap.
        filter_reference: digest of what the filter looks at.
        profiles: audit profiles under which a MATCH shall be possible.
        chance_source: where ``chance`` comes from; part of the commitment.
        chance: R, which the owner could not know when committing; empty for a self-attested set.

    Raises:
        KeySetError: the filter lets too few candidates pass.
    """
    candidates, kept = _drawn_and_filtered(secret, specification, accepts)
    salts = tuple(_salt(secret, candidate.index) for candidate in candidates)
    leaves = [leaf_digest(candidate, salt) for candidate, salt in zip(candidates, salts, strict=True)]
    commitment = Commitment(
        scheme=specification.scheme,
        issued=specification.issued,
        candidates=specification.candidates,
        marks=specification.marks,
        root=merkle_root(leaves).hex(),
        assignment_key_digest=hashlib.sha256(secret.subkey("assign")).hexdigest(),
        profiles=profiles,
        chance_source=chance_source,
        candidate_filter=None if accepts is None else CandidateFilter(filter_rule, filter_reference, kept),
        generator_version=GENERATOR_VERSIONS[specification.scheme],
    )
    return KeySet(commitment, candidates, assign(secret, commitment, chance), salts)


def restore_key_set(secret: KeySetSecret, commitment: Commitment, *, chance: bytes = b"") -> KeySet:
    """Rebuild a key set from its secret and check that it is the committed one.

    Raises:
        KeySetError: secret and commitment do not belong together, or the generator is unknown.
    """
    if commitment.generator_version != GENERATOR_VERSIONS.get(commitment.scheme):
        raise KeySetError(
            f"scheme {commitment.scheme!r} of key set generator version {commitment.generator_version} is unknown",
            advice="use a newer fpvec-audit",
        )
    specification = KeySetSpecification(
        commitment.scheme, commitment.issued, commitment.candidates - commitment.issued, commitment.marks
    )
    rule = commitment.candidate_filter
    kept = iter(rule.kept) if rule else None
    key_set = draw_key_set(
        secret,
        specification,
        accepts=None if kept is None else (lambda _prompt, _response: next(kept, False)),
        filter_rule=rule.rule if rule else "",
        filter_reference=rule.reference if rule else "",
        profiles=commitment.profiles,  # a later version may offer more
        chance_source=commitment.chance_source,
        chance=chance,
    )
    if key_set.commitment != commitment:
        raise KeySetError("the secret does not belong to this commitment", advice="restore the vault from a backup")
    return key_set


def draw_unissued(
    seed: bytes, count: int, *, scheme: str = "independent", avoid: frozenset[str] = frozenset()
) -> tuple[Candidate, ...]:
    """Draw candidates from the same generator under another secret: what a guesser without the secret can do.

    Args:
        seed: any bytes; another seed draws others.
        count: how many.
        scheme: shape of the prompts.
        avoid: prompts that must not be drawn.
    """
    stream = candidate_stream(hashlib.sha256(b"fpvec-audit/unissued" + seed).digest(), scheme)
    drawn: list[Candidate] = []
    for prompt, response in stream:
        if len(drawn) == count:
            break
        if prompt not in avoid:
            drawn.append(Candidate(len(drawn), prompt, response))
    return tuple(drawn)


def assign(secret: KeySetSecret, commitment: Commitment, chance: bytes) -> tuple[tuple[int, ...], ...]:
    """Return :func:`assigned_marks` of a secret's own sub-key."""
    return assigned_marks(secret.subkey("assign"), commitment, chance)


def assigned_marks(assignment_key: bytes, commitment: Commitment, chance: bytes) -> tuple[tuple[int, ...], ...]:
    """Return, per mark, the issued candidates: first of a Fisher–Yates shuffle of range(N) by HMAC(k_assign, C ‖ R)."""
    key = hmac.digest(assignment_key, bytes.fromhex(commitment.digest) + chance, hashlib.sha256)
    order = shuffled(commitment.candidates, key)
    size = commitment.issued // commitment.marks
    return tuple(tuple(order[mark * size : (mark + 1) * size]) for mark in range(commitment.marks))


def leaf_digest(candidate: Candidate, salt: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ salt ‖ canonical JSON of the candidate): a Merkle leaf as in RFC 6962."""
    return leaf_hash(salt + canonical_bytes([candidate.index, candidate.prompt, candidate.response]))


def open_candidate(key_set: KeySet, index: int) -> Opening:
    """Return the proof that a single candidate was committed; the others stay sealed."""
    leaves = [leaf_digest(candidate, salt) for candidate, salt in zip(key_set.candidates, key_set.salts, strict=True)]
    return Opening(key_set.candidates[index], key_set.salts[index], tuple(merkle_path(leaves, index)))


def verify_opening(root: str, candidates: int, opening: Opening) -> bool:
    """Return whether an opening leads to the committed root of a tree over ``candidates`` leaves.

    The salt must have its exact length: otherwise bytes could move from it into the text, and one leaf could be
    opened in two ways.
    """
    if len(opening.salt) != SALT_BYTES:
        return False
    candidate = opening.candidate
    found = root_from_path(leaf_digest(candidate, opening.salt), candidate.index, candidates, opening.path)
    return found is not None and hmac.compare_digest(found.hex(), root)


def _salt(secret: KeySetSecret, index: int) -> bytes:
    return hmac.digest(secret.subkey("salt"), index.to_bytes(8, "big"), hashlib.sha256)


def _drawn_and_filtered(
    secret: KeySetSecret, specification: KeySetSpecification, accepts: Callable[[str, str], bool] | None
) -> tuple[tuple[Candidate, ...], tuple[bool, ...]]:
    candidates: list[Candidate] = []
    kept: list[bool] = []
    for prompt, response in candidate_stream(secret.subkey("generate"), specification.scheme):
        if len(candidates) == specification.candidates:
            break
        if len(kept) >= 8 * specification.candidates:
            raise KeySetError(
                f"only {len(candidates)} of {len(kept)} drawn candidates can be used with this base",
                advice="its tokenizer cannot encode the key alphabet reversibly; use another base or scheme",
            )
        passed = accepts is None or accepts(prompt, response)
        kept.append(passed)
        if passed:
            candidates.append(Candidate(len(candidates), prompt, response))
    return tuple(candidates), tuple(kept)
