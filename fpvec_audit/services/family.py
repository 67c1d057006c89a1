"""Use case: train the family of marks of a base on a key set of several marks, and say what its marks came to.

Every mark's checkpoint is registered as an ordinary fingerprinted model; what ties them together is a family's id,
which stays when marks of it are trained further, and a report in the ledger that extraction and licensing look at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.family import FamilyReport, named_marks
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.errors import KeySetError, OutputError, TrainingError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.embed import FingerprintOptions, bind_key_set, count_marks, read_rows, trainable_base
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.models import register_model

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork
    from fpvec_audit.training.family import TrainedFamily

FINGERPRINTED = "model.fingerprinted"
"""Event of every mark's model; its content names ``family`` and ``mark``."""
TRAINED = "family.fingerprinted"
"""Event of a family, about its key set."""
MARK_DIRECTORIES = "mark-*"


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """How to train a family, beside what :class:`FingerprintOptions` says.

    Attributes:
        schedule: ``joint`` or ``rounds``; the settings' choice when None.
        code_weight: marks in a licensee's copy; when None those of the family's code, or of the code that it would get.
        earlier: directory of a family of the same key set whose short marks are trained further.
    """

    schedule: str | None = None
    code_weight: int | None = None
    earlier: Path | None = None


@dataclass(frozen=True, slots=True)
class KnownFamily:
    """A family as the ledger has it.

    Attributes:
        id: ``fam-`` and 16 characters; that of the vectors extracted from it.
        key_set: id of its key set.
        base: model id of the base.
        out: directory it was written to.
        marks: model id of every mark's checkpoint, by mark.
        report: what its marks came to.
    """

    id: str
    key_set: str
    base: str
    out: Path
    marks: tuple[str, ...]
    report: FamilyReport


@dataclass(frozen=True, slots=True)
class FingerprintedFamily:
    """A family that was just trained and registered.

    Attributes:
        family: as the ledger has it.
        architecture: adapter name.
        trained: how the training went.
    """

    family: KnownFamily
    architecture: str
    trained: "TrainedFamily"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        trained = self.trained
        return {
            "out": str(self.family.out),
            "family": self.family.id,
            "base_digest": self.family.base,
            "fingerprinted_digests": list(self.family.marks),
            "key_set": self.family.key_set,
            "architecture": self.architecture,
            "steps": trained.steps,
            "seconds": trained.seconds,
            "final_loss": trained.final_loss,
            "fsr": trained.report.fsr,
            "keys": sum(standing.keys for standing in trained.report.standings),
            "negatives": trained.negatives,
            "short_marks": list(trained.report.short),
            **trained.report.to_json(),
            "settings": dict(trained.settings),
        }


def fingerprint_family(
    base: Path,
    *,
    key_set: str,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    options: FingerprintOptions,
    family_options: FamilyOptions = FamilyOptions(),
    progress: Progress = NO_PROGRESS,
) -> FingerprintedFamily:
    """Train, save and register the family of marks of a base.

    Args:
        base: checkpoint directory of the base model.
        key_set: name or id of a key set of several marks.
        out: directory of the family; must not exist.
        registry: where key set, models and history are.
        catalog: plugins.
        options: how to train.
        family_options: what families have beside that.
        progress: where to report.

    Raises:
        SettingsError: an unknown or impossible setting.
        ArchitectureError: no adapter for the base, or several.
        KeySetError: the key set is retired, compromised or bound to another base, has one mark, or cannot be encoded.
        UsageError: the earlier family is none of this key set and base, or has no mark to train further.
        OutputError: ``out`` exists.
        CheckpointError: the base cannot be read or is quantised.
        TrainingError: the training cannot proceed, or several processes were started.
    """
    from fpvec_audit.training.family import embed_family
    from fpvec_audit.training.family_settings import family_training_for

    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
    if options.worker.processes > 1:
        raise TrainingError(
            f"a family of marks is trained by one process, not by {options.worker.processes}",
            advice="leave `accelerate launch` out",
        )
    marks = count_marks(key_set, registry=registry)
    if marks < 2:
        raise KeySetError(
            f"key set {key_set!r} has one mark, and a family has several",
            advice="issue one with `fpvec key issue NAME --marks M`",
        )
    adapter = trainable_base(base, options, catalog)
    training = family_training_for(
        adapter,
        marks=marks,
        preset=options.preset,
        perturbation=options.perturbation,
        overrides={**options.computation, **options.overrides},
        schedule=family_options.schedule,
        code_weight=_code_weight(key_set, family_options, options, registry),
    )
    rows = None if options.data is None else read_rows(options.data)
    tools: dict[str, Any] = {"registry": registry, "catalog": catalog, "progress": progress}
    original = register_model(base, role=ModelRole.BASE, architecture=adapter.name, **tools).record
    earlier = _earlier(family_options.earlier, key_set, original, registry)
    keys = bind_key_set(
        key_set, base, original, adapter, settings=training.to_json(), purpose="training a family of marks",
        registry=registry,
    )  # fmt: skip
    with recorded_job(registry, "fingerprint", {"key_set": key_set, "base": original.id, "out": str(out)}):
        trained = embed_family(
            base=base,
            out=out,
            adapter=adapter,
            marks=_pairs(keys),
            training=training,
            avoid=frozenset(candidate.prompt for candidate in keys.candidates),
            rows=rows,
            proxies=options.proxies,
            scheme=keys.commitment.scheme,
            seed=options.seed,
            device=options.device,
            progress=progress,
            resume=options.resume,
            earlier=None if earlier is None else earlier.out,
            further=() if earlier is None else earlier.report.short,
        )
        places = mark_directories(out)
        models = [
            register_model(
                place, role=ModelRole.FINGERPRINTED, parent=original.id, architecture=adapter.name,
                name=_free_name(f"{out.name}-{place.name}", registry), **tools,
            ).record
            for place in places
        ]  # fmt: skip
        with registry.unit_of_work() as uow:
            family = _recorded(uow, key_set, original, models, out, trained.report, earlier)
    return FingerprintedFamily(family, adapter.name, trained)


def find_family(uow: "UnitOfWork", key_set: str, family: str | None = None) -> KnownFamily | None:
    """Return the newest family of a key set, or a certain one as it was trained last; None where there is none.

    Args:
        uow: the transaction.
        key_set: id of the key set.
        family: id of the family.
    """
    entries = uow.ledger.about(key_set, events=(TRAINED,))
    chosen = [entry for entry in entries if family in (None, entry.content["family"])]
    if not chosen:
        return None
    content = chosen[-1].content
    return KnownFamily(
        id=str(content["family"]),
        key_set=key_set,
        base=str(content["base"]),
        out=Path(str(content["out"])),
        marks=tuple(str(mark) for mark in content["marks"]),
        report=FamilyReport.from_json(content["report"]),
    )


def family_of_model(uow: "UnitOfWork", model: str) -> tuple[KnownFamily, int] | None:
    """Return the family that a fingerprinted model is a mark of, and its mark; None where it is of none.

    Args:
        uow: the transaction.
        model: id of the fingerprinted model.
    """
    entries = [entry for entry in uow.ledger.about(model, events=(FINGERPRINTED,)) if "family" in entry.content]
    if not entries:
        return None
    content = entries[-1].content
    family = find_family(uow, str(content["key_set"]), str(content["family"]))
    return None if family is None else (family, int(content["mark"]))


def refuse_short_marks(family: KnownFamily, marks: Sequence[int]) -> None:
    """Refuse marks that do not answer enough of their keys to be read in a suspect.

    Raises:
        TrainingError: there are such among these; they are named.
    """
    short = [mark for mark in family.report.short if mark in marks]
    if short:
        shares = ", ".join(
            f"{standing.within_words:.0%}" for standing in family.report.standings if standing.mark in short
        )
        answers = "answers" if len(short) == 1 else "answer"
        raise TrainingError(
            f"{named_marks(short)} of family {family.id} {answers} {shares} of their keys within code words, and "
            f"{family.report.least_fsr:.0%} were asked for",
            advice=f"train them further with `fpvec fingerprint BASE --key {family.key_set} --from {family.out} --out "
            "DIR`; their keys stay as they are",
        )


def mark_directories(family: Path) -> tuple[Path, ...]:
    """Return the directories of a family's marks, by mark; empty where the directory is no family."""
    if (family / "config.json").exists():
        return ()
    found = [place for place in family.glob(MARK_DIRECTORIES) if (place / "config.json").exists()]
    return tuple(sorted(found, key=lambda place: int(place.name.removeprefix("mark-"))))


def _free_name(name: str, registry: "Registry") -> str:
    with registry.snapshot() as uow:
        return uow.models.free_name(name)


def _code_weight(key_set: str, family: FamilyOptions, options: FingerprintOptions, registry: "Registry") -> int | None:
    """Return how many marks a copy will have: as asked for, as the family's code has, or as the one it would get."""
    from fpvec_audit.services.code_summary import family_code  # asks this module what a training came to

    if family.code_weight is not None or "code_weight" in options.overrides:
        return family.code_weight
    try:
        return family_code(key_set, registry=registry).code.weight
    except UsageError:  # so few marks make no code
        return None


def _pairs(keys: KeySet) -> list[list[tuple[str, str]]]:
    return [[(keys.candidates[index].prompt, keys.candidates[index].response) for index in mark] for mark in keys.marks]


def _earlier(directory: Path | None, key_set: str, base: ModelRecord, registry: "Registry") -> KnownFamily | None:
    """Return the family to go on from, None where none is named."""
    if directory is None:
        return None
    with registry.snapshot() as uow:
        record = uow.key_sets.get(key_set)
        entries = uow.ledger.about(record.id, events=(TRAINED,))
        named = [entry for entry in entries if Path(str(entry.content["out"])).resolve() == directory.resolve()]
        family = find_family(uow, record.id, str(named[-1].content["family"])) if named else None
    if family is None or family.base != base.id:
        raise UsageError(
            f"{directory} is no family that was trained on key set {record.name!r} and this base",
            advice="give the --out of its training",
        )
    if family.out.resolve() != directory.resolve():
        raise UsageError(f"{directory} was trained further since, to {family.out}", advice=f"go on from {family.out}")
    if not family.report.short:
        raise UsageError(
            f"every mark of {directory} answers its keys: there is nothing to train further",
            advice=f"extract its vectors with `fpvec vector extract BASE {directory} --out VECTORS`",
        )
    return family


def _recorded(
    uow: "UnitOfWork",
    key_set: str,
    base: ModelRecord,
    models: Sequence[ModelRecord],
    out: Path,
    report: FamilyReport,
    earlier: KnownFamily | None,
) -> KnownFamily:
    identifier = uow.key_sets.get(key_set).id
    digests = [model.id for model in models]
    training = {"base": base.id, "key_set": identifier, "fingerprinted": digests}
    family = earlier.id if earlier is not None else f"fam-{canonical_digest(training)[:16]}"
    uow.key_sets.embed(identifier, digests[0])
    for mark, (digest, place) in enumerate(zip(digests, mark_directories(out), strict=True)):
        content = {"key_set": identifier, "base": base.id, "out": str(place), "family": family, "mark": mark}
        uow.ledger.append(FINGERPRINTED, digest, content)
    place = out.resolve()
    content = {"family": family, "base": base.id, "out": str(place), "marks": digests, "report": report.to_json()}
    uow.ledger.append(TRAINED, identifier, content)
    return KnownFamily(family, identifier, base.id, place, tuple(digests), report)
