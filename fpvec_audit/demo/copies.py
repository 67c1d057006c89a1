"""What licensees do with their copies in the demo, and what the owner then finds: suspects, each with its truth.

Copies are attacked by the attacks that ``fpvec attack run`` has; what was made once is kept.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.ports import AttackContext, WeightAttack
from fpvec_audit.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.demo.family import Family

LEAKED, TUNED, POOLED, INNOCENT = "a leaked copy", "the same, fine-tuned", "two copies, averaged", "a clean downstream"
ANSWERS, WEIGHTS = "answers", "weights"
BOTH_WAYS = (ANSWERS, WEIGHTS)

Copies = Mapping[str, tuple[Path, Path]]
"""Licensee → its copies of the maths and of the text downstream."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model that the owner finds somewhere.

    Attributes:
        name: what it is, in words.
        path: checkpoint directory.
        made_by: licensees whose copies it was made of; empty for an innocent.
        told_by: what is at hand when it is traced, ``answers`` or ``weights``, one trace each.
    """

    name: str
    path: Path
    made_by: tuple[str, ...]
    told_by: tuple[str, ...]


def leak(
    copies: Copies,
    family: "Family",
    place: Path,
    *,
    catalog: "Catalog",
    steps: int,
    seed: int,
    progress: Progress = NO_PROGRESS,
) -> tuple[Found, ...]:
    """Let one licensee leak a copy, as it is and fine-tuned further, and two others average theirs.

    Args:
        copies: of at least two licensees.
        family: base and downstreams.
        place: where attacked copies are kept.
        catalog: the attacks.
        steps: of further fine-tuning.
        seed: who does it, and what they train on.
        progress: where to report.
    """
    source = random.Random(f"{seed}/who leaks")  # noqa: S311 - not a secret
    names = sorted(copies)
    first, second = source.sample(names, 2)
    leaker = source.choice([name for name in names if name not in (first, second)] or names)
    attacks = _Attacks(family, place, catalog, seed, progress)
    tuned = attacks.made(f"fine-tuned-{leaker}", "fine_tune", copies[leaker][1], steps=steps)
    pooled = attacks.made(f"averaged-{first}-{second}", "collusion", copies[first][0], copies=(copies[second][0],))
    return (
        Found(LEAKED, copies[leaker][1], (leaker,), BOTH_WAYS),
        Found(TUNED, tuned, (leaker,), BOTH_WAYS),
        Found(POOLED, pooled, tuple(sorted((first, second))), BOTH_WAYS),
        Found(INNOCENT, family.downstream_b, (), (WEIGHTS,)),
    )


@dataclass(frozen=True, slots=True)
class _Attacks:
    family: "Family"
    place: Path
    catalog: "Catalog"
    seed: int
    progress: Progress

    def made(self, name: str, attack: str, source: Path, *, copies: Sequence[Path] = (), **parameters: Any) -> Path:
        """Return an attacked copy, made now or found."""
        target = self.place / name
        if target.is_dir():
            return target
        self.place.mkdir(parents=True, exist_ok=True)
        staging = self.place / f".{name}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        chosen = self.catalog.attack(attack)
        assert isinstance(chosen, WeightAttack), "the built-in attack is one on weights"
        context = AttackContext(
            adapter=self.catalog.architecture(self.family.architecture),
            staging=staging,
            seed=self.seed,
            device="cpu",
            progress=self.progress,
            base=self.family.base,
            copies=tuple(copies),
        )
        try:
            chosen.apply(source, target, chosen.Parameters(**parameters), context)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target
