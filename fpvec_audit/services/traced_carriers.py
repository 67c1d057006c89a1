"""What a trace of weights learns from carriers: whose copies the suspect stems from, beside what its answers say.

Guarded here: nothing fails for it. Where there is nothing to compare with, the trace says so and goes on. α is shared
among all key sets that are traced, so that looking for many names no more innocents than looking for one.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.errors import FpvecError
from fpvec_audit.services.carriers import CarrierEvidence, key_sets_with_carriers, read_carriers

if TYPE_CHECKING:
    from fpvec_audit.services.subjects import Bench
    from fpvec_audit.services.suspects import Suspect

OWN_ALONE = "the suspect's weights hold your own carrier, and no licensee's that can be told"


def traced_carriers(
    suspect: "Suspect", records: Sequence[KeySetRecord], bench: "Bench"
) -> tuple[tuple[CarrierEvidence, ...], tuple[str, ...]]:
    """Read the carriers of all key sets of which copies with carriers were made.

    Args:
        suspect: who is traced; one that is no directory has no weights to read, and of others they may be left out.
        records: key sets that are traced.
        bench: registry, settings and progress.

    Returns:
        what was found, and what could not be read, in sentences.
    """
    if suspect.directory is None or GRADIENT in bench.settings.leave_out:
        return (), ()
    with bench.registry.snapshot() as uow:
        issued = set(key_sets_with_carriers(uow))
    found: list[CarrierEvidence] = []
    notes: list[str] = []
    for record in records:
        if record.id in issued:
            try:
                found.append(_read(suspect.directory, record, bench, key_sets=len(records)))
            except FpvecError as error:
                notes.append(f"the carriers of {record.name!r} were not read: {error.problem}")
    return tuple(found), tuple(notes)


def verdict_with_carriers(verdict: Verdict, found: Sequence[CarrierEvidence]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict of a trace that also read carriers, and what is to be said of them.

    By answers an innocent is named with a chance of at most α, by the carriers of all key sets likewise.
    """
    if any(evidence.named for evidence in found):
        return Verdict.MATCH, ()
    if any(evidence.owner.present for evidence in found):
        return (Verdict.INCONCLUSIVE if verdict is Verdict.NO_MATCH else verdict), (OWN_ALONE,)
    return verdict, ()


def _read(directory: Path, record: KeySetRecord, bench: "Bench", *, key_sets: int) -> CarrierEvidence:
    return read_carriers(
        directory,
        key_set=record.id,
        registry=bench.registry,
        catalog=bench.catalog,
        alpha=float(Fraction(bench.settings.alpha) / key_sets),
        architecture=bench.settings.architecture,
        progress=bench.progress,
        timer=bench.timer,
    )
