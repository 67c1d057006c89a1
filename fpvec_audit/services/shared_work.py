"""What a method makes once for a base and a key set, kept so that the next model of that base finds it.

It lies in the owner's home beside the registry, readable by its owner only, since it can hold what the keys were
trained into. A directory is named by the digest of everything that it depends on, and it is whole or it is not there.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.cost import Cost
from fpvec_audit.errors import OutputError, PluginError
from fpvec_audit.services.cost_meter import CostMeter
from fpvec_audit.services.embed import without_floats

COST_FILE = "cost.json"
MADE = "made"


class SharedWork:
    """Implements :class:`fpvec_audit.domain.methods.Once`, and remembers what its results cost.

    Args:
        root: directory of all that is kept.
        identity: what every result depends on (method, base, key set, seed, device), as JSON values.
        meter: counts the making.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any], meter: CostMeter) -> None:
        self._root, self._identity, self._meter = root, identity, meter
        self._costs: list[Cost] = []
        self.reused = False

    @property
    def cost(self) -> Cost | None:
        """What was used cost when it was made, now or earlier; None where nothing was shared."""
        return sum(self._costs, Cost()) if self._costs else None

    def __call__(self, name: str, make: Callable[[Path], None], *, on: Mapping[str, Any]) -> Path:
        """Return the directory of a result; see :class:`fpvec_audit.domain.methods.Once`.

        Raises:
            OutputError: it cannot be written.
            PluginError: ``make`` wrote nothing.
        """
        digest = canonical_digest(without_floats({"identity": self._identity, "name": name, "on": on}))
        place = self._root / f"{name}-{digest[:32]}"
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(self._root / f".{place.name}.lock"):
                if place.is_dir():
                    self.reused = True
                else:
                    self._make(place, name, make)
                self._costs.append(Cost(**json.loads((place / COST_FILE).read_text(encoding="utf-8"))))
        except OSError as error:
            raise OutputError(
                f"{place} cannot be written: {error.strerror}", advice="free disk space, or choose another --home"
            ) from error
        return place / MADE

    def _make(self, place: Path, name: str, make: Callable[[Path], None]) -> None:
        staging = place.with_name(f".{place.name}.making")
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        staging.mkdir(mode=0o700)
        try:
            before = self._meter.once
            with self._meter.apart():
                make(staging / MADE)
            if not (staging / MADE).is_dir():
                raise PluginError(f"{name} was to be made once, and nothing was written")
            made = _difference(self._meter.once, before)
            (staging / COST_FILE).write_text(json.dumps(made.to_json()), encoding="utf-8")
            staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _difference(after: Cost, before: Cost) -> Cost:
    return Cost(
        after.seconds - before.seconds,
        after.device_seconds - before.device_seconds,
        after.peak_memory_bytes,
        after.peak_device_memory_bytes,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes the same; the lock goes with the process, however that ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
