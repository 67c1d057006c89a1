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
    weights: Mapping[str, Mapping[str, Any]],
    carriers: Sequence[CarrierEvidence],
    *,
    registry: "Registry",
) -> tuple[str, ...]:
    """Append shares and carriers to the transcripts of the families that they are about.

    Args:
        cases: all key sets that are traced.
        weights: documents about the suspect's weights (``WeightEvidence.to_json``), by digest of the base that they
            were compared with.
        carriers: what was found of carriers, by key set.
        registry: where vectors are recorded.

    Returns:
        Of which families no shares could be taken, and of which some may be wrong, in sentences.
    """
    notes: list[str] = []
    for case in cases:
        if len(case.key_set.marks) == 1:
            continue
        contents = []
        base = "" if case.base is None else case.base.digest
        if base in weights and (shares := _shares(weights[base]["vectors"], case)):
            missing, note = _not_at_hand(weights[base]["vectors"], shares, case, base, registry)
            notes += [note] if note else []
            if not missing:
                digests = _digests(weights[base]["vectors"], registry)
                told = {str(mark): decimal_text(share) for mark, share in shares.items()}
                contents.append({"kind": SHARES, "base": base, "vectors": digests, "shares": told})
        contents += [_carriers(found) for found in carriers if found.key_set == case.record.id and case.plan.family]
        case.keeper.keep(contents)
    return tuple(notes)


def _shares(vectors: Sequence[Mapping[str, Any]], case: Case) -> dict[int, float]:
    """Return the share of every mark: the largest where keys were trained more than once, as copies stem from one."""
    shares: dict[int, float] = {}
    for vector in vectors:
        if vector["key_set"] == case.record.id:
            mark = int(vector["mark"])
            shares[mark] = max(shares.get(mark, vector["coefficient"]), vector["coefficient"])
    return shares


def _not_at_hand(
    vectors: Sequence[Mapping[str, Any]], shares: Mapping[int, float], case: Case, base: str, registry: "Registry"
) -> tuple[list[int], str]:
    """Return the marks none of whose recorded vectors was compared, and what is to be said where any vector was not.

    A vector that is left out lends its share to the others, of the same family above all.
    """
    with registry.snapshot() as uow:
        recorded = uow.vectors.list(base=base, key_set=case.record.id)
    missing = sorted({vector.mark for vector in recorded} - set(shares))
    absent = {vector.id for vector in recorded} - {vector["vector_id"] for vector in vectors}
    if missing:
        marks = ", ".join(map(str, missing))
        return missing, (
            f"marks of {case.record.name!r} were read from answers alone: the vectors of its marks {marks} are not "
            "where they were recorded, and without them the others seem to have what is theirs"
        )
    if absent:
        return [], (
            f"{len(absent)} recorded vectors of {case.record.name!r} are not where they were recorded: copies that "
            "were made with them are not told rightly by their weights"
        )
    return [], ""


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
