"""Carries the stages of a plan out, one after the other, and keeps what each gave.

A stage that fails is kept with its reason, what needs it is skipped, and all others go on. What was done under the same
settings with the same models is not done again; what lies between a killed run and its end is done once more at most.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.errors import FpvecError
from fpvec_audit.reproduction import making, measuring
from fpvec_audit.reproduction.stage_store import KEYED, StageResult, StageState, StageStore
from fpvec_audit.reproduction.stages import Stage
from fpvec_audit.reproduction.workshop import Workshop
from fpvec_audit.services.embed import without_floats

STAGE_VERSION = 1
"""Raised whenever code changes what a stage gives."""

OUT_OF_MEMORY = "OutOfMemoryError"
"""What torch raises, known by its name as torch may not be loaded."""

Work = Callable[[Workshop, Mapping[str, Any], Path, Mapping[str, StageResult]], tuple[str, dict[str, Any]]]

WORK: Mapping[str, Work] = {
    "base": making.find_base,
    "downstream": making.find_downstream,
    "fine-tune": making.fine_tune_downstream,
    "keys": making.issue_keys,
    "fingerprint": making.train_fingerprint,
    "vector": making.subtract,
    "stamp": making.stamp,
    "embed": making.embed,
    "fsr": measuring.measure_fsr,
    "attacks": measuring.attack,
    "scales": measuring.scan_scales,
    "harmlessness": measuring.measure_harmlessness,
}


@dataclass(slots=True)
class Run:
    """One run over stages.

    Attributes:
        store: where results are kept.
        shop: what stages work with.
        timer: gives seconds from any beginning.
    """

    store: StageStore
    shop: Workshop
    timer: Callable[[], float] = time.monotonic

    def carry_out(self, stages: Sequence[Stage], *, again: Sequence[Stage] = ()) -> tuple[StageResult, ...]:
        """Carry out stages in order and return how each ended.

        Args:
            stages: each after those that it needs.
            again: those of them that are repeated although their results are there.

        Raises:
            OutputError: the directory cannot be written, or another process works in it.
        """
        ended: dict[str, StageResult] = {}
        repeated = {stage.name for stage in again}
        with self.shop.progress.step("reproduce", len(stages), "stages") as step:
            for stage in stages:
                needed = {role: ended[name] for role, name in stage.needs.items()}
                ended[stage.name] = self._ended(stage, needed, repeat=stage.name in repeated)
                step.note(f"{stage.name}: {ended[stage.name].state}")
                step.advance()
        return tuple(ended.values())

    def _ended(self, stage: Stage, needed: Mapping[str, StageResult], *, repeat: bool) -> StageResult:
        key = stage_key(stage, needed)
        if key is None:
            return skipped(stage, needed)
        known = self.store.find(stage.name)
        if known is not None and stage.lasting and not repeat and self._holds(known, key, stage):
            return known
        place = self.store.place(stage.name, key)
        _remove_others(place)
        if repeat:
            shutil.rmtree(place, ignore_errors=True)  # nor gone on with, where a stage could be
        return self._carried_out(stage, key, place, needed)

    def _holds(self, known: StageResult, key: str, stage: Stage) -> bool:
        """Return whether a result is one of the very same work, and what it made is still there."""
        if not known.done or known.key != key:
            return False
        if stage.kind == "keys":
            return making.keys_are_there(self.shop, known.identity)
        return "path" not in known.content or Path(known.content["path"]).is_dir()

    def _carried_out(self, stage: Stage, key: str, place: Path, needed: Mapping[str, StageResult]) -> StageResult:
        started = self.timer()
        with self.shop.progress.step(stage.name):
            try:
                identity, content = WORK[stage.kind](self.shop, stage.settings, place, needed)
                result = StageResult(stage.name, key, StageState.DONE, identity, content)
            except (FpvecError, OSError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and type(error).__name__ != OUT_OF_MEMORY:
                    raise  # a bug, and not a machine that is too small
                problem = self.shop.registry.redaction.text(str(error) or type(error).__name__)
                result = StageResult(stage.name, key, StageState.FAILED, problem=problem)
        result = replace(result, seconds=self.timer() - started)
        self.store.keep(result)
        return result


def stage_key(stage: Stage, needed: Mapping[str, StageResult]) -> str | None:
    """Return the digest of what decides a stage, hex; None where something that it needs is not there."""
    if not all(result.done for result in needed.values()):
        return None
    content = {
        "version": STAGE_VERSION,
        "name": stage.name,
        "kind": stage.kind,
        "settings": without_floats(stage.settings),
        "needs": {role: result.identity for role, result in needed.items()},
        "files": {str(path): _file_digest(path) for path in stage.files},
    }
    return canonical_digest(content)


def skipped(stage: Stage, needed: Mapping[str, StageResult]) -> StageResult:
    """Return the result of a stage that lacks something."""
    lacking = next(result for result in needed.values() if not result.done)
    return StageResult(stage.name, "", StageState.SKIPPED, problem=f"needs {lacking.name}, which is {lacking.state}")


def collect(stages: Sequence[Stage], store: StageStore) -> tuple[StageResult, ...]:
    """Return what is there of a plan's stages, carrying out nothing.

    A result that was made under other settings, or from other models, is not one of this plan.
    """
    ended: dict[str, StageResult] = {}
    for stage in stages:
        needed = {role: ended[name] for role, name in stage.needs.items()}
        key = stage_key(stage, needed)
        known = store.find(stage.name)
        if key is None:
            ended[stage.name] = skipped(stage, needed)
        elif known is None or known.key != key:
            ended[stage.name] = StageResult(stage.name, key, StageState.MISSING, problem="not carried out yet")
        else:
            ended[stage.name] = known
    return tuple(ended.values())


def run_bases(
    stages: Sequence[Stage], *, store: StageStore, shop: Workshop, again: Sequence[Stage] = ()
) -> tuple[StageResult, ...]:
    """Carry out stages, base by base, each held against other processes meanwhile.

    Raises:
        OutputError: the directory cannot be written, or another process works on a base.
    """
    ended: list[StageResult] = []
    for base in dict.fromkeys(stage.base for stage in stages):
        with store.alone(base):
            run = Run(store, shop)
            ended += run.carry_out([stage for stage in stages if stage.base == base], again=again)
    return tuple(ended)


def _remove_others(place: Path) -> None:
    """Remove what the same stage made under other settings."""
    if place.parent.is_dir():
        for other in place.parent.iterdir():
            if other != place and KEYED.fullmatch(other.name):
                shutil.rmtree(other, ignore_errors=True)


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; empty where it cannot be read, which its stage will say."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
