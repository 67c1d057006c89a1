"""A checkpoint of a ledger to publish elsewhere, so that what is done to the history before it shows.

Round-trip law: ``LedgerAnchor.from_json(anchor.to_json()) == anchor``;
``registry_in_name(anchored_name(registry, serial)) == registry``.
"""

import re
from dataclasses import dataclass
from typing import Any

from fpvec_audit.errors import EvidenceError

ANCHOR_SCHEMA = "fpvec-audit/ledger-anchor/1"
ANCHOR_TYPE = "application/vnd.fpvec-audit.ledger-anchor+json"
"""DSSE payload type of an anchor: no other document can be passed off as one."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_REGISTRY = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"registry ([0-9a-f]{32}), entry [1-9][0-9]*")
_FIELDS = frozenset({"schema", "registry", "serial", "digest", "time", "signer"})


@dataclass(frozen=True, slots=True)
class LedgerAnchor:
    """What an owner says of the last entry of a ledger.

    Attributes:
        registry: id of the registry.
        serial: of the entry.
        digest: of the entry, which fixes all before it.
        time: when this was said, ISO 8601 in UTC.
        signer: public key of who says it, hex.
    """

    registry: str
    serial: int
    digest: str
    time: str
    signer: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is signed."""
        return {
            "schema": ANCHOR_SCHEMA,
            "registry": self.registry,
            "serial": self.serial,
            "digest": self.digest,
            "time": self.time,
            "signer": self.signer,
        }

    @classmethod
    def from_json(cls, value: Any) -> "LedgerAnchor":
        """Rebuild an anchor from :meth:`to_json`.

        Raises:
            EvidenceError: unknown or missing fields, or values in another form.
        """
        if not isinstance(value, dict) or value.get("schema") != ANCHOR_SCHEMA:
            raise EvidenceError(f"this is no ledger anchor: it does not say {ANCHOR_SCHEMA!r}")
        for name in sorted(_FIELDS ^ value.keys()):
            raise EvidenceError(f"this ledger anchor {'lacks' if name in _FIELDS else 'has an unknown'} {name[:40]!r}")
        texts = (("registry", _REGISTRY), ("digest", _DIGEST), ("signer", _DIGEST))
        for name, form in texts:
            if not isinstance(value[name], str) or not form.fullmatch(value[name]):
                raise EvidenceError(f"the {name} of this ledger anchor is not lower-case hexadecimal of its length")
        if type(value["serial"]) is not int or value["serial"] < 1:
            raise EvidenceError("the serial of this ledger anchor is no positive integer")
        if not isinstance(value["time"], str) or len(value["time"]) > 40:
            raise EvidenceError("the time of this ledger anchor is no text of at most 40 characters")
        return cls(value["registry"], value["serial"], value["digest"], value["time"], value["signer"])


def anchored_name(registry: str, serial: int) -> str:
    """Return what a witness is told that an entry is called; the witness signs it with the digest."""
    return f"registry {registry}, entry {serial}"


def registry_in_name(name: str) -> str | None:
    """Return the id of the registry that a witness was told of; None where it was told something else."""
    found = _NAME.fullmatch(name)
    return None if found is None else found[1]
