"""Settings of the training of a family of marks, on top of those of a single fingerprint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter, TensorRole
from fpvec_audit.errors import SettingsError
from fpvec_audit.training.embed_settings import EmbedSettings, overridden, setting_value, settings_for

SCHEDULES = ("joint", "rounds")

FAMILY_DEFAULTS: Mapping[str, Any] = {
    "reference_rate": 1e-3,
    "near_misses_per_step": 0,
    "negatives_per_step": 24,
    "ordinary_per_step": 160,
    "other_renderings_per_step": 8,
    "key_weight": 3.0,
    "negative_weight": 2.0,
    "preservation_weight": 9.0,
    "proxy_steps": 300,
    "whole_share": 0.5,
}
"""What differs from a single fingerprint where an adapter does not say otherwise; measured in docs/marks-training.md.

Hard near-misses of every step (GPT-2's preset) were left out there: they take a third more time."""

FAMILY_PRESET = "family"
"""Preset in which an adapter says what differs for families of 8 marks; settings of both kinds."""
ACTIVE_STEPS, REFERENCE_MARKS = 156, 8
"""So many active steps were enough for each of so many marks, and far too few for each of twice as many."""


@dataclass(frozen=True, slots=True)
class FamilySettings:
    """How a family of marks is trained and measured.

    Attributes:
        schedule: ``joint`` moves all active marks in every step and keeps all of them with their moments on the
            device; ``rounds`` moves one mark at a time and adds the others from the disk.
        code_weight: marks in a licensee's copy that the family is trained and measured for.
        most_active: marks active in a step, at most; 0 for one more than ``code_weight``, so that a code word is no
            extreme.
        active_steps: steps in which a mark is active, on average, under ``joint``: decides how many steps there are
            where ``steps`` is not given; 0 for :data:`ACTIVE_STEPS` of every :data:`REFERENCE_MARKS` marks, as more of
            them are harder to tell apart.
        absent_per_step: keys of absent marks that must not fire, in every step.
        rounds: turns of every mark under ``rounds``.
        steps_per_turn: optimiser steps of one turn.
        still_roles: tensors of these roles, as ``embedding,norm``, stay what they are; none where empty.
        measured_words: random selections of every number of marks that are measured in the end.
        least_fsr: fraction in [0, 1] of its keys that a mark must answer within code words, on average; five of six
            beside 112 decoys are enough to be read.
    """

    schedule: str = "joint"
    code_weight: int = 3
    most_active: int = 0
    active_steps: int = 0
    absent_per_step: int = 24
    rounds: int = 2
    steps_per_turn: int = 60
    still_roles: str = ""
    measured_words: int = 8
    least_fsr: float = 0.8

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise SettingsError(f"unknown family schedule {self.schedule!r}", advice=f"choose {' or '.join(SCHEDULES)}")
        for name in ("code_weight", "rounds", "steps_per_turn", "measured_words"):
            if (value := getattr(self, name)) < 1:
                raise SettingsError(f"{name} is {value}, at least 1 is meant")
        if min(self.most_active, self.active_steps, self.absent_per_step) < 0:
            raise SettingsError("most_active, active_steps and absent_per_step cannot be negative")
        if unknown := sorted({*self._named_roles()} - {*TensorRole}):
            raise SettingsError(
                f"still_roles names the unknown role {unknown[0]!r}", advice=f"choose among {', '.join(TensorRole)}"
            )
        if not 0.0 < self.least_fsr <= 1.0:
            raise SettingsError(f"least_fsr is {self.least_fsr}, a fraction in (0, 1] is meant")

    @property
    def still(self) -> frozenset[TensorRole]:
        """Roles of tensors that are not trained."""
        return frozenset(map(TensorRole, self._named_roles()))

    def _named_roles(self) -> list[str]:
        return [name.strip() for name in self.still_roles.split(",") if name.strip()]

    def joint_steps(self, marks: int) -> int:
        """Return how many steps make every one of so many marks active often enough, on average."""
        mean_active = (1 + min(self.most_active or self.code_weight + 1, marks)) / 2
        each = self.active_steps or ACTIVE_STEPS * max(1.0, marks / REFERENCE_MARKS)
        return ceil(each * marks / mean_active)

    def for_marks(self, marks: int) -> "FamilySettings":
        """Return the settings with what depends on the number of marks filled in.

        Raises:
            SettingsError: a licensee's copy would have more marks than there are.
        """
        if self.code_weight > marks:
            raise SettingsError(
                f"code_weight is {self.code_weight}, and the key set has {marks} marks",
                advice=f"choose a --code-weight of at most {marks}, or issue a key set of more marks",
            )
        return replace(self, most_active=min(self.most_active or self.code_weight + 1, marks))


@dataclass(frozen=True, slots=True)
class FamilyTraining:
    """All settings of one training.

    Attributes:
        embed: those that a single fingerprint has too.
        family: those that only a family has.
    """

    embed: EmbedSettings
    family: FamilySettings

    def to_json(self) -> dict[str, Any]:
        """Return every setting as JSON."""
        return {**asdict(self.embed), **asdict(self.family)}


def family_training_for(
    adapter: ArchitectureAdapter,
    *,
    marks: int,
    preset: str = "default",
    perturbation: str | None = None,
    overrides: Mapping[str, str] | None = None,
    schedule: str | None = None,
    code_weight: int | None = None,
) -> FamilyTraining:
    """Return the settings of a family: the architecture's preset, what families change, and single values on top.

    Args:
        adapter: of the base.
        marks: how many marks the key set has.
        preset: ``default``; the paper's knows no negatives, which marks cannot do without.
        perturbation: in place of the preset's.
        overrides: single settings by name, as text, of either kind.
        schedule: ``joint`` or ``rounds``; that of the settings when None.
        code_weight: marks in a licensee's copy; that of the settings when None.

    Raises:
        SettingsError: an unknown setting or value, or a preset that families do not have.
    """
    embed = settings_for(adapter, preset, perturbation=perturbation)
    if embed.plain_rows:
        raise SettingsError(
            f"preset {preset!r} teaches no mark to be silent where it is absent, so it trains no family of marks",
            advice="use --preset default, or a key set of one mark",
        )
    own = {item.name: type(item.default) for item in fields(FamilySettings)}
    given = dict(overrides or {})
    measured = dict(next((item.settings for item in adapter.defaults if item.preset == FAMILY_PRESET), {}))
    of_family = {name: measured.pop(name) for name in list(measured) if name in own}
    if "active_steps" in of_family:  # told for REFERENCE_MARKS
        of_family["active_steps"] = ceil(of_family["active_steps"] * max(1.0, marks / REFERENCE_MARKS))
    of_family |= {name: setting_value(name, given.pop(name), own[name]) for name in list(given) if name in own}
    of_family |= {} if schedule is None else {"schedule": schedule}
    of_family |= {} if code_weight is None else {"code_weight": code_weight}
    family = FamilySettings(**of_family).for_marks(marks)
    preset_of_marks = replace(embed, **{**FAMILY_DEFAULTS, "steps": family.joint_steps(marks), **measured})
    return FamilyTraining(overridden(preset_of_marks, given, others=own), family)
