"""The stages of a plan, in an order in which each comes after what it needs.

A stage is named ``BASE/MODEL`` where it makes a model (or a vector, or a key set) and ``BASE/MODEL/MEASURE`` where it
measures one, so that every measure is carried out alike on whatever model it is asked of.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fpvec_audit.domain.attack_spec import parse_spec
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.reproduction.plan import ATTACKS, AttackPlan, BasePlan, Plan, TrainingPlan

DIRECT, STEPS = "direct", "steps"
"""The method that trains every model as a base is trained, and the one training setting that it can be given."""
OTHER = "{other}"
"""Stands for the directory of the other downstream."""
FSR, SCALES, HARMLESSNESS = "fsr", "scales", "harmlessness"
_DATA = re.compile(r"\bdata=([^,+|]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One piece of work.

    Attributes:
        name: ``BASE/MODEL[/MEASURE]``.
        kind: what is done, a name in ``work.WORK``.
        settings: everything that decides the result beside what the stage needs, as JSON values.
        needs: role → name of the stage that it needs.
        files: files whose contents decide the result too.
        lasting: whether the result is kept; what only looks at models that are given is looked at again every time.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    lasting: bool = True

    @property
    def base(self) -> str:
        """Name of the base that it is about."""
        return self.name.partition("/")[0]

    @property
    def measures(self) -> bool:
        """Whether it measures, and not only makes."""
        return self.kind in (FSR, SCALES, HARMLESSNESS, "attacks")


def method_name(specification: str) -> str:
    """Return the name of a method in ``fpvec embed --method``'s grammar."""
    return parse_spec(specification, kind="method")[0].name


def trained_alike(specification: str, training: TrainingPlan) -> str:
    """Return a method of direct training with the plan's own training, where it says nothing else.

    So what sets it apart from stamping is the transfer alone.
    """
    parsed = parse_spec(specification, kind="method")[0]
    name, given = parsed.name, parsed.parameters
    if name != DIRECT:
        return specification
    plans = {"preset": training.preset, "perturbation": training.perturbation, "data": training.data}
    usual = TrainingPlan()
    told = {key: value for key, value in plans.items() if value != getattr(usual, key)}
    if STEPS in training.settings:
        told[STEPS] = str(training.settings[STEPS])
    told |= given
    return f"{name}:{','.join(f'{key}={value}' for key, value in told.items())}" if told else name


def plan_stages(plan: Plan, *, device: str, schemes: Mapping[str, str]) -> tuple[Stage, ...]:
    """Return all stages of a plan.

    Args:
        plan: the plan.
        device: torch device.
        schemes: method → scheme of the key sets that it embeds.
    """
    return tuple(stage for base in plan.bases for stage in _Staging(plan, base, device, schemes).stages())


def data_files(specifications: Sequence[str]) -> tuple[Path, ...]:
    """Return the files of rows that attacks or methods name."""
    return tuple(Path(path) for text in specifications for path in _DATA.findall(text))


def choose_stages(stages: Sequence[Stage], patterns: Sequence[str]) -> tuple[Stage, ...]:
    """Return the stages that patterns name, with those they need.

    Args:
        stages: all of a plan.
        patterns: a stage, the beginning of its name, one part of it, or a shell pattern; all stages when empty.

    Raises:
        UnknownNameError: a pattern names no stage.
    """
    if not patterns:
        return tuple(stages)
    by_name = {stage.name: stage for stage in stages}
    wanted = named_stages(stages, patterns)
    pending = list(wanted)
    while pending:
        needed = set(by_name[pending.pop()].needs.values()) - wanted
        wanted |= needed
        pending += needed
    return tuple(stage for stage in stages if stage.name in wanted)


def named_stages(stages: Sequence[Stage], patterns: Sequence[str]) -> set[str]:
    """Return the names of the stages that patterns name; see :func:`choose_stages`.

    Raises:
        UnknownNameError: a pattern names no stage.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        named = [stage.name for stage in stages if _named(stage.name, pattern)]
        if not named:
            parts = {part for stage in stages for part in (stage.name, *stage.name.split("/"))}
            raise UnknownNameError("stage", pattern, parts)
        wanted.update(named)
    return wanted


def _named(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*") or pattern in name.split("/")


@dataclass(frozen=True, slots=True)
class _Staging:
    """Puts the stages of one base together."""

    plan: Plan
    base: BasePlan
    device: str
    schemes: Mapping[str, str]

    def stages(self) -> Iterator[Stage]:
        """Yield the stages; own models are asked first, as they are the positive controls of the others."""
        yield from self._models()
        yield self._fsr("fingerprinted")
        for name in self.base.downstream_names:
            yield from self._measured(f"stamped/{name}", name, self._keys(self.plan.keys.scheme))
        for name in ("base", *(f"downstream/{name}" for name in self.base.downstream_names)):
            yield self._fsr(name)
        if "fingerprinted" in self.plan.harmlessness.compared:
            yield from self._harmlessness("fingerprinted", before="base")
        for name in self.plan.chosen(self.plan.scales, self.base):
            yield from self._scales(name)
        for name in self.plan.chosen(self.plan.methods, self.base):
            for specification in self.plan.methods.compared:
                yield from self._compared(specification, name)

    def _models(self) -> Iterator[Stage]:
        plan, base = self.plan, self.base
        given = {"family": base.family, "path": base.path, "architecture": base.architecture}
        yield self._stage("base", "base", given, lasting=False)
        for name in base.downstream_names:
            yield self._downstream(name)
        schemes = {plan.keys.scheme}
        if self.plan.chosen(plan.methods, base):
            schemes |= {self.schemes[method_name(own)] for own in plan.methods.compared}
        for scheme in sorted(schemes):
            budget = {"scheme": scheme, "issued": plan.keys.issued, "decoys": plan.keys.decoys}
            yield self._stage(f"keys-{scheme}", "keys", budget, {"base": "base"})
        keys = self._keys(plan.keys.scheme)
        training = {
            "preset": plan.training.preset,
            "perturbation": plan.training.perturbation,
            "settings": dict(plan.training.settings),
            "data": plan.training.data,
            "seed": plan.seed,
            "device": self.device,
        }
        files = (Path(plan.training.data),) if plan.training.data else ()
        yield self._stage("fingerprinted", "fingerprint", training, {"base": "base", "keys": keys}, files=files)
        yield self._stage("vector", "vector", {}, {"base": "base", "fingerprinted": "fingerprinted", "keys": keys})
        for name in base.downstream_names:
            made_of = {"vector": "vector", "downstream": f"downstream/{name}"}
            yield self._stage(f"stamped/{name}", "stamp", {}, made_of)

    def _downstream(self, name: str) -> Stage:
        own = next((item for item in self.base.downstreams if item.name == name), None)
        if own is None or own.path:
            given = {"path": "" if own is None else own.path, "name": name}
            return self._stage(f"downstream/{name}", "downstream", given, {"base": "base"}, lasting=False)
        settings = {
            "data": own.data,
            "steps": own.steps,
            "rows_per_step": own.rows_per_step,
            "learning_rate": own.learning_rate,
            "warmup_steps": own.warmup_steps,
            "seed": self.plan.seed,
            "device": self.device,
        }
        return self._stage(f"downstream/{name}", "fine-tune", settings, {"base": "base"}, files=(Path(own.data),))

    def _measured(self, model: str, downstream: str, keys: str) -> Iterator[Stage]:
        """Yield what is measured of a stamped copy, or of the same downstream under another method."""
        yield self._fsr(model, keys)
        parts = ATTACKS if model.startswith("stamped/") else ("guessing", "fine_tuning")
        for part in parts:
            yield from self._attacks(model, downstream, part, keys)
        if "stamped" in self.plan.harmlessness.compared:
            yield from self._harmlessness(model, before=f"downstream/{downstream}")

    def _fsr(self, model: str, keys: str | None = None) -> Stage:
        keys = keys or self._keys(self.plan.keys.scheme)
        needs = {"model": model, "base": "base", "keys": keys}
        return self._stage(f"{model}/{FSR}", FSR, self._asking, needs)

    def _attacks(self, model: str, downstream: str, part: str, keys: str) -> Iterator[Stage]:
        chosen: AttackPlan = getattr(self.plan, part)
        if not chosen.attacks or downstream not in self.plan.chosen(chosen, self.base):
            return
        needs = {"model": model, "base": "base", "keys": keys}
        if any(OTHER in attack for attack in chosen.attacks):
            names = self.base.downstream_names
            other = names[(names.index(downstream) + 1) % len(names)]
            needs["other"] = f"downstream/{other}"
        settings = {**self._asking, "attacks": list(chosen.attacks), "seed": self.plan.seed}
        yield self._stage(f"{model}/{part}", "attacks", settings, needs, files=data_files(chosen.attacks))

    def _harmlessness(self, model: str, *, before: str) -> Iterator[Stage]:
        plan = self.plan.harmlessness
        if not plan.tasks:
            return
        settings = {
            **self._asking,
            "tasks": list(plan.tasks),
            "margin": plan.margin,
            "limit": plan.limit,
            "task_seconds": plan.task_seconds,
            "text": plan.text,
        }
        needs = {"before": before, "after": model, "base": "base"}
        yield self._stage(f"{model}/{HARMLESSNESS}", HARMLESSNESS, settings, needs)

    def _scales(self, downstream: str) -> Iterator[Stage]:
        if self.plan.scales.values:
            settings = {**self._asking, "values": list(self.plan.scales.values)}
            needs = {
                "vector": "vector",
                "downstream": f"downstream/{downstream}",
                "stamped": f"stamped/{downstream}",
                "base": "base",
                "keys": self._keys(self.plan.keys.scheme),
            }
            yield self._stage(f"stamped/{downstream}/{SCALES}", SCALES, settings, needs)

    def _compared(self, specification: str, downstream: str) -> Iterator[Stage]:
        name = method_name(specification)
        specification = trained_alike(specification, self.plan.training)
        keys = self._keys(self.schemes[name])
        files = data_files([specification])
        settings = {"method": specification, "seed": self.plan.seed, "device": self.device}
        model = f"{name}/{downstream}"
        needs = {"base": "base", "downstream": f"downstream/{downstream}", "keys": keys}
        yield self._stage(model, "embed", settings, needs, files=files)
        yield from self._measured(model, downstream, keys)

    def _keys(self, scheme: str) -> str:
        return f"keys-{scheme}"

    @property
    def _asking(self) -> dict[str, Any]:
        return {"backend": self.plan.backend, "device": self.device}

    def _stage(
        self,
        name: str,
        kind: str,
        settings: Mapping[str, Any] | None = None,
        needs: Mapping[str, str] | None = None,
        *,
        files: tuple[Path, ...] = (),
        lasting: bool = True,
    ) -> Stage:
        named = {role: f"{self.base.name}/{need}" for role, need in (needs or {}).items()}
        return Stage(
            name=f"{self.base.name}/{name}",
            kind=kind,
            settings=settings or {},
            needs=named,
            files=files,
            lasting=lasting,
        )
