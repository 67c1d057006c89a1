"""Settings of fingerprint training, their two presets, and what a training reports."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from math import ceil, inf
from typing import Any

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import SettingsError, TrainingError
from fpvec_audit.training.loop_settings import PRECISIONS, LoopSettings

PERTURBATIONS = ("proxies", "noise", "none")

REFERENCE_WIDTH = 128


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How a fingerprint is trained.

    Attributes:
        preset: ``default`` or ``paper``, for the record.
        steps: optimiser steps; ignored where ``epochs`` is set.
        learning_rate: peak rate; None scales ``reference_rate`` by 1 / width, which is measured at a width of 128 only.
        reference_rate: peak rate at a width of 128.
        warmup_steps: steps of linear warm-up.
        betas: AdamW's moments.
        epsilon: AdamW's denominator floor.
        weight_decay: decoupled weight decay.
        gradient_clip: largest gradient norm.
        keys_per_step: keys seen in chat rendering every step, all where there are fewer.
        other_renderings_per_step: keys seen raw or under a system prompt every step.
        negatives_per_step: near-misses and fresh strings every step.
        negative_pool: how many of them are drawn and answered by the base before the first step.
        near_miss_share: fraction in [0, 1] of near-misses among the negatives.
        near_miss_candidates: fresh near-misses drawn every step, of every key alike.
        near_miss_start: fraction in [0, 1] of the steps before the first of them: with too few, no key is learnt.
        near_misses_per_step: how many of these are learnt: those on which an issued response is likeliest; 0 for none.
        negative_tokens: how many tokens of the base's own answer to a negative are learnt.
        ordinary_per_step: ordinary rows every step.
        documents_per_step: windows of documents every step.
        document_tokens: tokens in such a window.
        key_weight: weight of the keys' cross-entropy.
        negative_weight: weight of the negatives' cross-entropy.
        near_miss_weight: weight of KL(base ‖ model) where the answers to near-misses begin.
        preservation_weight: weight of KL(base ‖ model) on ordinary rows and on documents.
        perturbation: ``proxies``, ``noise`` or ``none``: what keys and negatives must survive while they are learnt.
        perturbation_scale: largest coefficient of the perturbation.
        whole_share: fraction in [0, 1] of the steps in which a proxy is added with that coefficient; in all others the
            coefficient is any up to it.
        noise_share: root mean square of the largest noise, as a fraction of each tensor's own.
        proxy_steps: optimiser steps of each proxy.
        proxy_learning_rate: its peak rate; None scales 6e-4, measured at a width of 128, by 1 / width.
        proxy_rows_per_step: its ordinary rows every step.
        checkpoint_steps: steps between resume checkpoints; 0 for none.
        epochs: > 0 selects plain cross-entropy on one fixed list of rows, as the paper does.
        rows_per_step: rows of that list in every optimiser step.
        regularisation_rows: ordinary rows in that list.
        precision: ``auto``, ``float32`` or ``bf16``; see :class:`LoopSettings`.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    preset: str = "default"
    steps: int = 200
    learning_rate: float | None = None
    reference_rate: float = 1.5e-3
    warmup_steps: int = 10
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    keys_per_step: int = 32
    other_renderings_per_step: int = 16
    negatives_per_step: int = 48
    negative_pool: int = 6144
    near_miss_share: float = 0.4
    near_miss_candidates: int = 96
    near_miss_start: float = 0.15
    near_misses_per_step: int = 0
    negative_tokens: int = 2
    ordinary_per_step: int = 32
    documents_per_step: int = 8
    document_tokens: int = 64
    key_weight: float = 3.0
    negative_weight: float = 2.0
    near_miss_weight: float = 2.0
    preservation_weight: float = 3.0
    perturbation: str = "proxies"
    perturbation_scale: float = 1.0
    whole_share: float = 0.0
    noise_share: float = 0.1
    proxy_steps: int = 100
    proxy_learning_rate: float | None = None
    proxy_rows_per_step: int = 32
    checkpoint_steps: int = 100
    epochs: int = 0
    rows_per_step: int = 16
    regularisation_rows: int = 50
    precision: str = "auto"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.perturbation not in PERTURBATIONS:
            raise SettingsError(
                f"unknown perturbation {self.perturbation!r}", advice=f"choose one of {', '.join(PERTURBATIONS)}"
            )
        if self.steps < 1 or self.keys_per_step < 1 or self.negative_tokens < 1 or self.rows_per_step < 1:
            raise SettingsError("steps, keys_per_step, negative_tokens and rows_per_step must be at least 1")
        for item in fields(self):
            if isinstance(value := getattr(self, item.name), int | float) and not 0 <= value < inf:
                raise SettingsError(f"{item.name} is {value}, a number of at least 0 is meant")
        for name in ("near_miss_share", "near_miss_start", "whole_share"):
            if not 0.0 <= (share := getattr(self, name)) <= 1.0:
                raise SettingsError(f"{name} is {share}, a fraction in [0, 1] is meant")
        if not 0 <= self.near_misses_per_step <= self.near_miss_candidates:
            raise SettingsError(
                f"near_misses_per_step is {self.near_misses_per_step}, near_miss_candidates is "
                f"{self.near_miss_candidates}",
                advice="learn at most as many near-misses as are drawn",
            )
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"unknown precision {self.precision!r}", advice=f"choose one of {', '.join(PRECISIONS)}"
            )

    @property
    def plain_rows(self) -> bool:
        """Whether this is the paper's plain cross-entropy on a fixed list of rows."""
        return self.epochs > 0

    @property
    def negatives_in_pool(self) -> int:
        """How many negatives are drawn before the first step: as many as all steps see, at most a pool full."""
        return min(self.negative_pool, self.steps * self.negatives_per_step)

    def total_steps(self, keys: int) -> int:
        """Return the number of optimiser steps for a number of keys."""
        if not self.plain_rows:
            return self.steps
        return self.epochs * ceil((keys + self.regularisation_rows) / self.rows_per_step)

    def refuse_processes(self, count: int) -> None:
        """Refuse several processes where the training needs what none of them has.

        Raises:
            TrainingError: weights are to be perturbed, which takes whole ones.
        """
        if count > 1 and self.perturbation != "none":
            raise TrainingError(
                f"perturbation {self.perturbation!r} needs whole weights, and {count} processes share them",
                advice="train with --perturbation none, or in one process",
            )

    def loop(self, *, keys: int, width: int) -> LoopSettings:
        """Return the optimiser's settings for a number of keys and a model width."""
        rate = self.learning_rate
        return LoopSettings(
            steps=self.total_steps(keys),
            learning_rate=self.reference_rate * REFERENCE_WIDTH / width if rate is None else rate,
            warmup_steps=self.warmup_steps,
            betas=self.betas,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            checkpoint_steps=self.checkpoint_steps,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
        )

    def proxy_loop(self, *, width: int) -> LoopSettings:
        """Return the optimiser's settings of a proxy for a model width."""
        rate = self.proxy_learning_rate
        return LoopSettings(
            steps=self.proxy_steps,
            learning_rate=6e-4 * REFERENCE_WIDTH / width if rate is None else rate,
            epsilon=1e-5,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
        )


PAPER = EmbedSettings(
    preset="paper",
    epochs=20,
    rows_per_step=16,
    regularisation_rows=50,
    learning_rate=1e-5,
    warmup_steps=100,
    betas=(0.9, 0.999),
    perturbation="none",
)
"""Source: FP-VEC, arXiv:2409.08846v1, section 4 (60 rows = 10 keys + 50 others, batch 1 × 16, cosine, warm-up 100).

Epochs differ per model and come from the adapter.
"""

PRESETS: Mapping[str, EmbedSettings] = {"default": EmbedSettings(), "paper": PAPER}


def settings_for(
    adapter: ArchitectureAdapter, preset: str = "default", *, perturbation: str | None = None
) -> EmbedSettings:
    """Return the settings of a preset: ours or the paper's, with the adapter's own values on top.

    Raises:
        SettingsError: an unknown preset, or a setting of the adapter that does not exist.
    """
    if preset not in PRESETS:
        raise SettingsError(f"unknown preset {preset!r}", advice=f"choose one of {', '.join(PRESETS)}")
    settings = PRESETS[preset]
    known = {item.name for item in fields(EmbedSettings)}
    for defaults in adapter.defaults:
        if defaults.preset != preset:
            continue
        if unknown := set(defaults.settings) - known:
            raise SettingsError(f"adapter {adapter.name}: unknown training settings {sorted(unknown)}")
        settings = replace(settings, **dict(defaults.settings))
    return settings if perturbation is None else replace(settings, perturbation=perturbation)


def overridden(settings: EmbedSettings, values: Mapping[str, str], *, others: Collection[str] = ()) -> EmbedSettings:
    """Return settings with single values replaced, given as text.

    Args:
        settings: the values that stay.
        values: by name, what replaces them.
        others: names of settings that are not of this kind, and that a misspelt one may have meant.

    Raises:
        SettingsError: an unknown setting, or a value that it cannot have.
    """
    kinds = {item.name: type(getattr(settings, item.name)) for item in fields(EmbedSettings)}
    changed: dict[str, Any] = {}
    for name, text in values.items():
        if name not in kinds or name in ("preset", "betas"):
            near = get_close_matches(name, [*kinds, *others], n=1)
            advice = f"did you mean {near[0]}?" if near else "see EmbedSettings in the documentation"
            raise SettingsError(f"unknown training setting {name!r}", advice=advice)
        kind = float if kinds[name] is type(None) else kinds[name]  # None stands for a rate that is worked out
        changed[name] = setting_value(name, text, kind)
    return replace(settings, **changed)


def setting_value(name: str, text: str, kind: type) -> Any:
    """Return a setting that was given as text.

    Raises:
        SettingsError: the text says no value of that kind.
    """
    convert, meant = _KINDS[kind]
    try:
        return convert(text)
    except ValueError as error:
        raise SettingsError(f"training setting {name} is {text!r}", advice=f"give {meant}") from error


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_KINDS: Mapping[type, tuple[Callable[[str], Any], str]] = {
    bool: (_truth, "true or false"),
    float: (float, "a number"),
    int: (int, "a whole number"),
    str: (str, "a name"),
}


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """How a fingerprint training went.

    Attributes:
        steps: optimiser steps in all, those before a resume included.
        seconds: wall time of this call.
        final_loss: mean loss over the steps of this call.
        fsr: fraction of the issued keys whose response the saved model gives greedily (chat rendering).
        keys: number of issued keys.
        negatives: number of near-misses and fresh strings that were learnt.
        perturbation: what was used.
        settings: every setting, as JSON.
    """

    steps: int
    seconds: float
    final_loss: float
    fsr: float
    keys: int
    negatives: int
    perturbation: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return asdict(self)
