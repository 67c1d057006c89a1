"""Models by the tensors that they share: rare tensors name a model, those of thousands cost no more than a few.

Every look-up is one of the index's beginning (``model_tensor``: content, then model), and takes no more than ``FEW``
rows of it, however many models share a tensor.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from sqlalchemy import BigInteger, column, func, insert, select, values
from sqlalchemy.orm import Session

from fpvec_audit.registry.repositories.listing import AT_ONCE
from fpvec_audit.registry.tables import ModelRow, ModelTensorRow

FEW = 64
"""Models of one tensor that are looked at."""


def add_sketch(session: Session, model: str, contents: Sequence[int]) -> None:
    """Let a model be found by its counted tensors."""
    if contents:
        session.execute(insert(ModelTensorRow), [{"content": content, "model_id": model} for content in contents])


def models_sharing(session: Session, contents: Sequence[int]) -> tuple[Counter[str], int]:
    """Return the models that share counted tensors with what is at hand.

    Where there are models with tensors that few have, only those count; otherwise ``FEW`` of the many, and the bases
    of them all.

    Args:
        session: session of the surrounding unit of work.
        contents: tensors at hand (:func:`~fpvec_audit.domain.sketch.numbers`).

    Returns:
        model id → number of counted tensors shared, and how many tensors at hand more than ``FEW`` models share.
    """
    rare, common = _by_rarity(session, contents)
    found = Counter[str]()
    for part in _parts(rare):
        found.update(session.scalars(select(ModelTensorRow.model_id).where(ModelTensorRow.content.in_(part))))
    if not found:
        for content in common[:FEW]:
            statement = select(ModelTensorRow.model_id).where(ModelTensorRow.content == content).limit(FEW)
            found.update(session.scalars(statement))
    elif common:
        _count_further(session, found, common)
    for base in _bases(session, list(found)):
        found.setdefault(base, 0)
    return found, len(common)


def _by_rarity(session: Session, contents: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return those tensors that few models share, rarest first, and those that more do."""
    counts: list[tuple[int, int]] = []
    for part in _parts(contents):
        asked = values(column("content", BigInteger)).data([(content,) for content in part]).cte("asked")
        few = select(ModelTensorRow.model_id).where(ModelTensorRow.content == asked.c.content).limit(FEW + 1)
        holders = select(func.count()).select_from(few.correlate(asked).subquery()).scalar_subquery()
        counts += [(count, content) for content, count in session.execute(select(asked.c.content, holders)) if count]
    counts.sort()
    return [content for count, content in counts if count <= FEW], [content for count, content in counts if count > FEW]


def _count_further(session: Session, found: Counter[str], common: Sequence[int]) -> None:
    """Count the tensors that many models share for the models found already."""
    models = [model for model, _ in found.most_common(FEW)]
    for part in _parts(common):
        statement = select(ModelTensorRow.model_id).where(
            ModelTensorRow.content.in_(part), ModelTensorRow.model_id.in_(models)
        )
        found.update(session.scalars(statement))


def _bases(session: Session, models: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(models), AT_ONCE):
        statement = select(ModelRow.base_id).where(ModelRow.id.in_(models[start : start + AT_ONCE])).distinct()
        found |= {base for base in session.scalars(statement) if base is not None}
    return found


def _parts(contents: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(contents), AT_ONCE):
        yield contents[start : start + AT_ONCE]
