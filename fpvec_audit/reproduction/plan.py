"""What a reproduction carries out, as one frozen value: everything that decides its results, and nothing else.

A plan is checked when it is made, so that hours of work never end at a name that was mistyped in the first minute. What
only the plugins know (attacks, methods, adapters) is checked against the catalog in ``plan_check``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from fpvec_audit.demo.family import RECIPES
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.errors import UnknownNameError, UsageError
from fpvec_audit.reproduction.published import PUBLISHED_MODELS

FAMILY_DOWNSTREAMS = ("maths", "text")
"""Downstream models of an embedded family."""
BACKENDS = ("auto", "transformers", "vllm")
COMPARED = ("stamped", "fingerprinted")
"""What harmlessness may be measured of: each stamped model beside its downstream, the fingerprinted beside its base."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamPlan:
    """A downstream model: given, or made by fine-tuning the base on rows.

    Attributes:
        name: how it is called in tables.
        path: directory, or id on the hub.
        data: JSON Lines of rows (``prompt``, ``response``) that the base is fine-tuned on instead.
        steps: optimiser steps of that fine-tuning.
        rows_per_step: rows in each.
        learning_rate: its peak rate.
        warmup_steps: steps of linear warm-up.
    """

    name: str
    path: str = ""
    data: str = ""
    steps: int = 0
    rows_per_step: int = 16
    learning_rate: float = 1e-5
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        _check_name("downstream", self.name)
        if bool(self.path) == bool(self.data):
            raise UsageError(
                f"downstream {self.name} needs either a path or data", advice="name a model, or rows to make one with"
            )
        if self.data and self.steps < 1:
            raise UsageError(f"downstream {self.name}: steps is {self.steps}", advice="give how many to fine-tune for")
        if self.rows_per_step < 1 or self.warmup_steps < 0 or not 0.0 < self.learning_rate <= 1.0:
            raise UsageError(f"downstream {self.name}: rows, rate or warm-up steps cannot be meant")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlan:
    """A base model with its downstreams.

    Attributes:
        name: how it is called in tables.
        family: architecture of an embedded tiny family, which brings its own two downstreams.
        path: directory, or id on the hub, of a base that is given instead.
        architecture: adapter to use instead of the detected one.
        paper: model of the paper whose figures stand beside it; empty for none.
        downstreams: of a base that is given.
    """

    name: str
    family: str = ""
    path: str = ""
    architecture: str = ""
    paper: str = ""
    downstreams: tuple[DownstreamPlan, ...] = ()

    def __post_init__(self) -> None:
        _check_name("base", self.name)
        if bool(self.family) == bool(self.path):
            raise UsageError(f"base {self.name} needs either a family or a path", advice="name one of the two")
        if self.family and self.family not in RECIPES:
            raise UnknownNameError(f"family of base {self.name}", self.family, RECIPES)
        if self.family and self.downstreams:
            raise UsageError(
                f"base {self.name}: an embedded family brings its own downstreams", advice="leave downstreams out"
            )
        if self.path and not self.downstreams:
            raise UsageError(f"base {self.name} has no downstreams", advice="add [[bases.downstreams]]")
        if self.paper and self.paper not in PUBLISHED_MODELS:
            raise UnknownNameError(f"model of the paper beside base {self.name}", self.paper, PUBLISHED_MODELS)
        _check_unique(f"downstreams of base {self.name}", self.downstream_names)

    @property
    def downstream_names(self) -> tuple[str, ...]:
        """Names of the downstreams, in order."""
        return FAMILY_DOWNSTREAMS if self.family else tuple(own.name for own in self.downstreams)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysPlan:
    """The key budget, the same for every method.

    Attributes:
        scheme: how keys of fingerprint vectors are drawn; other methods draw theirs as they must.
        issued: issued keys, n.
        decoys: decoys, m.
    """

    scheme: str = "independent"
    issued: int = 32
    decoys: int = 224

    def __post_init__(self) -> None:
        self.specification(self.scheme)

    def specification(self, scheme: str) -> KeySetSpecification:
        """Return what is drawn under a scheme."""
        return KeySetSpecification(scheme, issued=self.issued, decoys=self.decoys)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How fingerprints are trained.

    Attributes:
        preset: ``default`` or ``paper``.
        perturbation: ``proxies``, ``noise`` or ``none``; empty for the preset's choice.
        data: JSON Lines of ordinary rows; empty for the package's own text.
        settings: single training settings on top of the preset.
    """

    preset: str = "default"
    perturbation: str = ""
    data: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan:
    """Attacks on stamped models.

    Attributes:
        attacks: in the grammar of ``fpvec attack run``; ``{other}`` stands for the other downstream's directory.
        bases: names of the bases whose models are attacked; all when empty.
        downstreams: names of the downstreams whose stamped copies are; all when empty.
    """

    attacks: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    downstreams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalesPlan:
    """Stamping with other scales λ.

    Attributes:
        values: scales, above 0.
        bases: as in :class:`AttackPlan`.
        downstreams: as in :class:`AttackPlan`.
    """

    values: tuple[float, ...] = ()
    bases: tuple[str, ...] = ()
    downstreams: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value in self.values:
            if not (isfinite(value) and value > 0.0):
                raise UsageError(f"scale {value:g} cannot be stamped with", advice="give numbers above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmlessnessPlan:
    """Harmlessness, as ``fpvec harmless`` measures it.

    Attributes:
        compared: ``stamped`` and ``fingerprinted``, or one of them.
        tasks: groups, tasks of lm-eval, directories of tasks; nothing is measured when empty.
        margin: loss that does not matter.
        limit: ask the first so many items of each task; 0 for all.
        task_seconds: seconds that a task may take on a side; 0 for no limit.
        text: whether perplexity and divergence on text are measured.
    """

    compared: tuple[str, ...] = COMPARED
    tasks: tuple[str, ...] = ("offline",)
    margin: float = 0.03
    limit: int = 0
    task_seconds: float = 0.0
    text: bool = True

    def __post_init__(self) -> None:
        for name in self.compared:
            if name not in COMPARED:
                raise UnknownNameError("comparison", name, COMPARED)
        if not 0.0 < self.margin < 1.0 or self.limit < 0 or self.task_seconds < 0:
            raise UsageError("margin, limit or task_seconds cannot be meant", advice="give 0.03, 0 and 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodsPlan:
    """Methods that fingerprint vectors are compared with.

    Attributes:
        compared: in the grammar of ``fpvec embed --method``; what is guessed and fine-tuned of stamped models is of
            theirs too.
        bases: as in :class:`AttackPlan`.
        downstreams: as in :class:`AttackPlan`.
    """

    compared: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    downstreams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A reproduction.

    Attributes:
        name: of the preset, or of the user's own plan.
        bases: base models.
        seed: all randomness but that of keys derives from it.
        backend: which engine answers.
        keys: key budget.
        training: how fingerprints are trained.
        guessing: guesses.
        fine_tuning: further fine-tuning.
        merging: merging with other models.
        pruning: pruning.
        scales: λ.
        harmlessness: harmlessness.
        methods: methods to compare with.
    """

    name: str
    bases: tuple[BasePlan, ...]
    seed: int = 0
    backend: str = "auto"
    keys: KeysPlan = KeysPlan()
    training: TrainingPlan = TrainingPlan()
    guessing: AttackPlan = AttackPlan()
    fine_tuning: AttackPlan = AttackPlan()
    merging: AttackPlan = AttackPlan()
    pruning: AttackPlan = AttackPlan()
    scales: ScalesPlan = ScalesPlan()
    harmlessness: HarmlessnessPlan = HarmlessnessPlan()
    methods: MethodsPlan = MethodsPlan()

    def __post_init__(self) -> None:
        _check_name("plan", self.name)
        if not self.bases:
            raise UsageError("the plan has no bases", advice="add [[bases]]")
        if self.backend not in BACKENDS:
            raise UnknownNameError("backend", self.backend, BACKENDS)
        _check_unique("bases", [base.name for base in self.bases])
        for place in (*ATTACKS, "scales", "methods"):
            self._check_choice(place, getattr(self, place))

    def chosen(self, choice: AttackPlan | ScalesPlan | MethodsPlan, base: BasePlan) -> tuple[str, ...]:
        """Return the downstreams of a base that a part of the plan is about."""
        if choice.bases and base.name not in choice.bases:
            return ()
        wanted = choice.downstreams or base.downstream_names
        return tuple(name for name in base.downstream_names if name in wanted)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    def _check_choice(self, place: str, choice: AttackPlan | ScalesPlan | MethodsPlan) -> None:
        bases = [base.name for base in self.bases]
        downstreams = {name for base in self.bases for name in base.downstream_names}
        for name in choice.bases:
            if name not in bases:
                raise UnknownNameError(f"base in [{place}]", name, bases)
        for name in choice.downstreams:
            if name not in downstreams:
                raise UnknownNameError(f"downstream in [{place}]", name, downstreams)


ATTACKS = ("guessing", "fine_tuning", "merging", "pruning")
"""Parts of a plan that hold attacks."""


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{kind} name {name!r} cannot be used",
            advice=f"use letters, digits, - and _, at most {_LONGEST_NAME}, as in gpt2-medium",
        )


def _check_unique(what: str, names: Sequence[str]) -> None:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UsageError(f"two {what} are called {twice}", advice="give each a name of its own")
