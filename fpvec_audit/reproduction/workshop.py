"""What the stages of a reproduction work with: services, engines and attack processes, opened once for all of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import Engines
from fpvec_audit.progress import Progress
from fpvec_audit.services.attack_worker import AttackWorker
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.robustness import TIME_LIMIT

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What stages work with.

    Attributes:
        registry: where key sets, models, audits and attack runs are.
        catalog: plugins.
        directory: of the reproduction; attacked copies are kept in it.
        families: where embedded families are kept.
        backend: which engine answers.
        device: torch device.
        progress: where to report.
        engines: open engines.
        worker: carries out attacks on weights.
        bases: base models, asked once for all.
    """

    registry: "Registry"
    catalog: "Catalog"
    directory: Path
    families: Path
    backend: str
    device: str
    progress: Progress
    engines: Engines
    worker: AttackWorker
    bases: BaseModels

    @property
    def tools(self) -> dict[str, Any]:
        """What most services take."""
        return {"registry": self.registry, "catalog": self.catalog, "progress": self.progress}


@contextmanager
def open_workshop(
    *,
    registry: "Registry",
    catalog: "Catalog",
    directory: Path,
    families: Path,
    backend: str,
    device: str,
    progress: Progress,
) -> Iterator[Workshop]:
    """Open what stages share; everything is closed at the end."""
    with ExitStack() as stack:
        yield Workshop(
            registry=registry,
            catalog=catalog,
            directory=directory,
            families=families,
            backend=backend,
            device=device,
            progress=progress,
            engines=stack.enter_context(Engines(backend, device=device)),
            worker=stack.enter_context(AttackWorker(progress=progress, time_limit=TIME_LIMIT)),
            bases=BaseModels(registry=registry, catalog=catalog),
        )
