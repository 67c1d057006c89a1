"""Keep in a family's transcript what was measured of the suspect's weights, before its end: a chained record each.

Whom a trace names may rest on these measurements, and nobody without the weights can repeat them. So they stand in the
transcript beside answers and likelihoods: what follows from them is recomputed, and they themselves are the owner's
word, with the digests of what it takes to measure again.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.carrier import SCHEME
from fpvec_audit.domain.transcript import CARRIERS, SHARES, decimal_text
from fpvec_audit.services.carriers import CarrierEvidence
from fpvec_audit.services.examination import Case

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import Registry


def keep_measured(
    cases: Sequence[Case],
    weights: Mapping[str, Any] | None,
    carriers: Sequence[CarrierEvidence],
    *,
    base: str,
    registry: "Registry",
) -> None:
    """Append shares and carriers to the transcripts of the families that they are about.

    Args:
        cases: all key sets that are traced.
        weights: document about the suspect's weights (``WeightEvidence.to_json``), None where nothing was compared.
        carriers: what was found of carriers, by key set.
        base: digest of the base that weights were compared with; empty without.
        registry: where vectors are recorded.
    """
    for case in cases:
        if len(case.key_set.marks) == 1:
            continue
        contents = []
        if weights is not None and (shares := _shares(weights["vectors"], case)):
            contents.append(
                {"kind": SHARES, "base": base, "vectors": _digests(weights["vectors"], registry), "shares": shares}
            )
        contents += [_carriers(found) for found in carriers if found.key_set == case.record.id and case.plan.family]
        case.keeper.keep(contents)


def _shares(vectors: Sequence[Mapping[str, Any]], case: Case) -> dict[str, str]:
    return {
        str(vector["mark"]): decimal_text(vector["coefficient"])
        for vector in vectors
        if vector["key_set"] == case.record.id
    }


def _digests(vectors: Sequence[Mapping[str, Any]], registry: "Registry") -> list[str]:
    """Return the digests of all vectors that were compared together, as each takes its share from the others'."""
    with registry.unit_of_work() as uow:
        found = [uow.vectors.find(vector["vector_id"]) for vector in vectors]
    return sorted(vector.digest for vector in found if vector is not None)


def _carriers(found: CarrierEvidence) -> dict[str, Any]:
    """Return the record of carriers: whose are there by name, of all others z alone."""
    return {
        "kind": CARRIERS,
        "scheme": SCHEME,
        "reference": found.reference.model or "",
        "elements": found.elements,
        "shared": found.shared,
        "owner": decimal_text(found.owner.z),
        "named": {finding.licensee: decimal_text(finding.z) for finding in found.named},
        "others": [decimal_text(finding.z) for finding in found.licensees if not finding.present],
    }
