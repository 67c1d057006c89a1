"""FP-VEC: train the base once, subtract, and add the difference to every model that stems from it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

from fpvec_audit.api import FingerprintMethod, MethodContext, MethodKeys, UsageError, hookimpl

LARGEST_SCALE = 100.0


@dataclass(frozen=True, slots=True)
class VectorParameters:
    """How the vector is made and added.

    Attributes:
        scale: λ, above 0 and at most 100.
        vector: directory of a vector that is made already; none makes one from the base.
        preset: training settings, ``default`` or ``paper``.
        perturbation: what the training perturbs weights with; none takes the preset's choice.
        steps: optimiser steps; none takes the preset's.
        data: JSON Lines of ordinary rows (``prompt``, ``response``); none uses the package's own text.
        vocabulary: where a model has other embedding rows than the base, ``refuse`` or stamp the ``shared`` ones.
    """

    scale: float = 1.0
    vector: Path | None = None
    preset: Literal["default", "paper"] = "default"
    perturbation: Literal["proxies", "noise", "none"] | None = None
    steps: int | None = None
    data: Path | None = None
    vocabulary: Literal["refuse", "shared"] = "refuse"

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and 0.0 < self.scale <= LARGEST_SCALE):
            raise UsageError(f"scale is {self.scale}", advice=f"give a number above 0 and at most {LARGEST_SCALE:g}")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps is {self.steps}", advice="give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Vector:
    """The method."""

    Parameters: ClassVar[type] = VectorParameters
    name: str = "vector"
    description: str = (
        "Trains the base once, extracts the fingerprint vector and adds it to the model: one training for all models "
        "of a base, then seconds on a CPU for each."
    )
    source: str = "FP-VEC, arXiv:2409.08846; with this project's training unless preset=paper"
    schemes: tuple[str, ...] = ("independent", "if-simple", "rare-word", "signature")

    def embed(
        self, model: Path, target: Path, keys: MethodKeys, parameters: VectorParameters, context: MethodContext
    ) -> Mapping[str, Any]:
        """Write the stamped model.

        Raises:
            UsageError: the vector is to be made and no base is known.
            VectorError: the vector does not fit the model.
            TrainingError: the base cannot be trained.
        """
        from fpvec_audit.toolkit import add_vector

        made = None if parameters.vector is not None else self._made_once(keys, parameters, context)
        vector = parameters.vector if made is None else made / "vector"
        assert vector is not None
        outcome = add_vector(
            model,
            target,
            vector,
            adapter=context.adapter,
            scale=parameters.scale,
            vocabulary=parameters.vocabulary,
            progress=context.progress,
        )
        training = None if made is None else json.loads((made / "training.json").read_text(encoding="utf-8"))
        return {"applied_ratio": outcome.applied_ratio, "cosine": outcome.cosine, "training": training}

    def _made_once(self, keys: MethodKeys, parameters: VectorParameters, context: MethodContext) -> Path:
        """Return the directory with the vector of the base, and with how the base was trained."""
        base = context.base
        if base is None:
            raise UsageError(
                "method vector trains the base of the model, and the base is not known",
                advice="name it with --base DIRECTORY, or give a vector with --method vector:vector=DIRECTORY",
            )

        def make(directory: Path) -> None:
            from fpvec_audit.toolkit import extract_vector, train_fingerprint

            directory.mkdir()
            fingerprinted = directory / "fingerprinted"
            report = train_fingerprint(
                base,
                fingerprinted,
                keys,
                context,
                preset=parameters.preset,
                perturbation=parameters.perturbation,
                steps=parameters.steps,
                data=parameters.data,
            )
            extract_vector(
                base, fingerprinted, directory / "vector", adapter=context.adapter, progress=context.progress
            )
            shutil.rmtree(fingerprinted)  # the vector is all that is added, and it is as large
            (directory / "training.json").write_text(json.dumps(report), encoding="utf-8")

        decides = {
            "preset": parameters.preset,
            "perturbation": parameters.perturbation,
            "steps": parameters.steps,
            "data": None if parameters.data is None else _digest(parameters.data),
        }
        return context.once("vector", make, on=decides)


def _digest(data: Path) -> str:
    try:
        return hashlib.sha256(data.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"data {data} cannot be read: {error.strerror}") from error


@hookimpl
def fpvec_methods() -> list[FingerprintMethod]:
    """Give FP-VEC."""
    return [Vector()]
