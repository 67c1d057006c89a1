"""Keeps an audit's transcript in the registry as it arrives, and marks as burnt what is about to be shown.

Every hand-over is a transaction of its own: what an interruption leaves is whole up to the last answer, and
``--resume`` asks nothing twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fpvec_audit.domain.audit_plan import AuditPlan, Begin
from fpvec_audit.domain.transcript import Answer, Record, answers, chained, first_misfit, genesis, head
from fpvec_audit.errors import RegistryError

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


class Transcript(Protocol):
    """What is asked, answered and told in one examination, wherever it is kept."""

    @property
    def identifier(self) -> str:
        """Id of the audit."""
        ...

    @property
    def records(self) -> tuple[Record, ...]:
        """All records so far."""
        ...

    @property
    def head(self) -> str:
        """Digest of the last record; of plan and nonce while there is none."""
        ...

    @property
    def answered(self) -> frozenset[tuple[int, int]]:
        """(candidate, repeat) that were answered."""
        ...

    def scored(self, kind: str) -> frozenset[int]:
        """Return the candidates of which there is a record of this kind."""
        ...

    def burn(self, indices: Iterable[int]) -> None:
        """Mark candidates as burnt: they are about to be shown."""
        ...

    def keep_answers(self, given: Sequence[Answer]) -> None:
        """Append answers."""
        ...

    def keep(self, contents: Sequence[Mapping[str, Any]]) -> None:
        """Append records with these contents."""
        ...


class RememberedTranscript:
    """The transcript of a rehearsal: in memory alone, and gone with it.

    Args:
        plan: what is carried out.
        begin: what chance decided.
    """

    identifier = "rehearsal"

    def __init__(self, plan: AuditPlan, begin: Begin) -> None:
        self._start = genesis(plan.digest, begin.nonce)
        self._records: list[Record] = []

    @property
    def records(self) -> tuple[Record, ...]:
        """All records so far."""
        return tuple(self._records)

    @property
    def head(self) -> str:
        """Digest of the last record; of plan and nonce while there is none."""
        return head(self._records, start=self._start)

    @property
    def answered(self) -> frozenset[tuple[int, int]]:
        """(candidate, repeat) that were answered."""
        return frozenset((answer.index, answer.repeat) for answer in answers(self._records))

    def scored(self, kind: str) -> frozenset[int]:
        """Return the candidates of which there is a record of this kind."""
        return frozenset(record.content["index"] for record in self._records if record.content["kind"] == kind)

    def burn(self, indices: Iterable[int]) -> None:
        """Burn nothing: who is asked is on this machine."""

    def keep_answers(self, given: Sequence[Answer]) -> None:
        """Append answers."""
        self.keep([answer.to_json() for answer in given])

    def keep(self, contents: Sequence[Mapping[str, Any]]) -> None:
        """Append records with these contents."""
        self._records += chained(contents, previous=self.head, serial=len(self._records))


class TranscriptKeeper:
    """The transcript of one audit under way, in the registry.

    Args:
        identifier: id of the audit.
        plan: its plan.
        begin: what chance decided afterwards.
        registry: where it is kept.

    Raises:
        RegistryError: what was kept before does not belong to this plan.
    """

    def __init__(self, identifier: str, plan: AuditPlan, begin: Begin, *, registry: "Registry") -> None:
        self.identifier = identifier
        self._plan = plan
        self._registry = registry
        self._start = genesis(plan.digest, begin.nonce)
        with registry.unit_of_work() as uow:
            self._records = list(uow.audits.records(identifier, purpose="go on with the audit"))
        misfit = first_misfit(self._records, start=self._start)
        if misfit is not None:
            raise RegistryError(
                f"record {misfit} of audit {identifier} does not continue its transcript",
                advice="run `fpvec registry verify` and restore a backup",
            )

    @property
    def records(self) -> tuple[Record, ...]:
        """All records so far."""
        return tuple(self._records)

    @property
    def head(self) -> str:
        """Digest of the last record; of plan and nonce while there is none."""
        return head(self._records, start=self._start)

    @property
    def answered(self) -> frozenset[tuple[int, int]]:
        """(candidate, repeat) that were answered."""
        return frozenset((answer.index, answer.repeat) for answer in answers(self._records))

    def scored(self, kind: str) -> frozenset[int]:
        """Return the candidates of which there is a record of this kind."""
        return frozenset(record.content["index"] for record in self._records if record.content["kind"] == kind)

    def burn(self, indices: Iterable[int]) -> None:
        """Mark candidates as burnt: they are about to be shown."""
        with self._registry.unit_of_work() as uow:
            uow.key_sets.burn(self._plan.key_set, indices, where=self.identifier)

    def keep_answers(self, given: Sequence[Answer]) -> None:
        """Append answers."""
        self.keep([answer.to_json() for answer in given])

    def keep(self, contents: Sequence[Mapping[str, Any]]) -> None:
        """Append records with these contents."""
        serial = len(self._records)
        records = chained(contents, previous=self.head, serial=serial)
        with self._registry.unit_of_work() as uow:
            uow.audits.append(self.identifier, records)
        self._records += records
