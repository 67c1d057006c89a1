"""What the registry knows of a model's origin: which base it stems from, and which fingerprints it carries already."""

from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.records import ModelRecord, ModelRole, VectorRecord
from fpvec_audit.errors import VectorError

if TYPE_CHECKING:
    from fpvec_audit.registry.unit_of_work import UnitOfWork


def ancestry(uow: "UnitOfWork", model_id: str) -> tuple[ModelRecord, ...]:
    """Return a model and what it was made from, as far as is known, nearest first; empty for an unknown model."""
    found: list[ModelRecord] = []
    seen: set[str] = set()
    current = uow.models.find(model_id)
    while current is not None and current.id not in seen:
        found.append(current)
        seen.add(current.id)
        current = None if current.parent is None else uow.models.find(current.parent)
    return tuple(found)


def stems_from(uow: "UnitOfWork", model_id: str, vector: VectorRecord) -> bool:
    """Say whether the registry knows that a model stems from a vector's base.

    Returns:
        True if it does, False if the origin is not known.

    Raises:
        VectorError: it stems from another base.
    """
    line = ancestry(uow, model_id)
    if any(model.id == vector.base for model in line):
        return True
    if line and line[-1].role is ModelRole.BASE:
        raise VectorError(
            f"{line[0].name} stems from the base {line[-1].name}, {vector.id} from another ({vector.base[:16]}…)",
            advice=f"stamp it with a vector of {line[-1].name}: `fpvec vector list`",
        )
    return False


def refuse_carrier(uow: "UnitOfWork", model_id: str, vector: VectorRecord) -> None:
    """Refuse a model that carries a vector, or the same fingerprint in another form, already.

    Raises:
        VectorError: it does, or something it was made from does.
    """
    for model in ancestry(uow, model_id):
        if model.id == vector.fingerprinted:
            raise VectorError(
                f"{model.name} is the fingerprinted model of {vector.id}", advice="stamp with --again if you mean it"
            )
        for stamp in uow.stamps.of_model(model.id):
            carried = (uow.vectors.find(identifier) for identifier, _ in stamp.vectors)
            if any(found is not None and found.fingerprinted == vector.fingerprinted for found in carried):
                raise VectorError(
                    f"{model.name} carries {vector.id} already, from stamp {stamp.id}",
                    advice="stamp the downstream it was made from, or use --again if you mean it",
                )


def other_copies(uow: "UnitOfWork", model_id: str) -> tuple[Path, ...]:
    """Return where the other stamped copies of a stamped model's downstream lie, oldest first; those that are gone not.

    What colluding licensees have in their hands.
    """
    downstream = {stamp.downstream for stamp in uow.stamps.of_model(model_id)}
    found = {
        stamp.stamped: Path(stamp.location)
        for stamp in uow.stamps.list()
        if stamp.downstream in downstream and stamp.stamped != model_id
    }
    return tuple(path for path in found.values() if (path / "config.json").is_file())
