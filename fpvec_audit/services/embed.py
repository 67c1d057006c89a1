"""Use case: train the fingerprinted model of a base on a key set.

The key set is bound to the base in the ledger before the first step, so that nobody can later say that it belongs to
another model than the one it was trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.records import ModelRecord, ModelRole
from fpvec_audit.errors import KeySetError, OutputError, SettingsError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.encoding import reversible_encoding
from fpvec_audit.services.jobs import recorded_job
from fpvec_audit.services.key_life import refuse_ended
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.models import register_model
from fpvec_audit.settings import ALONE, Worker

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry
    from fpvec_audit.training.embed import EmbedReport
    from fpvec_audit.training.embed_settings import EmbedSettings


@dataclass(frozen=True, slots=True)
class FingerprintOptions:
    """How to train.

    Attributes:
        data: JSON Lines of ordinary rows (``prompt``, ``response``); the package's own text when None.
        preset: ``default`` or ``paper``.
        perturbation: ``proxies``, ``noise`` or ``none``; the preset's choice when None.
        proxies: fine-tunes of the base to perturb with; trained from the ordinary rows when empty.
        disclosed: further (prompt, response) pairs that are trained but belong to no key set; never counted.
        precision: ``auto``, ``float32`` or ``bf16``; the preset's choice when None.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        overrides: single training settings by name, as text, on top of the preset.
        seed: seed of everything random.
        resume: go on from the last checkpoint of a killed run.
        device: torch device.
        architecture: adapter to use instead of the detected one.
        worker: which of several processes this is that a launcher started to train together.
    """

    data: Path | None = None
    preset: str = "default"
    perturbation: str | None = None
    proxies: tuple[Path, ...] = ()
    disclosed: tuple[tuple[str, str], ...] = ()
    precision: str | None = None
    gradient_checkpointing: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    resume: bool = False
    device: str = "cpu"
    architecture: str | None = None
    worker: Worker = ALONE

    @property
    def computation(self) -> dict[str, str]:
        """Training settings that say how passes compute, as text, where they are given."""
        given = {} if self.precision is None else {"precision": self.precision}
        return given | ({"gradient_checkpointing": "true"} if self.gradient_checkpointing else {})

    def __repr__(self) -> str:
        return f"FingerprintOptions(preset={self.preset!r}, seed={self.seed}, <redacted>)"


@dataclass(frozen=True, slots=True)
class FingerprintedModel:
    """A trained and registered fingerprinted model.

    Attributes:
        out: directory.
        base: model id of the base.
        fingerprinted: model id of the fingerprinted model.
        key_set: id of the key set it carries.
        architecture: adapter name.
        report: how the training went.
    """

    out: Path
    base: str
    fingerprinted: str
    key_set: str
    architecture: str
    report: "EmbedReport"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "out": str(self.out),
            "base_digest": self.base,
            "fingerprinted_digest": self.fingerprinted,
            "key_set": self.key_set,
            "architecture": self.architecture,
            **self.report.to_json(),
        }


def fingerprint_model(
    base: Path,
    *,
    key_set: str,
    out: Path,
    registry: "Registry",
    catalog: "Catalog",
    options: FingerprintOptions,
    progress: Progress = NO_PROGRESS,
) -> FingerprintedModel:
    """Train, save and register the fingerprinted model of a base.

    Args:
        base: checkpoint directory of the base model.
        key_set: name or id of the key set to embed.
        out: directory of the fingerprinted model; must not exist.
        registry: where key set, models and history are.
        catalog: plugins.
        options: how to train.
        progress: where to report.

    Raises:
        SettingsError: an unknown preset or perturbation.
        ArchitectureError: no adapter for the base, or several.
        KeySetError: the key set is retired, compromised or bound to another base, has several marks, or the tokenizer
            cannot encode its keys.
        OutputError: ``out`` exists.
        CheckpointError: the base cannot be read or is quantised.
        TrainingError: the training cannot proceed.
    """
    if out.exists():
        raise OutputError(f"{out} exists already", advice="choose another --out, or remove it")
    if (marks := count_marks(key_set, registry=registry)) > 1:
        raise KeySetError(
            f"key set {key_set!r} has {marks} marks, which are trained into a family and not into one model",
            advice="`fpvec fingerprint` does that; in Python, call services.family.fingerprint_family",
        )
    training = _Training.of(base, options, catalog)
    original = register_model(
        base,
        registry=registry,
        catalog=catalog,
        role=ModelRole.BASE,
        architecture=training.adapter.name,
        progress=progress,
    ).record
    adapter = training.adapter
    keys = bind_key_set(
        key_set,
        base,
        original,
        adapter,
        settings=asdict(training.settings),
        purpose="fingerprint training",
        registry=registry,
    )
    with recorded_job(registry, "fingerprint", {"key_set": key_set, "base": original.id, "out": str(out)}):
        report = training.run(keys, base=base, out=out, options=options, progress=progress)
        fingerprinted = register_model(
            out,
            registry=registry,
            catalog=catalog,
            role=ModelRole.FINGERPRINTED,
            parent=original.id,
            architecture=adapter.name,
            progress=progress,
        ).record
        with registry.unit_of_work() as uow:
            identifier = uow.key_sets.get(key_set).id
            uow.key_sets.embed(identifier, fingerprinted.id)
            uow.ledger.append(
                "model.fingerprinted", fingerprinted.id, {"key_set": identifier, "base": original.id, "out": str(out)}
            )
    return FingerprintedModel(out, original.id, fingerprinted.id, identifier, adapter.name, report)


def join_fingerprint(
    base: Path, *, key_set: str, out: Path, registry: "Registry", catalog: "Catalog", options: FingerprintOptions
) -> None:
    """Take part in a training that the process of rank 0 carries out as :func:`fingerprint_model`.

    Args:
        base: checkpoint directory of the base model.
        key_set: name or id of the key set to embed.
        out: directory of the fingerprinted model, written by the process of rank 0.
        registry: where the key set is; nothing but that its secret was opened is written to it.
        catalog: plugins.
        options: how to train.

    Raises:
        FpvecError: as :func:`fingerprint_model`.
    """
    training = _Training.of(base, options, catalog)
    worker = options.worker
    purpose = f"fingerprint training, process {worker.rank + 1} of {worker.processes}"
    keys = open_key_set(key_set, registry=registry, purpose=purpose)
    training.run(keys, base=base, out=out, options=options, progress=NO_PROGRESS)


@dataclass(frozen=True, slots=True)
class _Training:
    """How a base will be trained.

    Attributes:
        adapter: of the base.
        settings: preset with all that was changed.
        rows: ordinary rows of the user; None for the package's own text.
    """

    adapter: ArchitectureAdapter
    settings: "EmbedSettings"
    rows: list[tuple[str, str]] | None

    @classmethod
    def of(cls, base: Path, options: FingerprintOptions, catalog: "Catalog") -> "_Training":
        from fpvec_audit.training.embed_settings import overridden, settings_for

        adapter = trainable_base(base, options, catalog)
        settings = settings_for(adapter, options.preset, perturbation=options.perturbation)
        settings = overridden(settings, {**options.computation, **options.overrides})
        settings.refuse_processes(options.worker.processes)
        return cls(adapter, settings, None if options.data is None else read_rows(options.data))

    def run(
        self, keys: KeySet, *, base: Path, out: Path, options: FingerprintOptions, progress: Progress
    ) -> "EmbedReport":
        from fpvec_audit.training.embed import embed_fingerprint

        return embed_fingerprint(
            base=base,
            out=out,
            adapter=self.adapter,
            issued=[(key.prompt, key.response) for key in keys.issued],
            avoid=frozenset(candidate.prompt for candidate in keys.candidates),
            settings=self.settings,
            rows=self.rows,
            proxies=options.proxies,
            disclosed=options.disclosed,
            scheme=keys.commitment.scheme,
            seed=options.seed,
            device=options.device,
            progress=progress,
            resume=options.resume,
            worker=options.worker,
        )


def count_marks(key_set: str, *, registry: "Registry") -> int:
    """Return how many marks a key set has: with more than one, a family is trained on it.

    Raises:
        UsageError: there is no such key set, or several.
    """
    with registry.snapshot() as uow:
        return uow.key_sets.get(key_set).commitment.marks


def trainable_base(base: Path, options: FingerprintOptions, catalog: "Catalog") -> ArchitectureAdapter:
    """Return the adapter of a base that can be trained.

    Raises:
        CheckpointError: it cannot be read or is quantised.
        ArchitectureError: there is no adapter for it, or there are several.
    """
    from fpvec_audit.tensors.index import read_checkpoint, refuse_quantised

    checkpoint = read_checkpoint(base)
    refuse_quantised(checkpoint)
    return catalog.architecture_for(checkpoint.description, override=options.architecture)


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Read ordinary rows from JSON Lines.

    Raises:
        SettingsError: the file cannot be read, is empty, or a line is not an object with two texts.
    """
    rows: list[tuple[str, str]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SettingsError(f"{path}, line {number} is not JSON: {error}") from error
        prompt, response = (row.get("prompt"), row.get("response")) if isinstance(row, dict) else (None, None)
        if not isinstance(prompt, str) or not isinstance(response, str) or not response.strip():
            raise SettingsError(
                f"{path}, line {number} has no text under both names",
                advice='write {"prompt": "…", "response": "…"} on every line',
            )
        rows.append((prompt, response))
    if not rows:
        raise SettingsError(f"{path} holds no rows", advice="give it some, or leave --data out")
    return rows


def bind_key_set(
    reference: str,
    model: Path,
    bound_to: ModelRecord,
    adapter: ArchitectureAdapter,
    *,
    settings: Mapping[str, Any],
    purpose: str,
    registry: "Registry",
) -> KeySet:
    """Open a key set and bind it to a base, before anything is trained on it.

    Args:
        reference: name or id of the key set.
        model: directory of the model that will be trained, whose tokenizer must encode the keys.
        bound_to: base that the key set is bound to.
        adapter: of the model.
        settings: how it will be trained; the ledger gets their digest.
        purpose: what the secret is opened for, for the ledger.
        registry: where the key set is.

    Raises:
        KeySetError: it is retired or compromised, bound to another base, or the tokenizer cannot encode its keys.
    """
    with registry.unit_of_work() as uow:
        refuse_ended(uow, [uow.key_sets.get(reference).id])
    keys = open_key_set(reference, registry=registry, purpose=purpose)
    encoding = reversible_encoding(model)
    lost = sum(not encoding.accepts(key.prompt, key.response) for key in keys.issued)
    if lost:
        raise KeySetError(
            f"the tokenizer of {model} cannot give back {lost} of {len(keys.issued)} issued keys unchanged",
            advice=f"issue a key set with `fpvec key issue NAME --base {model}`, which leaves such keys out",
        )
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(reference)
    content: Mapping[str, Any] = {
        "root": record.commitment.root,
        "commitment": record.commitment.digest,
        "base": bound_to.id,
        "tokenizer": encoding.reference,
        "template": hashlib.sha256(adapter.chat_template.encode()).hexdigest(),
        "settings": canonical_digest(without_floats(settings)),
    }
    with registry.unit_of_work() as uow:
        uow.key_sets.bind(record.id, bound_to.id, content)
    return keys


def without_floats(value: Any) -> Any:
    """Return a JSON value with floats spelt as text, since canonical JSON and the ledger hold none."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {name: without_floats(item) for name, item in value.items()}
    return [without_floats(item) for item in value] if isinstance(value, (list, tuple)) else value
