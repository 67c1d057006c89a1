"""Be a witness, and let a witness decide: keys, signed statements, and key sets that wait for one.

The witness works with three files and nothing else: its private key, its public key, and its log. The log is what keeps
the owner of a key set from asking until he likes the answer: every subject is signed once, the statement is on disk
before it is handed out, and asking again gives the first statement back.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, BinaryIO

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.witness import (
    COMMITMENT,
    FIRST_PREVIOUS,
    LOG_SCHEMA,
    PLAN,
    WitnessLogEntry,
    WitnessRequest,
    WitnessSource,
    WitnessStatement,
    first_misfit,
    next_statement,
    signed_before,
)
from fpvec_audit.errors import EvidenceError, UsageError
from fpvec_audit.evidence.documents import (
    MOST_DOCUMENT_BYTES,
    checked_fields,
    parse_document,
    read_bytes,
    read_document,
    write_document,
    write_new,
)
from fpvec_audit.evidence.signing import Envelope, PublicKey, SigningKey
from fpvec_audit.evidence.witness import SignedStatement, sign_statement, verify_statement
from fpvec_audit.services.keys import (
    IssuedKeySet,
    complete_key_set,
    issue_key_set,
    size_warnings,
    waiting_key_set,
    witness_request,
)

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

KEY_SUFFIX, PUBLIC_SUFFIX, LOG_SUFFIX = ".key", ".pub", ".log"
MOST_LOG_BYTES = 256 << 20

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness that was just set up.

    Attributes:
        key: file of the private key.
        public: file of the public key, to be handed out.
        log: file of the log, empty so far.
        public_key: the public key.
    """

    key: Path
    public: Path
    log: Path
    public_key: PublicKey

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "key": str(self.key),
            "public": str(self.public),
            "log": str(self.log),
            "witness": self.public_key.hex,
            "key_id": self.public_key.key_id,
        }


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A statement that was signed, or had been before.

    Attributes:
        signed: the statement with its signature.
        out: file it was written to.
        already: whether the same subject was signed before, so that the first statement was given again.
        request: what was asked for.
    """

    signed: SignedStatement
    out: Path
    already: bool
    request: WitnessRequest

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        warnings = []
        said = self.signed.statement
        if self.already:
            warnings.append(
                f"signed before, at {said.time}: every {said.subject} is signed once, so that nobody can choose"
            )
        if self.already and said.name != self.request.name:
            warnings.append(f"it was called {said.name!r} then, and is called {self.request.name!r} now")
        return statement_json(self.signed) | {"out": str(self.out), "already": self.already, "warnings": warnings}


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """What became of verifying a statement.

    Attributes:
        signed: the statement, None where it does not verify.
        pinned: whether it was held against a key that the verifier was given.
        problems: why it does not verify, in sentences.
    """

    signed: SignedStatement | None
    pinned: bool
    problems: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the statement was made by the witness it names, and by the pinned one where a key was given."""
        return self.signed is not None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        shown: dict[str, Any] = {"valid": self.valid, "signer": "pinned" if self.pinned else "signer not pinned"}
        if self.signed is not None:
            shown |= statement_json(self.signed)
        return shown | {"problems": list(self.problems)}


def init_witness(
    directory: Path, *, name: str = "witness", key: Callable[[], SigningKey] = SigningKey.generate
) -> Witness:
    """Make the three files of a witness; nothing is overwritten.

    Args:
        directory: where; made if it is missing.
        name: beginning of the files' names.
        key: draws the key.

    Raises:
        UsageError: the name cannot begin a file's name.
        EvidenceError: one of the files exists, or cannot be written.
    """
    if not _FILE_NAME.fullmatch(name):
        raise UsageError(f"a witness named {name!r} cannot name its files", advice="use letters, digits, - and _")
    drawn = key()
    witness = Witness(
        directory / f"{name}{KEY_SUFFIX}",
        directory / f"{name}{PUBLIC_SUFFIX}",
        directory / f"{name}{LOG_SUFFIX}",
        drawn.public_key,
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be made: {error.strerror}") from error
    for file in (witness.key, witness.public, witness.log):
        if file.exists() or file.is_symlink():
            raise EvidenceError(f"{file} exists already", advice="use that witness, or another --name")
    drawn.save(witness.key)
    drawn.public_key.save(witness.public)
    write_new(witness.log, b"", "log")
    return witness


def sign_request(
    request_file: Path, *, witness_key: Path, out: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> SignedRequest:
    """Sign what a request asks for, once; asked again, give the first statement back.

    The statement is in the log, on disk, before it is handed out.

    Args:
        request_file: the request.
        witness_key: private key; its log lies beside it.
        out: file for the signed statement.
        clock: the witness's clock.

    Raises:
        EvidenceError: request, key or log cannot be used, or ``out`` holds something else.
    """
    request = WitnessRequest.from_json(read_document(request_file, "witness request"))
    key = SigningKey.load(witness_key)
    with _locked_log(witness_key.with_suffix(LOG_SUFFIX)) as file:
        log = _read_log(file, key.public_key)
        entry = signed_before(log, request)
        if entry is not None:
            signed = verify_statement(dict(entry.envelope), signer=key.public_key)
        else:
            said = next_statement(log, request, witness=key.public_key.hex, now=clock())
            signed = sign_statement(said, key)
            previous = log[-1].digest if log else FIRST_PREVIOUS
            _append(file, WitnessLogEntry(previous, said, signed.envelope.to_json()))
    write_document(out, signed.envelope.to_json(), "witness statement")
    return SignedRequest(signed, out, entry is not None, request)


def verify_statement_file(file: Path, *, signer: Path | None = None) -> VerifiedStatement:
    """Say whether a signed statement verifies.

    Args:
        file: the signed statement.
        signer: public key that it must be by; None believes the key that it names itself.

    Raises:
        EvidenceError: a file cannot be read, or the public key is none.
    """
    pinned = None if signer is None else PublicKey.load(signer)
    content = read_bytes(file, "witness statement", most=MOST_DOCUMENT_BYTES)
    try:
        signed = verify_statement(parse_document(content, "witness statement"), signer=pinned)
    except EvidenceError as error:
        return VerifiedStatement(None, signer is not None, (str(error),))
    return VerifiedStatement(signed, signer is not None)


def issue_with_witness(
    name: str,
    witness_file: Path,
    *,
    registry: "Registry",
    specification: KeySetSpecification,
    request_file: Path | None = None,
    **options: Any,
) -> IssuedKeySet:
    """Commit a key set to a witness, or issue it when the witness has signed.

    Args:
        name: unique name.
        witness_file: the witness's public key (commits and writes a request), or its signed statement (issues).
        registry: where it is recorded.
        specification: what to draw; a set that is committed keeps what it was committed with.
        request_file: where the request goes, ``NAME.request.json`` by default.
        options: owner, licensee, base and so on, as for :func:`fpvec_audit.services.keys.issue_key_set`.

    Raises:
        UsageError: the name is taken.
        EvidenceError: the file is neither, or does not verify.
        KeySetError: the set was issued by another statement.
    """
    content = read_bytes(witness_file, "public key or signed statement", most=MOST_DOCUMENT_BYTES)
    if content.lstrip().startswith(b"{"):
        envelope = parse_document(content, "witness statement")
        return complete_key_set(name, registry=registry, proof=_proof_of_witness(envelope))
    source = WitnessSource(PublicKey.load(witness_file).hex).text
    record = waiting_key_set(name, registry=registry, chance_source=source)
    already = record is not None
    if record is None:
        issued = issue_key_set(name, registry=registry, specification=specification, chance_source=source, **options)
        record, warnings = issued.record, issued.warnings
    else:
        decoys = record.commitment.candidates - record.commitment.issued
        warnings = size_warnings(record.commitment.issued, decoys, grade=record.grade)
    file = write_request(record, request_file)
    return IssuedKeySet(record, warnings, already=already, request=str(file), next=_next_step(record, file))


def write_request(record: KeySetRecord, file: Path | None = None) -> Path:
    """Write what a witness is asked to sign about a key set, and return the file."""
    if file is None:
        file = Path(re.sub(r"[^\w.-]+|^\.", "-", record.name) + ".request.json")
    write_document(file, witness_request(record).to_json(), "witness request")
    return file


def write_plan_request(digest: str, *, name: str, file: Path) -> Path:
    """Write what a witness is asked to sign about an audit's plan, and return the file.

    Args:
        digest: of the plan, hex.
        name: what the audit is called.
        file: where to write.

    Raises:
        OutputError: there is another file already, or it cannot be written.
    """
    write_document(file, WitnessRequest("plan", digest, name).to_json(), "witness request")
    return file


def _next_step(record: KeySetRecord, request: Path) -> str:
    return (
        f"hand {request} to the witness, who runs `fpvec witness sign {quote(request.name)} --witness-key FILE --out "
        f"SIGNED`; then run `fpvec key issue {quote(record.name)} --witness SIGNED`"
    )


def _proof_of_witness(envelope: dict[str, Any]) -> dict[str, Any]:
    statement = WitnessStatement.from_json(Envelope.from_json(envelope).document)
    return {"source": WitnessSource(statement.witness).text, "envelope": envelope}


def statement_json(signed: SignedStatement) -> dict[str, Any]:
    """Return what a statement says as the JSON object that scripts read, with the chance that it gives."""
    said = signed.statement
    shown: dict[str, Any] = {name: value for name, value in said.to_json().items() if name != "schema"}
    shown["key_id"] = signed.envelope.key_id
    if said.subject in (COMMITMENT, PLAN):
        shown["chance"] = signed.chance.hex()
    return shown


@contextmanager
def _locked_log(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise EvidenceError(
            f"the log {path} of this witness is missing",
            advice="put it back beside the key: without it the same thing could be signed twice",
        ) from error
    except OSError as error:
        raise EvidenceError(f"the log {path} of this witness cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two requests at once must not get one serial
        yield file


def _read_log(file: BinaryIO, witness: PublicKey) -> list[WitnessLogEntry]:
    state = os.fstat(file.fileno())
    if not stat.S_ISREG(state.st_mode) or state.st_size > MOST_LOG_BYTES:
        raise EvidenceError(f"the log of this witness is not a file of at most {MOST_LOG_BYTES} bytes")
    lines = file.read().split(b"\n")
    if lines.pop():
        raise EvidenceError(
            f"the last line of this witness's log (line {len(lines) + 1}) is unfinished",
            advice="its statement was never handed out: keep a copy of the log, then cut that line off",
        )
    log = [_log_entry(line, number) for number, line in enumerate(lines, start=1)]
    misfit = first_misfit(log, witness=witness.hex)
    if misfit is not None:
        raise EvidenceError(
            f"line {misfit} of this witness's log does not continue the lines before it, or is another witness's",
            advice="restore the log from a backup; do not sign with this key before",
        )
    return log


def _log_entry(line: bytes, number: int) -> WitnessLogEntry:
    what = f"line {number} of the witness's log"
    value = checked_fields(parse_document(line, what), {"schema": str, "previous": str, "envelope": dict}, what)
    if value["schema"] != LOG_SCHEMA:
        raise EvidenceError(f"{what} has the schema {value['schema'][:40]!r}, not {LOG_SCHEMA!r}")
    statement = WitnessStatement.from_json(Envelope.from_json(value["envelope"]).document)
    return WitnessLogEntry(value["previous"], statement, value["envelope"])


def _append(file: BinaryIO, entry: WitnessLogEntry) -> None:
    line = canonical_bytes(entry.to_json()) + b"\n"
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError("only a part of the line was written")
        os.fsync(file.fileno())
    except OSError as error:
        raise EvidenceError(f"the log of this witness cannot be written: {error}") from error
