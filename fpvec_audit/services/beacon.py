"""Let a later round of the public beacon drand decide which candidates of a key set are issued.

The commitment names the round before it exists; when it is published its randomness is R. The round is fetched from a
relay, or read from a file where there is no network. Two things cannot be shown with it, and reports say so: that its
signature is the network's (``domain/beacon.py``), and that the commitment was made before it. So the set stays
self-attested; only a witness anchors one.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fpvec_audit.domain.beacon import (
    MOST_ROUND,
    PUBLIC_BEACON,
    QUICKNET,
    BeaconChain,
    BeaconRound,
    beacon_caveat,
    public_address,
)
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.witness import BeaconSource
from fpvec_audit.errors import EvidenceError, KeySetError, UsageError
from fpvec_audit.evidence.documents import read_bytes
from fpvec_audit.services.keys import IssuedKeySet, complete_key_set, issue_key_set, waiting_key_set

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry

MOST_ANSWER_BYTES = 64 << 10
TIMEOUT = 20.0
"""Seconds that a relay may take for one step of its answer."""

Fetch = Callable[[BeaconChain, int], BeaconRound]
"""Gives a published round of a network."""


def issue_with_beacon(
    name: str,
    number: int,
    *,
    registry: "Registry",
    specification: KeySetSpecification,
    chain: BeaconChain = QUICKNET,
    fetch: Fetch | None = None,
    **options: Any,
) -> IssuedKeySet:
    """Commit a key set to a round of the beacon, or issue it when the round has been published.

    Args:
        name: unique name.
        number: the round; must be in the future when the set is committed.
        registry: where it is recorded; its clock says what the future is.
        specification: what to draw; a set that is committed keeps what it was committed with.
        chain: network of the beacon.
        fetch: gives a published round; from a public relay by default.
        options: owner, licensee, base and so on, as for :func:`fpvec_audit.services.keys.issue_key_set`.

    Raises:
        UsageError: the name is taken, or there is no such round.
        KeySetError: the round is past when committing, or not due when completing.
        EvidenceError: the round cannot be had, or contradicts itself.
    """
    if not 1 <= number <= MOST_ROUND:
        raise UsageError(f"the beacon has no round {number}", advice="rounds count from 1")
    source = BeaconSource(chain, number)
    with registry.unit_of_work() as uow:
        known = uow.key_sets.named(name)
    if known is not None and known.chance and known.commitment.chance_source == source.text:
        return _repeated(known, registry=registry)
    record = waiting_key_set(name, registry=registry, chance_source=source.text)
    if record is not None:
        return _completed(record, source, fetch or from_relay(), registry=registry)
    _refuse_past(source, registry.clock())
    issued = issue_key_set(name, registry=registry, specification=specification, chance_source=source.text, **options)
    step = f"run the same command again after {chain.time_of(number).isoformat()}"
    return IssuedKeySet(issued.record, issued.warnings, next=step)


def from_relay(url: str = PUBLIC_BEACON, *, timeout: float = TIMEOUT) -> Fetch:
    """Return what fetches rounds from a relay's HTTP interface.

    Args:
        url: the relay; https, unless it is on this machine.
        timeout: seconds for one step of an answer.

    Raises:
        UsageError: the URL is none, or nothing would protect the answer on its way.
    """
    _refuse_unprotected(url)

    def fetch(chain: BeaconChain, number: int) -> BeaconRound:
        address = public_address(chain, number, relay=url)
        return _round_in(_downloaded(address, timeout), chain, number, address)

    return fetch


def from_file(file: Path) -> Fetch:
    """Return what reads a round from a file that holds the answer of a relay, for machines without a network."""

    def fetch(chain: BeaconChain, number: int) -> BeaconRound:
        return _round_in(read_bytes(file, "beacon round", most=MOST_ANSWER_BYTES), chain, number, str(file))

    return fetch


def _downloaded(address: str, timeout: float) -> bytes:
    import httpx

    content = b""
    try:
        with httpx.stream("GET", address, timeout=timeout, follow_redirects=False) as answer:
            if answer.status_code in (404, 425):
                raise EvidenceError(
                    f"{address} does not have this round yet", advice="wait a little and run the same command again"
                )
            if answer.status_code != 200:
                raise EvidenceError(
                    f"{address} answered with status {answer.status_code}", advice="try another relay with --beacon-url"
                )
            for part in answer.iter_bytes():
                content += part
                if len(content) > MOST_ANSWER_BYTES:
                    raise EvidenceError(f"{address} answered with more than {MOST_ANSWER_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EvidenceError(
            f"{address} cannot be reached: {type(error).__name__} {error}",
            advice="try another relay with --beacon-url, or fetch the round elsewhere and give it with --beacon-file",
        ) from error
    return content


def _round_in(content: bytes, chain: BeaconChain, number: int, where: str) -> BeaconRound:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{where} is not the JSON of a beacon round") from error
    if not isinstance(value, dict):
        raise EvidenceError(f"{where} is not the JSON of a beacon round")
    found = BeaconRound.published(chain, value)
    if found.round != number:
        raise EvidenceError(f"{where} holds round {found.round} of the beacon, not round {number}")
    return found


def _completed(record: KeySetRecord, source: BeaconSource, fetch: Fetch, *, registry: "Registry") -> IssuedKeySet:
    due = source.chain.time_of(source.round)
    wait = due - registry.clock()
    if wait > timedelta(0):
        raise KeySetError(
            f"round {source.round} of the beacon is due at {due.isoformat()}, in {_spoken(wait)}",
            advice="run the same command again then",
        )
    found = fetch(source.chain, source.round)
    proof = {"source": source.text, "beacon": found.to_json()}
    done = complete_key_set(record.id, registry=registry, proof=proof)
    return IssuedKeySet(done.record, (*done.warnings, *_notes(found)))


def _repeated(record: KeySetRecord, *, registry: "Registry") -> IssuedKeySet:
    with registry.unit_of_work() as uow:
        proof = uow.key_sets.chance_proof(record.id) or {}
    return IssuedKeySet(record, _notes(BeaconRound.from_json(proof.get("beacon"))), already=True)


def _notes(found: BeaconRound) -> tuple[str, ...]:
    return (
        beacon_caveat(found),
        "a beacon does not show that the commitment came before the round, so the set stays self-attested",
    )


def _refuse_past(source: BeaconSource, now: datetime) -> None:
    due = source.chain.time_of(source.round)
    if due <= now:
        later = source.chain.round_at(now + timedelta(minutes=10))
        raise KeySetError(
            f"round {source.round} of the beacon was published at {due.isoformat()}, so it decides nothing any more",
            advice=f"name a round that is still to come, such as {later} (in about ten minutes)",
        )


def _refuse_unprotected(url: str) -> None:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:
        scheme, host = "", ""
    if not host or scheme not in ({"https", "http"} if _is_here(host) else {"https"}):
        raise UsageError(
            f"{url!r} is no relay to be relied on: an answer could be changed on its way", advice="use an https URL"
        )


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _spoken(wait: timedelta) -> str:
    seconds = -(-wait // timedelta(seconds=1))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
