"""Use cases: open one licensee's carrier to somebody who doubts a measurement, and measure it there without a registry.

A bundle tells z of the carriers that were found, and nobody can repeat that without their keys. Who opens one shows the
pattern of one licensee's copies, so that whoever has these could take it off; the others' stay sealed, and the owner's
own. That the key is the one that was committed to, before any copy had it, its digest shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.carrier import SCHEME, CarrierKey
from fpvec_audit.domain.carrier_test import CarrierFinding, carrier_z, judged
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE
from fpvec_audit.errors import EvidenceError, RegistryError, UnknownNameError
from fpvec_audit.evidence.documents import PRIVATE_MODE, checked_fields, read_document, write_document
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.carriers import commitments, opened_secret, refuse_level

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

OPENED_SCHEMA = "fpvec-audit/opened-carrier/1"
WHAT = "opened carrier"
FIELDS = {"schema": str, "key_set": str, "licensee": str, "scheme": str, "commitment": str, "key": str}


@dataclass(frozen=True, slots=True)
class OpenedCarrier:
    """One licensee's carrier, open.

    Attributes:
        key_set: id.
        licensee: whose copies have it.
        key: gives its signs; what its digest was is in the ledger.
    """

    key_set: str
    licensee: str
    key: CarrierKey = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the document in a file."""
        return {
            "schema": OPENED_SCHEMA,
            "key_set": self.key_set,
            "licensee": self.licensee,
            "scheme": SCHEME,
            "commitment": self.key.commitment,
            "key": self.key.reveal().hex(),
        }

    @classmethod
    def load(cls, path: Path) -> "OpenedCarrier":
        """Read a carrier that somebody opened.

        Raises:
            EvidenceError: the file holds none, or its key is not the one whose digest it states.
        """
        value = checked_fields(read_document(path, WHAT), FIELDS, WHAT)
        if (value["schema"], value["scheme"]) != (OPENED_SCHEMA, SCHEME):
            raise EvidenceError(f"{path} is of schema {value['schema']!a} and scheme {value['scheme']!a}, unknown here")
        try:
            key = CarrierKey(bytes.fromhex(value["key"]))
        except (ValueError, RegistryError) as error:
            raise EvidenceError(f"{path} holds no carrier's key: {error}") from error
        if key.commitment != value["commitment"]:
            raise EvidenceError(f"{path}: the key is not the one of the commitment {value['commitment']!a}")
        return cls(value["key_set"], value["licensee"], key)


@dataclass(frozen=True, slots=True)
class CarrierReading:
    """How strongly an opened carrier shows in a suspect's weights.

    Attributes:
        opened: the carrier.
        finding: z and p; the p is multiplied by what an owner could have tried, and by nothing else.
        elements: how many weights were looked at.
        alpha: significance level.
    """

    opened: OpenedCarrier
    finding: CarrierFinding
    elements: int
    alpha: float

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read; it holds no key."""
        told: Mapping[str, Any] = self.finding.to_json()
        return {
            **told,
            "licensee": self.opened.licensee,
            "key_set": self.opened.key_set,
            "commitment": self.opened.key.commitment,
            "elements": self.elements,
            "alpha": self.alpha,
            "grinding_allowance": GRINDING_ALLOWANCE,
        }


def open_carrier(licensee: str, out: Path, *, key_set: str, registry: "Registry") -> OpenedCarrier:
    """Write the key of a licensee's carrier to a new file; the ledger records that it was opened, and for whom.

    The file is readable by its owner alone: whoever has the key can take the carrier off a copy, or put it on a model.

    Args:
        licensee: name, as it was stamped.
        out: the file.
        key_set: whole id of the key set or family.
        registry: where the secret is.

    Raises:
        UnknownNameError: the licensee has no carrier of this key set.
        RegistryError: the vault cannot give the secret, or it is not the one that was committed to.
        EvidenceError: the file is there, or cannot be written.
    """
    with registry.unit_of_work() as uow:
        known = commitments(uow, key_set)
        if not licensee or licensee not in known:
            raise UnknownNameError("licensee with a carrier", licensee, [name for name in known if name])
        secret = opened_secret(uow, key_set, known, purpose=f"carrier of {licensee} opened")
    opened = OpenedCarrier(key_set, licensee, secret.key(licensee))
    write_document(out, opened.to_json(), WHAT, mode=PRIVATE_MODE)
    return opened


def read_opened_carrier(
    opened: OpenedCarrier,
    suspect: Path,
    *,
    against: Path,
    catalog: "Catalog",
    alpha: float = 1e-6,
    architecture: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> CarrierReading:
    """Measure an opened carrier in a suspect's weights. No registry is needed.

    Args:
        opened: the carrier.
        suspect: checkpoint directory.
        against: model that was stamped, or the base: what the suspect is compared with.
        catalog: plugins.
        alpha: significance level.
        architecture: adapter to use instead of the detected one.
        progress: where to report.

    Raises:
        UsageError: a level that is none.
        CheckpointError: a model cannot be read, or is of another shape.
    """
    from fpvec_audit.tensors.carrier_reading import read_carriers
    from fpvec_audit.tensors.index import read_checkpoint

    refuse_level(alpha)
    adapter = catalog.architecture_for(read_checkpoint(suspect).description, override=architecture)
    found = read_carriers(against, suspect, adapter, [opened.key.cipher], progress=progress)
    (product,) = found.products
    finding, _ = judged(carrier_z(product, found.square), {}, alpha=alpha, allowance=GRINDING_ALLOWANCE)
    return CarrierReading(opened, finding, found.elements, alpha)
