"""Rounds of the public randomness beacon drand: when they are due, and what chance they give.

A round's randomness is SHA-256 of the network's threshold signature over the round's number. That the signature is the
network's is *not* verified here: it is a BLS signature on BLS12-381, which ``cryptography`` does not offer. So whoever
relies on a round compares it with the public beacon (:func:`public_address`), which anybody can do for every past
round.

Round-trip law: ``BeaconRound.from_json(round.to_json()) == round``.
Source: docs.drand.love (chain hashes, genesis times and periods of the League of Entropy's networks; time of a round).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fpvec_audit.errors import EvidenceError, UsageError

MOST_ROUND = 2**32
"""Rounds beyond are millennia away, and their times would not fit a calendar."""
PUBLIC_BEACON = "https://api.drand.sh"

_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class BeaconChain:
    """One network of the beacon.

    Attributes:
        name: what it is called.
        hash: 64 hexadecimal digits that identify it.
        genesis: time of round 1, seconds since 1970 in UTC.
        period: seconds between two rounds.
        signature_bytes: length of a round's signature.
    """

    name: str
    hash: str
    genesis: int
    period: int
    signature_bytes: int

    def time_of(self, number: int) -> datetime:
        """Return when a round is due; rounds count from 1."""
        return datetime.fromtimestamp(self.genesis + (number - 1) * self.period, UTC)

    def round_at(self, time: datetime) -> int:
        """Return the newest round at a time; 0 before the first."""
        return max(0, (int(time.timestamp() // 1) - self.genesis) // self.period + 1)

    def source(self, number: int) -> str:
        """Return the chance source that a commitment to one of its rounds names."""
        return f"drand:{self.hash}:{number}"


QUICKNET = BeaconChain(
    "quicknet", "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971", 1692803367, 3, 48
)
DEFAULT_CHAIN = BeaconChain(
    "default", "8990e7a9aaed2ffed73dbd7092123d6f289930540d7651336225dc172e51b2ce", 1595431050, 30, 96
)
CHAINS = (QUICKNET, DEFAULT_CHAIN)


@dataclass(frozen=True, slots=True)
class BeaconRound:
    """What the beacon published for one round.

    Attributes:
        chain: hash of the network.
        round: number from 1.
        signature: the network's signature, hex.
        previous_signature: signature of the round before, hex; empty where rounds are not chained.
    """

    chain: str
    round: int
    signature: str
    previous_signature: str = ""

    @property
    def randomness(self) -> bytes:
        """R: SHA-256 of the signature."""
        return hashlib.sha256(bytes.fromhex(self.signature)).digest()

    @property
    def source(self) -> str:
        """The chance source that a commitment to this round names."""
        return f"drand:{self.chain}:{self.round}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is recorded."""
        return {
            "chain": self.chain,
            "round": self.round,
            "randomness": self.randomness.hex(),
            "signature": self.signature,
            "previous_signature": self.previous_signature,
        }

    @classmethod
    def from_json(cls, value: Any) -> "BeaconRound":
        """Rebuild a round from :meth:`to_json`.

        Raises:
            EvidenceError: another form, or a randomness that is not the signature's.
        """
        fields = {"chain", "round", "randomness", "signature", "previous_signature"}
        if not isinstance(value, dict) or value.keys() != fields:
            raise EvidenceError(f"this is no round of a beacon: it needs exactly {', '.join(sorted(fields))}")
        for chain in CHAINS:
            if chain.hash == value["chain"]:
                return cls.published(chain, value)
        raise EvidenceError(f"{str(value['chain'])[:80]!r} is no chain of the beacon that this program knows")

    @classmethod
    def published(cls, chain: BeaconChain, value: Mapping[str, Any]) -> "BeaconRound":
        """Return a round from what the beacon's HTTP interface answers; fields that we do not know are left out.

        Raises:
            EvidenceError: another form, or a randomness that is not the signature's.
        """
        number, randomness = value.get("round"), value.get("randomness")
        signature, previous = value.get("signature"), value.get("previous_signature") or ""
        if type(number) is not int or not 1 <= number <= MOST_ROUND:
            raise EvidenceError(f"the beacon's answer names no round: {str(number)[:40]!r}")
        for what, text, sizes in (
            ("randomness", randomness, {32}),
            ("signature", signature, {chain.signature_bytes}),
            ("previous signature", previous, {0, 32, chain.signature_bytes}),  # round 1 follows a 32-byte seed
        ):
            if not _is_hex(text, sizes):
                raise EvidenceError(f"round {number} of the beacon has no {what} of the {chain.name} chain's form")
        found = cls(chain.hash, number, str(signature), str(previous))
        if found.randomness.hex() != randomness:
            raise EvidenceError(
                f"round {number} of the beacon contradicts itself: its randomness is not SHA-256 of its signature",
                advice="fetch it again from another relay with --beacon-url",
            )
        return found


def chain_named(name: Any) -> BeaconChain:
    """Return a network by name or hash.

    Raises:
        UsageError: it is not known here, so neither are its genesis and period.
    """
    for chain in CHAINS:
        if name in (chain.name, chain.hash):
            return chain
    raise UsageError(
        f"unknown beacon chain {str(name)[:80]!r}",
        advice=" or ".join(f"{chain.name} ({chain.hash})" for chain in CHAINS),
    )


def public_address(chain: BeaconChain, number: int, *, relay: str = PUBLIC_BEACON) -> str:
    """Return the address under which a relay of the beacon shows a round."""
    return f"{relay.rstrip('/')}/{chain.hash}/public/{number}"


def beacon_caveat(found: BeaconRound) -> str:
    """Return what was not verified about a round, in a sentence for reports."""
    return (
        f"the BLS signature of beacon round {found.round} was not verified; compare its randomness "
        f"{found.randomness.hex()} with {public_address(chain_named(found.chain), found.round)}"
    )


def _is_hex(text: Any, sizes: set[int]) -> bool:
    if not isinstance(text, str) or len(text) % 2 or len(text) // 2 not in sizes:
        return False
    return not text or _HEX.fullmatch(text) is not None
