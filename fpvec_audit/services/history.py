"""Use case: read the registry's history, once or as it is written, and say that a clock is right."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fpvec_audit.errors import UsageError
from fpvec_audit.services.registry import entry_json

if TYPE_CHECKING:
    from fpvec_audit.registry.ledger import Choice
    from fpvec_audit.registry.unit_of_work import Registry

POLL_SECONDS = 0.5
_AT_ONCE = 500


def chosen_entries(*, events: Sequence[str] = (), subject: str = "", since: str | None = None) -> "Choice":
    """Return which entries are meant.

    Args:
        events: names of events, or what they begin with before the dot ("audit").
        subject: id of what they happened to, or its beginning.
        since: earliest time, ISO 8601; in UTC where it names no zone. None for any.

    Raises:
        UsageError: the time cannot be read.
    """
    from fpvec_audit.registry.ledger import Choice

    try:
        moment = None if since is None else datetime.fromisoformat(since)
    except ValueError as error:
        raise UsageError(
            f"--since {since!r} is no time", advice="write 2026-01-31, or 2026-01-31T12:00:00+00:00"
        ) from error
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Choice(tuple(events), subject, moment)


def ledger_entries(*, registry: "Registry", limit: int = 50, chosen: "Choice | None" = None) -> list[dict[str, Any]]:
    """Return the newest entries of the history as JSON objects, oldest of them first.

    Args:
        registry: whose history.
        limit: most entries returned.
        chosen: which entries are wanted; all when None.
    """
    with registry.snapshot() as uow:
        return [entry_json(entry) for entry in uow.ledger.newest(max(0, limit), chosen=chosen)]


def follow_ledger(
    *,
    registry: "Registry",
    limit: int = 50,
    chosen: "Choice | None" = None,
    wait: Callable[[], None] = lambda: time.sleep(POLL_SECONDS),
) -> Iterator[dict[str, Any]]:
    """Yield the newest entries as JSON objects, then every new one as it comes, for ever; holds nobody up.

    Args:
        registry: whose history.
        limit: most entries at the beginning.
        chosen: which entries are wanted; all when None.
        wait: lets time pass before looking again.
    """
    with registry.snapshot() as uow:
        head = uow.ledger.head()
        found = uow.ledger.newest(max(0, limit), chosen=chosen)
    seen = 0 if head is None else head.serial
    while True:
        yield from map(entry_json, found)
        if not found or len(found) < _AT_ONCE:
            wait()
        with registry.snapshot() as uow:
            head = uow.ledger.head()
            found = uow.ledger.entries(after=seen, limit=_AT_ONCE, chosen=chosen)
        if len(found) == _AT_ONCE:
            seen = found[-1].serial
        elif head is not None:
            seen = max(seen, head.serial)


def accept_clock(*, registry: "Registry") -> dict[str, Any]:
    """Record that this machine's clock is right although the last entry says a later time.

    Returns:
        The JSON object that scripts read: whether it was needed, and the entry that says so.
    """
    with registry.unit_of_work() as uow:
        entry = uow.ledger.accept_clock(registry.actor)
    return {"accepted": entry is not None, "entry": None if entry is None else entry_json(entry)}
