"""Registered checkpoints, identified by what their weights are and not by where they lie."""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, update
from sqlalchemy.orm import Session

from fpvec_audit.domain.manifest import Manifest
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.domain.selection import Selection
from fpvec_audit.domain.sketch import numbers, sketch
from fpvec_audit.errors import RegistryError
from fpvec_audit.registry.ledger import Ledger
from fpvec_audit.registry.repositories.listing import Equal, Listing, in_parts
from fpvec_audit.registry.repositories.lookup import Directory, checked_name, free_name, normalised, refuse_taken
from fpvec_audit.registry.repositories.sketches import add_sketch, models_sharing
from fpvec_audit.registry.tables import (
    DigestedFilesRow,
    ModelManifestRow,
    ModelRow,
    StampRow,
    StampVectorRow,
    VectorFamilyRow,
    VectorRow,
)

MODELS = Directory("model", ModelRow.id, ModelRow.name, listing="fpvec model list")
OWN_ROLES = (ModelRole.STAMPED.value, ModelRole.FINGERPRINTED.value)

LISTING = Listing(
    MODELS,
    ModelRow,
    ModelRow.created_at,
    filters={
        "role": Equal(ModelRow.role),
        "base": Equal(ModelRow.base_id, MODELS.resolve),
        "parent": Equal(ModelRow.parent_id, MODELS.resolve),
    },
    orders={"name": (ModelRow.name,)},
)


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
            kept = self._session.get(ModelManifestRow, record.id) is None and self._keep(record.id, manifest)
            return self._completed(row, record, kept=kept)
        name = checked_name("model", record.name)
        refuse_taken(self._session, MODELS, name, option="--name")
        row = ModelRow(
            id=record.id,
            name=name,
            role=record.role.value,
            architecture=record.architecture,
            location=record.location,
            parent_id=record.parent,
            base_id=self._base(record.parent),
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
        return _manifest(identifier, row.content)

    def manifests(self, identifiers: Iterable[str]) -> dict[str, Manifest]:
        """Return the tensors of models by digest; those of which they were not recorded are missing.

        Raises:
            RegistryError: what is recorded does not give a model's digest.
        """
        return {
            identifier: _manifest(identifier, content)
            for part in in_parts(sorted(set(identifiers)))
            for identifier, content in self._session.execute(
                select(ModelManifestRow.model_id, ModelManifestRow.content).where(ModelManifestRow.model_id.in_(part))
            )
        }

    def sharing(self, manifest: Manifest, *, at_most: int) -> tuple[tuple[ModelRecord, ...], int]:
        """Return the models that share tensors with what is at hand, those with most counted tensors first.

        Args:
            manifest: the tensors at hand; a part of a model is enough.
            at_most: number of models returned.

        Returns:
            the models, and how many tensors at hand so many models share that not all of these were looked at.
        """
        found, common = models_sharing(self._session, numbers(manifest))
        nearest = sorted(found, key=lambda identifier: (-found[identifier], identifier))
        bases = [identifier for identifier in nearest if found[identifier] == 0]
        chosen = [*nearest[: max(at_most - len(bases), 0)], *bases][:at_most]
        rows = {row.id: row for row in self._session.scalars(select(ModelRow).where(ModelRow.id.in_(chosen)))}
        return tuple(_record(rows[identifier]) for identifier in dict.fromkeys(chosen)), common

    def digest_of_files(self, state: str) -> str | None:
        """Return the digest that files in this state gave, None if they were not seen like that."""
        row = self._session.get(DigestedFilesRow, state)
        return None if row is None else row.digest

    def remember_files(self, state: str, digest: str) -> None:
        """Keep what files in a state gave when all their bytes were read; a convenience, so no ledger entry."""
        self._session.merge(DigestedFilesRow(state=state, digest=digest))
        self._session.flush()

    def select(self, selection: Selection) -> tuple[ModelRecord, ...]:
        """Return the models of a selection: by ``role``, ``base`` (where the line of parents ends) and ``parent``.

        Raises:
            UsageError: a filter, an order or the beginning names nothing.
        """
        return tuple(_record(row) for row in LISTING.rows(self._session, selection))

    def known(self, identifiers: Iterable[str]) -> dict[str, ModelRecord]:
        """Return models by digest; those that are not registered are missing."""
        return {
            row.id: _record(row)
            for part in in_parts(sorted(set(identifiers)))
            for row in self._session.scalars(select(ModelRow).where(ModelRow.id.in_(part)))
        }

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
            .where(ModelRow.role == ModelRole.FINGERPRINTED.value, _made_of(base))
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
        """Keep the manifest of a model that has none yet, and return whether there was one to keep."""
        if manifest is None:
            return False
        content = manifest.to_bytes()
        assert Manifest.digest_of(content) == identifier, "a manifest was recorded for another model"
        row = ModelManifestRow(model_id=identifier, tensors=len(manifest.tensors), content=content)
        self._session.add(row)
        self._session.flush()
        add_sketch(self._session, identifier, sketch(manifest))
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
            self._move_line(row)
        if row.role == ModelRole.SUSPECT.value:
            row.role = record.role.value
        self._session.flush()
        if kept or {**_content(row), "location": ""} != {**before, "location": ""}:
            self._ledger.append("model.completed", row.id, _content(row))
        return _record(row)

    def _base(self, parent: str | None) -> str | None:
        """Return where the line of a model's parents ends."""
        if parent is None:
            return None
        return self._session.scalar(select(ModelRow.base_id).where(ModelRow.id == parent)) or parent

    def _move_line(self, row: ModelRow) -> None:
        """Let a model whose parent became known, and all whose line ended with it, stem from that parent's base."""
        base = self._base(row.parent_id)
        if base == row.id:
            return  # its parent is said to be made of it
        row.base_id = base
        self._session.flush()
        self._session.execute(update(ModelRow).where(ModelRow.base_id == row.id).values(base_id=base))

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
        ways.append((ModelRow.role == ModelRole.FINGERPRINTED.value) & _made_of(base))
    return select(ModelRow.id).where(ModelRow.role.in_(OWN_ROLES), or_(*ways))


def _made_of(base: str | None) -> ColumnElement[bool]:
    """Say that a model was made of a base, or that its line ends with it."""
    return or_(ModelRow.parent_id == base, ModelRow.base_id == base)


def _stamps_with(key_set: str) -> Select[Any]:
    """Return the ids of the stamps with a vector of a key set, as a query."""
    return (
        select(StampVectorRow.stamp_id)
        .join(VectorRow, VectorRow.id == StampVectorRow.vector_id)
        .join(VectorFamilyRow)
        .where(VectorFamilyRow.key_set_id == key_set)
    )


def _manifest(identifier: str, content: bytes) -> Manifest:
    try:
        digest, manifest = Manifest.digest_of(content), Manifest.from_bytes(content)
    except ValueError as error:
        raise RegistryError(f"the manifest of model {identifier[:16]}… is damaged: {error}") from error
    if digest != identifier:
        raise RegistryError(f"the manifest of model {identifier[:16]}… is of another model")
    return manifest


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
