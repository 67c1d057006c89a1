"""What the registry adds to a report about weights: known vectors of the base, and clean fine-tunes to compare with.

Descriptive beside the tests, and left out where it would take long or something is missing: no report fails for it.
Only where marks are read from the weights it is done however long it takes, as whom a trace names depends on it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.domain.records import ModelRole, VectorRecord
from fpvec_audit.errors import FpvecError
from fpvec_audit.services.likelihoods import BaseModel
from fpvec_audit.services.subjects import Bench
from fpvec_audit.services.suspects import Suspect
from fpvec_audit.services.weight_evidence import KnownVector, weight_evidence

MOST_ELEMENTS = 2_000_000_000
"""Elements of all models and vectors together up to which they are read without being asked for."""
MOST_CONTROLS = 8


def described_weights(
    suspect: Suspect, base: BaseModel | None, bench: Bench, *, controls: Sequence[Path] = (), decisive: bool = False
) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """Return how much of each known vector a suspect seems to carry, and why nothing is told, in sentences.

    Args:
        suspect: who is looked at.
        base: base of the key set, None where it is not at hand.
        bench: registry and progress.
        controls: clean models that the user named.
        decisive: marks are read from this, so that models of any size are compared; the clean ones then stay out
            where all together are too much.
    """
    if suspect.directory is None or base is None or GRADIENT in bench.settings.leave_out:
        return None, ()
    from fpvec_audit.training.candidate_gradients import gradient_cost

    vectors, clean, lost = _known(base, suspect, bench)
    beside = [*controls, *clean][:MOST_CONTROLS]
    if not vectors:
        told = f"none of the {lost} recorded vectors of the base is where it was recorded: the weights were not read"
        return None, (told,) if lost and decisive else ()
    try:
        fitting = MOST_ELEMENTS // max(1, gradient_cost(base.directory)) - len(vectors) - 2
        if fitting < len(beside):
            if not decisive:
                return None, ()
            beside = beside[: max(0, fitting)]
        found = weight_evidence(
            suspect.directory,
            base_dir=base.directory,
            vectors=vectors,
            adapter=suspect.adapter,
            controls=beside,
            base_digest=base.digest,
            progress=bench.progress,
        )
    except FpvecError as error:
        return None, (f"the weights were not compared with the known vectors: {error.problem}",)
    return found.to_json(), ()


def _known(base: BaseModel, suspect: Suspect, bench: Bench) -> tuple[list[KnownVector], list[Path], int]:
    """Return a base's vectors, one for each mark of a training, its clean fine-tunes, and how many vectors are lost."""
    with bench.registry.snapshot() as uow:
        recorded = [vector for vector in uow.vectors.list(base=base.digest) if vector.key_set is not None]
        models = uow.models.list(ModelRole.DOWNSTREAM, parent=base.digest)
    at_hand = [vector for vector in recorded if _at_hand(vector)]
    vectors: dict[tuple[str, int], KnownVector] = {}
    for vector in at_hand:
        known = KnownVector(vector.id, Path(vector.location), vector.key_set or "", vector.mark)
        vectors.setdefault((vector.family, vector.mark), known)
    clean = [Path(model.location) for model in models if model.id != suspect.digest and Path(model.location).is_dir()]
    return list(vectors.values()), clean, len(recorded) - len(at_hand)


def _at_hand(vector: VectorRecord) -> bool:
    """Return whether a vector lies where it was recorded, and not another one that was written there since."""
    from fpvec_audit.tensors.vector_files import read_vector

    try:
        return read_vector(Path(vector.location)).description.id == vector.id
    except FpvecError:
        return False
