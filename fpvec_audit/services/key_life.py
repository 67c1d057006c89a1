"""How the life of a key set ends by its owner's word, and what that means for its use.

A retired or compromised set is put into nothing new: fingerprinting and stamping with it are refused. It still is asked
for, because copies that carry it are out there; what such an audit can still say stands in its warnings.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fpvec_audit.domain.records import KeySetRecord, KeySetState
from fpvec_audit.errors import KeySetError
from fpvec_audit.services.keys import ENDED, KeySetSummary

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork


def retire_key_set(reference: str, *, registry: "Registry", reason: str) -> KeySetSummary:
    """Take a key set out of use for good: nothing new is made with it.

    Args:
        reference: name, id or the beginning of an id.
        registry: where it is recorded.
        reason: why, for the ledger.

    Raises:
        UnknownNameError: there is no such key set.
        UsageError: there is no reason.
        KeySetError: it is retired or compromised already.
    """
    return _end(reference, KeySetState.RETIRED, registry=registry, reason=reason)


def compromise_key_set(reference: str, *, registry: "Registry", reason: str) -> KeySetSummary:
    """Record that somebody else has a key set: from now on a match proves nothing.

    Args:
        reference: name, id or the beginning of an id.
        registry: where it is recorded.
        reason: why, for the ledger.

    Raises:
        UnknownNameError: there is no such key set.
        UsageError: there is no reason.
        KeySetError: it is compromised already.
    """
    return _end(reference, KeySetState.COMPROMISED, registry=registry, reason=reason)


def refuse_ended(uow: "UnitOfWork", key_sets: Iterable[str]) -> None:
    """Refuse to make anything new with key sets (ids) of which one is retired or compromised.

    Raises:
        KeySetError: one is.
    """
    for identifier in dict.fromkeys(key_sets):
        record = uow.key_sets.find(identifier)
        end = uow.key_sets.ended(identifier) if record.state in ENDED else None
        if end is not None:
            raise KeySetError(
                f"key set {record.name!r} is {end.state.value} since {end.at[:10]} ({end.by}: {end.reason}): nothing "
                "new is made with it",
                advice="issue another: `fpvec key issue NAME`",
            )


def life_warnings(record: KeySetRecord, *, registry: "Registry") -> tuple[str, ...]:
    """Say what the end of a key set's life means for an audit that asks for it."""
    with registry.snapshot() as uow:
        state = uow.key_sets.find(record.id).state  # it may have ended while the audit went on
        end = uow.key_sets.ended(record.id) if state in ENDED else None
    if end is None:
        return ()
    since = f"key set {record.name!r} is {end.state.value} since {end.at[:19]} UTC ({end.by}: {end.reason})"
    if end.state is KeySetState.RETIRED:
        return (f"{since}: its owner makes nothing new with it; older copies may carry it still",)
    return (
        f"{since}: somebody else has its keys, so a match proves nothing about a model that was made, or could have "
        "been changed, after that date",
    )


def _end(reference: str, state: KeySetState, *, registry: "Registry", reason: str) -> KeySetSummary:
    with registry.unit_of_work() as uow:
        found = uow.key_sets.find(reference)
        record = uow.key_sets.end(found.id, state, reason=reason, by=registry.actor)
        return KeySetSummary(record, len(uow.candidates.burnt(record.id)), end=uow.key_sets.ended(record.id))
