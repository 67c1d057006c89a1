"""What the registry remembers, as frozen values: repositories hand these out, never rows.

Times are aware datetimes in UTC, digests lower-case hexadecimal SHA-256, paths strings. A plain key set has one mark
and a plain vector is a family of one, so nothing changes shape when there are more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from fpvec_audit.domain.keys import Commitment


class ModelRole(StrEnum):
    """What a registered checkpoint is to its owner."""

    BASE = "base"
    FINGERPRINTED = "fingerprinted"
    DOWNSTREAM = "downstream"
    STAMPED = "stamped"
    SUSPECT = "suspect"


class KeySetState(StrEnum):
    """``pending`` → ``issued`` → ``embedded`` → ``burnt``, ``retired`` or ``compromised``.

    ``embedded``: a model carries it – its training ended well, or a vector of it was extracted. ``burnt``: every issued
    key was shown to somebody. ``retired``: its owner uses it no more. ``compromised``: its owner says that somebody
    else has it, so that a match proves nothing from then on. There is no way back, and of the last two only the one
    from ``retired`` to ``compromised`` is left.
    """

    PENDING = "pending"
    ISSUED = "issued"
    EMBEDDED = "embedded"
    BURNT = "burnt"
    RETIRED = "retired"
    COMPROMISED = "compromised"


class JobState(StrEnum):
    """``running`` → one of the others; ``interrupted`` is said by others when the process that ran it is gone."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A checkpoint, identified by its canonical digest.

    Attributes:
        id: canonical digest of the weights (version 1).
        name: unique name.
        role: what it is to its owner.
        architecture: adapter name, empty when unknown.
        location: where it was last seen.
        parent: id of the model it was made from, None when unknown.
        parameters: number of stored elements.
        created_at: when it was registered.
    """

    id: str
    name: str
    role: ModelRole
    architecture: str
    location: str
    parent: str | None
    parameters: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeySetRecord:
    """An issued key set without its secrets; those come from the vault.

    Attributes:
        id: ``ks-`` and the first 16 characters of the commitment's digest.
        name: unique name.
        owner: who issued it, may be empty.
        licensee: whom it was issued for, may be empty.
        commitment: what was bound.
        grade: ``self-attested`` until chance came from elsewhere.
        chance: R, hex; empty for a self-attested set.
        base: id of the model it is bound to, None before its first training.
        created_at: when it was issued.
        state: where it is in its life.
    """

    id: str
    name: str
    owner: str
    licensee: str
    commitment: Commitment
    grade: str
    chance: str
    base: str | None
    created_at: datetime
    state: KeySetState = KeySetState.ISSUED


@dataclass(frozen=True, slots=True)
class KeySetEnd:
    """How the life of a key set ended, as it stands in the ledger.

    Attributes:
        state: ``retired`` or ``compromised``.
        at: when that was said, ISO 8601.
        by: who said so.
        reason: why.
    """

    state: KeySetState
    at: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """A fingerprint vector on disk.

    Attributes:
        id: ``vec-`` and the first 16 characters of the canonical digest of its tensors.
        digest: that digest, whole.
        family: id of the training run it came from.
        mark: which mark of the key set it carries, from 0.
        key_set: id of that key set, None when unknown.
        base: id of the base model.
        fingerprinted: id of the fingerprinted model.
        architecture: adapter name.
        location: directory.
        inexact_elements: elements where base + stored vector is not the fingerprinted model.
        norm: Euclidean norm over all elements.
        created_at: when it was extracted.
    """

    id: str
    digest: str
    family: str
    mark: int
    key_set: str | None
    base: str
    fingerprinted: str
    architecture: str
    location: str
    inexact_elements: int
    norm: float
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StampRecord:
    """A stamped model: which vectors were added to which downstream, for whom.

    Attributes:
        id: ``st-`` and 16 characters of the digest of what was asked (downstream, vectors, scales, policies).
        downstream: model id.
        stamped: model id.
        vectors: (vector id, scale) in the order they were given.
        licensee: name, may be empty.
        location: directory.
        applied_ratio: share of λτ that survived rounding.
        cosine: between what was applied and λτ.
        policies: vocabulary policy, skipped roles and the like.
        created_at: when it was stamped.
    """

    id: str
    downstream: str
    stamped: str
    vectors: tuple[tuple[str, float], ...]
    licensee: str
    location: str
    applied_ratio: float
    cosine: float
    policies: Mapping[str, Any]
    created_at: datetime


class SuspectKind(StrEnum):
    """What a suspect is: weights that lie somewhere, or a model that somebody serves."""

    CHECKPOINT = "checkpoint"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class SuspectRecord:
    """Somebody who was audited.

    Attributes:
        id: canonical digest of a checkpoint's weights; of address and model name for an endpoint.
        kind: what it is.
        location: where it was when it was met first, as given.
        first_seen_at: when an audit of it was planned for the first time.
    """

    id: str
    kind: SuspectKind
    location: str
    first_seen_at: datetime


@dataclass(frozen=True, slots=True)
class LicenseeRecord:
    """Whom key sets and stamped copies are issued to.

    Attributes:
        id: ``li-`` and 16 characters.
        name: unique name.
        created_at: when the first thing was issued to it.
        key_sets: how many key sets were issued to it.
        stamps: how many stamped copies were.
    """

    id: str
    name: str
    created_at: datetime
    key_sets: int = 0
    stamps: int = 0


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit: its plan's digest before the first query, its result afterwards.

    Attributes:
        id: ``au-`` and 16 characters.
        key_set: id.
        suspect: what was asked, as given.
        suspect_digest: canonical digest of a local suspect, empty otherwise.
        plan_digest: digest of the committed plan.
        plan: the plan itself.
        verdict: empty until it ended.
        result: the versioned audit document; empty until it ended.
        created_at: when the plan was committed.
        ended_at: None until it ended.
        begin: what chance decided after the plan was recorded (:class:`~fpvec_audit.domain.audit_plan.Begin`); None
            until then.
    """

    id: str
    key_set: str
    suspect: str
    suspect_digest: str
    plan_digest: str
    plan: Mapping[str, Any]
    verdict: str
    result: Mapping[str, Any]
    created_at: datetime
    ended_at: datetime | None
    begin: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AttackRunRecord:
    """One cell of a robustness run.

    Attributes:
        id: ``at-`` and 16 characters.
        stamped: model id.
        key_set: id.
        attack: name of the attack.
        parameters: its parameters.
        state: how the cell ended.
        result: the cell's document.
        created_at: when it ended.
    """

    id: str
    stamped: str
    key_set: str
    attack: str
    parameters: Mapping[str, Any]
    state: JobState
    result: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Long work under way or ended.

    Attributes:
        id: ``job-`` and 16 characters.
        kind: use case ("fingerprint", "stamp", …).
        state: see :class:`JobState`.
        detail: what it works on, and why it failed.
        process: process id on ``host``.
        host: name of the machine.
        started_at: when it began.
        ended_at: None while it runs.
        command: arguments that began it, without secrets and without those that say which registry; empty where it was
            not begun by a command.
        directory: where that command was given.
        heartbeat_at: last sign of life.
        cancel_asked_at: when somebody asked for its end, None until then.
    """

    id: str
    kind: str
    state: JobState
    detail: Mapping[str, Any]
    process: int
    host: str
    started_at: datetime
    ended_at: datetime | None
    command: tuple[str, ...] = ()
    directory: str = ""
    heartbeat_at: datetime | None = None
    cancel_asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One link of the append-only history.

    Attributes:
        serial: position from 1, without gaps.
        at: when it was written, ISO 8601 in UTC with microseconds.
        event: what happened ("key_set.issued", "audit.planned", …).
        subject: id of what it happened to.
        content: JSON without floats and without secrets.
        previous: digest of the entry before; 64 zeros for the first.
        digest: SHA-256 of the canonical JSON of all the other fields.
    """

    serial: int
    at: str
    event: str
    subject: str
    content: Mapping[str, Any]
    previous: str
    digest: str = field(default="")
