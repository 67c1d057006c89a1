"""What a witness signs, and what its signature decides.

A witness is another party with an Ed25519 key. Its signature over a commitment says that the commitment existed, and
nobody – its owner included – could know the signature before: SHA-256 of it is the chance R from which the assignment
of a key set follows. Ed25519 is deterministic, so a second statement about the same thing would be a second draw: a
witness signs every (subject, digest) once and shows that one statement ever after, which its log guards.

Round-trip laws: ``from_json(x.to_json()) == x`` for requests, statements and log entries;
``chance_source(source.text) == source``.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fpvec_audit.domain.beacon import MOST_ROUND, BeaconChain, chain_named
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import EvidenceError, UsageError

REQUEST_SCHEMA = "fpvec-audit/witness-request/1"
STATEMENT_SCHEMA = "fpvec-audit/witness-statement/1"
LOG_SCHEMA = "fpvec-audit/witness-log/1"
STATEMENT_TYPE = "application/vnd.fpvec-audit.witness-statement+json"
"""DSSE payload type of a statement: no other document can be passed off as one."""

COMMITMENT, PLAN, LEDGER_HEAD = "commitment", "plan", "ledger-head"
SUBJECTS = (COMMITMENT, PLAN, LEDGER_HEAD)
FIRST_PREVIOUS = "0" * 64
MOST_NAME = 200
MOST_SERIAL = 2**53 - 1
NO_CHANCE = "none"

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WITNESS_SOURCE = re.compile(r"witness:([0-9a-f]{64})")
_BEACON_SOURCE = re.compile(r"drand:([0-9a-f]{64}):([1-9][0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class WitnessRequest:
    """What somebody asks a witness to sign.

    Attributes:
        subject: ``commitment``, ``plan`` or ``ledger-head``.
        digest: SHA-256 of it, hex.
        name: what its owner calls it; a courtesy to the witness.
        serial: number the owner gives it (the serial of a ledger head), None without; shown, not signed.
    """

    subject: str
    digest: str
    name: str = ""
    serial: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is handed to the witness."""
        value = {"schema": REQUEST_SCHEMA, "subject": self.subject, "digest": self.digest, "name": self.name}
        return value if self.serial is None else value | {"serial": self.serial}

    @classmethod
    def from_json(cls, value: Any) -> "WitnessRequest":
        """Rebuild a request from :meth:`to_json`.

        Raises:
            EvidenceError: unknown or missing fields, or values that nobody should sign.
        """
        what = "witness request"
        fields = _fields(value, REQUEST_SCHEMA, what, needed={"subject", "digest", "name"}, allowed={"serial"})
        serial = None if "serial" not in fields else _serial(fields["serial"], what)
        return cls(_subject(fields, what), _digest(fields["digest"], "digest", what), _name(fields, what), serial)


@dataclass(frozen=True, slots=True)
class WitnessStatement:
    """What a witness says: at this time, as my n-th statement, I was shown this.

    Attributes:
        subject: ``commitment``, ``plan`` or ``ledger-head``.
        digest: SHA-256 of it, hex.
        name: what its owner called it.
        serial: number in the witness's log, from 1 without gaps.
        time: UTC, ISO 8601 with seconds.
        witness: the witness's public key, hex.
    """

    subject: str
    digest: str
    name: str
    serial: int
    time: str
    witness: str

    @property
    def moment(self) -> datetime:
        """The time as an aware datetime."""
        return datetime.fromisoformat(self.time)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is signed."""
        return {
            "schema": STATEMENT_SCHEMA,
            "subject": self.subject,
            "digest": self.digest,
            "name": self.name,
            "serial": self.serial,
            "time": self.time,
            "witness": self.witness,
        }

    @classmethod
    def from_json(cls, value: Any) -> "WitnessStatement":
        """Rebuild a statement from :meth:`to_json`.

        Raises:
            EvidenceError: unknown or missing fields, or values in another form.
        """
        what = "witness statement"
        needed = {"subject", "digest", "name", "serial", "time", "witness"}
        fields = _fields(value, STATEMENT_SCHEMA, what, needed=needed)
        return cls(
            _subject(fields, what),
            _digest(fields["digest"], "digest", what),
            _name(fields, what),
            _serial(fields["serial"], what),
            _time(fields["time"], what),
            _digest(fields["witness"], "witness", what),
        )


@dataclass(frozen=True, slots=True)
class WitnessLogEntry:
    """One line of a witness's log: a signed statement and the digest of the line before.

    Attributes:
        previous: digest of the entry before, 64 zeros for the first.
        statement: what was signed.
        envelope: the signed envelope as it was handed out.
    """

    previous: str
    statement: WitnessStatement
    envelope: Mapping[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the line."""
        return {"schema": LOG_SCHEMA, "previous": self.previous, "envelope": dict(self.envelope)}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return canonical_digest(self.to_json())


@dataclass(frozen=True, slots=True)
class WitnessSource:
    """Chance that comes from a witness's signature over the commitment.

    Attributes:
        witness: the witness's public key, hex; fixed by the commitment.
    """

    witness: str

    @property
    def text(self) -> str:
        """How a commitment names it."""
        return f"witness:{self.witness}"


@dataclass(frozen=True, slots=True)
class BeaconSource:
    """Chance that comes from a round of a public beacon.

    Attributes:
        chain: network of the beacon.
        round: number of the round; fixed by the commitment.
    """

    chain: BeaconChain
    round: int

    @property
    def text(self) -> str:
        """How a commitment names it."""
        return self.chain.source(self.round)


def chance_source(text: str) -> WitnessSource | BeaconSource | None:
    """Return where the chance of a commitment comes from, None for a self-attested key set.

    Raises:
        EvidenceError: the commitment names a source that is not known here.
    """
    if text == NO_CHANCE:
        return None
    if witness := _WITNESS_SOURCE.fullmatch(text):
        return WitnessSource(witness[1])
    if (beacon := _BEACON_SOURCE.fullmatch(text)) and int(beacon[2]) <= MOST_ROUND:
        try:
            return BeaconSource(chain_named(beacon[1]), int(beacon[2]))
        except UsageError as error:
            raise EvidenceError(error.problem, advice=error.advice) from error
    raise EvidenceError(f"{text[:100]!r} is no source of chance that this program knows", advice="use a newer one")


def chance_of(signature: bytes) -> bytes:
    """Return R: SHA-256 of a witness's raw signature."""
    return hashlib.sha256(signature).digest()


def next_statement(
    log: Sequence[WitnessLogEntry], request: WitnessRequest, *, witness: str, now: datetime
) -> WitnessStatement:
    """Return the statement that comes next in a log.

    Args:
        log: all entries so far.
        request: what is asked for; must not be in the log.
        witness: the witness's public key, hex.
        now: the witness's clock.

    Raises:
        EvidenceError: the clock stands before the last statement.
    """
    assert signed_before(log, request) is None
    moment = now.astimezone(UTC).replace(microsecond=0)
    if log and moment < log[-1].statement.moment:
        raise EvidenceError(
            f"the clock says {moment.isoformat()}, but the last statement was made at {log[-1].statement.time}",
            advice="set this machine's clock right",
        )
    return WitnessStatement(
        request.subject, request.digest, request.name, len(log) + 1, moment.isoformat(timespec="seconds"), witness
    )


def signed_before(log: Sequence[WitnessLogEntry], request: WitnessRequest) -> WitnessLogEntry | None:
    """Return the entry in which the same subject was signed, whatever it was called; None if it was not."""
    for entry in log:
        if (entry.statement.subject, entry.statement.digest) == (request.subject, request.digest):
            return entry
    return None


def first_misfit(log: Sequence[WitnessLogEntry], *, witness: str) -> int | None:
    """Return the number (from 1) of the first entry that does not continue the log, None when all do.

    Checked are the chain of digests, the serials, the times, that nothing was signed twice, and whose statements they
    are; the signatures are checked where the envelopes are.
    """
    previous, time, seen = FIRST_PREVIOUS, "", set()
    for number, entry in enumerate(log, start=1):
        said = entry.statement
        fits = (entry.previous, said.serial, said.witness) == (previous, number, witness)
        if not fits or said.time < time or (said.subject, said.digest) in seen:
            return number
        previous, time = entry.digest, said.time
        seen.add((said.subject, said.digest))
    return None


def printable(name: str) -> str:
    """Return a name with every character that does not print, or turns the line around, replaced by U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(character) in _UNPRINTABLE else character for character in name)


def _fields(
    value: Any, schema: str, what: str, *, needed: set[str], allowed: set[str] | frozenset[str] = frozenset()
) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise EvidenceError(f"this is no {what}: it does not say {schema!r}")
    names = value.keys() - {"schema"}
    for name in sorted(needed - names):
        raise EvidenceError(f"this {what} lacks {name!r}")
    for name in sorted(names - needed - allowed):
        raise EvidenceError(f"this {what} has an unknown {str(name)[:40]!r}")
    return value


def _subject(fields: Mapping[str, Any], what: str) -> str:
    subject = fields["subject"]
    if subject not in SUBJECTS:
        raise EvidenceError(f"this {what} is about {str(subject)[:40]!r}, not a {', a '.join(SUBJECTS)}")
    return str(subject)


def _digest(text: Any, name: str, what: str) -> str:
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise EvidenceError(f"the {name} of this {what} is not 64 lower-case hexadecimal digits")
    return text


def _name(fields: Mapping[str, Any], what: str) -> str:
    name = fields["name"]
    if not isinstance(name, str) or len(name) > MOST_NAME:
        raise EvidenceError(f"the name in this {what} is no text of at most {MOST_NAME} characters")
    if printable(name) != name:
        raise EvidenceError(f"the name in this {what} has characters that do not print")  # it is shown before signing
    return name


def _serial(number: Any, what: str) -> int:
    if type(number) is not int or not 1 <= number <= MOST_SERIAL:
        raise EvidenceError(f"the serial of this {what} is no positive integer")
    return number


def _time(text: Any, what: str) -> str:
    try:
        if (
            isinstance(text, str)
            and datetime.fromisoformat(text).replace(tzinfo=UTC).isoformat(timespec="seconds") == text
        ):
            return text
    except ValueError:
        pass
    raise EvidenceError(f"the time of this {what} is not like 2026-01-02T03:04:05+00:00")
