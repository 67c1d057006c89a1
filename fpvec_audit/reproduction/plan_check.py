"""A plan against this machine: what plugins do not know is refused at once, what is missing is said before any work."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpvec_audit.domain.attack_spec import bind_one, bind_spec
from fpvec_audit.domain.plugins import METHOD
from fpvec_audit.errors import FpvecError, UsageError
from fpvec_audit.reproduction.plan import ATTACKS, Plan
from fpvec_audit.reproduction.stages import DIRECT, OTHER, STEPS, method_name, trained_alike

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog

LEAST_FREE_BYTES = 1 << 30
PLACEHOLDER = "other"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a plan needs.

    Attributes:
        subject: what it is.
        there: whether it is there.
        detail: what was found.
        mend: what to do about it; empty where nothing is needed.
    """

    subject: str
    there: bool
    detail: str
    mend: str = ""

    @classmethod
    def found(cls, subject: str, detail: str) -> "Finding":
        """Return a finding of something that is there."""
        return cls(subject, there=True, detail=detail)

    @classmethod
    def lacking(cls, subject: str, detail: str, mend: str) -> "Finding":
        """Return a finding of something that is not there, with what to do."""
        return cls(subject, there=False, detail=detail, mend=mend)

    def to_json(self) -> dict[str, object]:
        """Return the finding as a JSON object."""
        return {"subject": self.subject, "there": self.there, "detail": self.detail, "mend": self.mend}


def check_names(plan: Plan, catalog: "Catalog") -> Mapping[str, str]:
    """Refuse what no plugin knows; return method → scheme of the key sets that it embeds.

    Raises:
        UnknownNameError: an unknown attack, method, adapter or parameter.
        UsageError: a value that cannot be meant, or an attack with another downstream where there is one only.
        SettingsError: an unknown training setting.
    """
    from fpvec_audit.training.embed_settings import overridden, settings_for

    for base in plan.bases:
        architecture = base.architecture or base.family
        if not architecture:
            continue
        adapter = catalog.architecture(architecture)
        settings = settings_for(adapter, plan.training.preset, perturbation=plan.training.perturbation or None)
        overridden(settings, {name: str(value) for name, value in plan.training.settings.items()})
    for part in ATTACKS:
        choice = getattr(plan, part)
        for attack in choice.attacks:
            bind_spec(attack.replace(OTHER, PLACEHOLDER), lambda name: catalog.attack(name).Parameters)
            alone = [base.name for base in plan.bases if len(base.downstream_names) == 1 and plan.chosen(choice, base)]
            if OTHER in attack and alone:
                raise UsageError(
                    f"[{part}] {attack}: base {alone[0]} has no other downstream", advice="name one by its directory"
                )
    schemes = {}
    for specification in plan.methods.compared:
        alike = trained_alike(specification, plan.training)
        bind_one(alike, lambda name: catalog.method(name).Parameters, kind=METHOD)
        name = method_name(specification)
        if name == "vector" or name in schemes:
            raise UsageError(
                f"[methods] compares with {name} {'twice' if name in schemes else 'itself'}", advice="leave it out"
            )
        if name == DIRECT and (other := [key for key in plan.training.settings if key != STEPS]):
            raise UsageError(
                f"[methods] {DIRECT} cannot be given the training setting {other[0]}, so it would not be trained alike",
                advice=f"leave {other[0]} or {DIRECT} out",
            )
        known = catalog.method(name).schemes
        schemes[name] = plan.keys.scheme if plan.keys.scheme in known else known[0]
    return schemes


def check_machine(plan: Plan, *, directory: Path, families: Path, device: str) -> tuple[Finding, ...]:
    """Return everything that a plan needs, and whether it is here; nothing is fetched.

    Args:
        plan: the plan.
        directory: where results will be kept.
        families: where embedded families are kept.
        device: torch device.
    """
    return (
        *_bases(plan, families),
        *_files(plan),
        *_tasks(plan),
        _engine(plan),
        Finding.found("device", device),
        _space(directory),
    )


def _bases(plan: Plan, families: Path) -> Iterator[Finding]:
    from fpvec_audit.demo.family import family_home, family_recipe

    for base in plan.bases:
        if base.family:
            made = family_home(families, family_recipe(base.family)).is_dir()
            detail = "in the user's cache" if made else "will be trained first, a few minutes"
            yield Finding.found(f"base {base.name}", f"embedded family {base.family}, {detail}")
            continue
        yield _model(f"base {base.name}", base.path)
        for own in base.downstreams:
            if own.path:
                yield _model(f"downstream {own.name} of {base.name}", own.path)


def _model(subject: str, text: str) -> Finding:
    from fpvec_audit.tensors.index import read_checkpoint

    path = Path(text).expanduser()
    if path.exists():
        try:
            read_checkpoint(path)
        except FpvecError as error:
            return Finding.lacking(subject, error.problem, error.advice)
        return Finding.found(subject, str(path))
    if _fetched(text):
        return Finding.found(subject, f"{text}, fetched from the hub before")
    return Finding.lacking(
        subject,
        f"{text} is no directory here and was not fetched from the hub yet",
        "give the path of a directory; or it is fetched when the stage begins, where the hub can be reached",
    )


def _fetched(identifier: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(identifier, "config.json"), str)
    except HFValidationError:
        return False


def _files(plan: Plan) -> Iterator[Finding]:
    from fpvec_audit.services.embed import read_rows

    for path in dict.fromkeys(_data(plan)):
        subject = f"rows {Path(path).name}"
        try:
            yield Finding.found(subject, f"{path}: {len(read_rows(Path(path))):,} rows")
        except FpvecError as error:
            mend = 'write JSON Lines, {"prompt": "…", "response": "…"} on each, or name the directory with --data'
            yield Finding.lacking(subject, error.problem, mend)


def _data(plan: Plan) -> Iterator[str]:
    from fpvec_audit.reproduction.stages import data_files

    if plan.training.data:
        yield plan.training.data
    for base in plan.bases:
        yield from (own.data for own in base.downstreams if own.data)
    for part in ATTACKS:
        yield from (str(path) for path in data_files(getattr(plan, part).attacks))
    yield from (str(path) for path in data_files(plan.methods.compared))


def _tasks(plan: Plan) -> Iterator[Finding]:
    from fpvec_audit.services.harm_tasks import OFFLINE

    asked = [name for name in plan.harmlessness.tasks if name != OFFLINE]
    if asked:
        yield Finding.found(
            "harmlessness tasks",
            f"{', '.join(asked)}: their data sets are fetched when they are asked; one that cannot be is left out",
        )


def _engine(plan: Plan) -> Finding:
    from importlib.util import find_spec

    if plan.backend == "vllm" and find_spec("vllm") is None:
        return Finding.lacking("engine", "vLLM is not installed", 'install it, or set backend = "transformers"')
    return Finding.found("engine", plan.backend)


def _space(directory: Path) -> Finding:
    place = directory
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    shown = f"{free / 1e9:,.0f} GB free at {directory}; models of the plan are kept there"
    return (
        Finding.found("disk", shown)
        if free > LEAST_FREE_BYTES
        else Finding.lacking("disk", shown, "name another --dir")
    )
