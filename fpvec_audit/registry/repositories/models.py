"""Registered checkpoints, identified by what their weights are and not by where they lie."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, insert, or_, select
from sqlalchemy.orm import Session

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.domain.sketch import sketch
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.lookup import Directory, checked_name, free_name, normalised, refuse_taken
from fpvec_audit.registry.tables import (
    DigestedFilesRow,
    ModelManifestRow,
    ModelRow,
    ModelTensorRow,
    StampRow,
    StampVectorRow,
    VectorFamilyRow,
    VectorRow,
)

MODELS = Directory("model", ModelRow.id, ModelRow.name, listing="fpvec model list")
OWN_ROLES = (ModelRole.STAMPED.value, ModelRole.FINGERPRINTED.value)


class ModelRepository:
    """Models by name or digest.

    Args:
        session: session of the surrounding unit of work.
        ledger: where registrations are recorded.
    """

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self._session = session
        self._ledger = ledger

    def add(self, record: ModelRecord, *, manifest: Manifest | None = None) -> ModelRecord:
        """Register a model; one with the same weights is the same model.

        Its manifest, where it is given, is kept beside it: the digest is made of it, so the ledger says no more than
        that it is there.

        A model that is known keeps its name and its first date. Its location is brought up to date, a parent that was
        unknown is filled in, and a mere suspect becomes what it is now said to be.

        Raises:
            UsageError: the name cannot be stored, or belongs to other weights.
            RegistryError: the parent is not registered.
        """
        row = self._session.get(ModelRow, record.id)
        self._check_parent(record)
        if row is not None:
            return self._completed(row, record, kept=self._keep(record.id, manifest))
        name = checked_name("model", record.name)
        refuse_taken(self._session, MODELS, name, option="--name")
        row = ModelRow(
            id=record.id,
            name=name,
            role=record.role.value,
            architecture=record.architecture,
            location=record.location,
            parent_id=record.parent,
            parameters=record.parameters,
            created_at=record.created_at,
        )
        self._session.add(row)
        self._session.flush()
        self._keep(record.id, manifest)
        self._ledger.append("model.registered", row.id, _content(row))
        return _record(row)

    def get(self, reference: str) -> ModelRecord:
        """Return a model by name, digest or the beginning of a digest.

        Raises:
            UnknownNameError: there is none.
            AmbiguousNameError: there are several.
        """
        return _record(self._row(MODELS.resolve(self._session, reference)))

    def find(self, identifier: str) -> ModelRecord | None:
        """Return the model with this digest, None if it is not registered."""
        row = self._session.get(ModelRow, identifier)
        return None if row is None else _record(row)

    def manifest(self, identifier: str) -> Manifest | None:
        """Return the tensors of a model by digest, None where they were not recorded.

        Raises:
            RegistryError: what is recorded does not give the model's digest.
        """
        row = self._session.get(ModelManifestRow, identifier)
        if row is None:
            return None
        try:
            manifest = Manifest.from_bytes(row.content)
        except ValueError as error:
            raise RegistryError(f"the manifest of model {identifier[:16]}… is damaged: {error}") from error
        if manifest.digest != identifier:
            raise RegistryError(f"the manifest of model {identifier[:16]}… is of another model")
        return manifest

    def digest_of_files(self, state: str) -> str | None:
        """Return the digest that files in this state gave, None if they were not seen like that."""
        row = self._session.get(DigestedFilesRow, state)
        return None if row is None else row.digest

    def remember_files(self, state: str, digest: str) -> None:
        """Keep what files in a state gave when all their bytes were read; a convenience, so no ledger entry."""
        self._session.merge(DigestedFilesRow(state=state, digest=digest))
        self._session.flush()

    def list(self, role: ModelRole | None = None, *, parent: str | None = None) -> tuple[ModelRecord, ...]:
        """Return the models of a role, made from a parent (id), or all, oldest first."""
        statement = select(ModelRow).order_by(ModelRow.created_at, ModelRow.id)
        if role is not None:
            statement = statement.where(ModelRow.role == role.value)
        if parent is not None:
            statement = statement.where(ModelRow.parent_id == parent)
        return tuple(_record(row) for row in self._session.scalars(statement))

    def lying_at(self, location: str) -> ModelRecord | None:
        """Return the model that was registered last of those whose place this is, None if there is none."""
        rows = self._session.scalars(select(ModelRow).where(ModelRow.location == location)).all()
        return _record(max(rows, key=lambda row: (row.created_at, row.id))) if rows else None

    def own(self, key_set: str, *, base: str | None, most: int) -> Iterator[ModelRecord]:
        """Yield own models that should answer a key set, the likeliest first, each once.

        Those that were stamped with it come first, newest first; then the fingerprinted ones that its vectors come
        from; then other fingerprinted models of its base.

        Args:
            key_set: id.
            base: id of the model it is bound to.
            most: how many are looked at of each kind.
        """
        stamped = (
            select(ModelRow)
            .join(StampRow, StampRow.stamped_id == ModelRow.id)
            .where(StampRow.id.in_(_stamps_with(key_set)))
            .order_by(StampRow.created_at.desc(), StampRow.id.desc())
        )
        extracted = (
            select(ModelRow)
            .join(VectorRow, VectorRow.fingerprinted_id == ModelRow.id)
            .join(VectorFamilyRow)
            .where(VectorFamilyRow.key_set_id == key_set)
            .order_by(VectorRow.created_at, VectorRow.id)
        )
        trained = (
            select(ModelRow)
            .where(ModelRow.role == ModelRole.FINGERPRINTED.value, ModelRow.parent_id == base)
            .order_by(ModelRow.created_at, ModelRow.id)
        )
        seen: set[str] = set()
        for statement in (stamped, extracted, *((trained,) if base is not None else ())):
            for row in self._session.scalars(statement.where(ModelRow.role.in_(OWN_ROLES)).limit(most)):
                if row.id not in seen:
                    seen.add(row.id)
                    yield _record(row)

    def locate(self, identifier: str, location: str) -> ModelRecord:
        """Record where a model was seen last."""
        row = self._row(identifier)
        row.location = location
        self._session.flush()
        return _record(row)

    def free_name(self, wanted: str) -> str:
        """Return a name that no model has yet: ``wanted``, or with a number after it."""
        return free_name(self._session, MODELS, normalised(wanted))

    def _keep(self, identifier: str, manifest: Manifest | None) -> bool:
        """Keep a manifest where none is kept yet, and return whether it was."""
        if manifest is None or self._session.get(ModelManifestRow, identifier) is not None:
            return False
        assert manifest.digest == identifier, "a manifest was recorded for another model"
        row = ModelManifestRow(model_id=identifier, tensors=len(manifest.tensors), content=manifest.to_bytes())
        self._session.add(row)
        self._session.flush()
        if values := sketch(manifest):
            self._session.execute(
                insert(ModelTensorRow), [{"content": value, "model_id": identifier} for value in values]
            )
        return True

    def _check_parent(self, record: ModelRecord) -> None:
        if record.parent is not None and self._session.get(ModelRow, record.parent) is None:
            raise RegistryError(
                f"the parent {record.parent[:16]}… of model {record.name!r} is not registered",
                advice="register it first: `fpvec model register PATH`",
            )

    def _completed(self, row: ModelRow, record: ModelRecord, *, kept: bool) -> ModelRecord:
        before = _content(row)
        row.location = record.location or row.location
        row.architecture = row.architecture or record.architecture
        if row.parent_id is None and record.parent != row.id:
            row.parent_id = record.parent
        if row.role == ModelRole.SUSPECT.value:
            row.role = record.role.value
        self._session.flush()
        if kept or {**_content(row), "location": ""} != {**before, "location": ""}:
            self._ledger.append("model.completed", row.id, _content(row))
        return _record(row)

    def _row(self, identifier: str) -> ModelRow:
        row = self._session.get(ModelRow, identifier)
        if row is None:
            raise RegistryError(f"there is no model {identifier}")
        return row


def carrying(key_set: str, *, base: str | None) -> Select[Any]:
    """Return the ids of the own models that :meth:`ModelRepository.own` yields, as a query."""
    stamped = select(StampRow.stamped_id).where(StampRow.id.in_(_stamps_with(key_set)))
    extracted = select(VectorRow.fingerprinted_id).join(VectorFamilyRow).where(VectorFamilyRow.key_set_id == key_set)
    ways: list[Any] = [ModelRow.id.in_(stamped), ModelRow.id.in_(extracted)]
    if base is not None:
        ways.append((ModelRow.role == ModelRole.FINGERPRINTED.value) & (ModelRow.parent_id == base))
    return select(ModelRow.id).where(ModelRow.role.in_(OWN_ROLES), or_(*ways))


def _stamps_with(key_set: str) -> Select[Any]:
    """Return the ids of the stamps with a vector of a key set, as a query."""
    return (
        select(StampVectorRow.stamp_id)
        .join(VectorRow, VectorRow.id == StampVectorRow.vector_id)
        .join(VectorFamilyRow)
        .where(VectorFamilyRow.key_set_id == key_set)
    )


def _content(row: ModelRow) -> dict[str, object]:
    return {
        "name": row.name,
        "role": row.role,
        "architecture": row.architecture,
        "location": row.location,
        "parent": row.parent_id,
        "parameters": row.parameters,
    }


def _record(row: ModelRow) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        name=row.name,
        role=ModelRole(row.role),
        architecture=row.architecture,
        location=row.location,
        parent=row.parent_id,
        parameters=row.parameters,
        created_at=row.created_at,
    )
