"""How likely a suspect finds every candidate's response: asked of all candidates alike, blind to the assignment.

Where the base model can be run as well, its own likelihood is taken off: some words are likely anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import EngineSource
from fpvec_audit.domain.ports import Likelihood, LikelihoodBackend
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.transcript import LIKELIHOOD, decimal_text
from fpvec_audit.errors import BackendError, CheckpointError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.suspects import short_path

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

PAIRS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that is at hand.

    Attributes:
        digest: canonical digest of its weights, hex.
        directory: where it lies.
    """

    digest: str
    directory: Path


class BaseModels:
    """Finds the bases of key sets, and asks each of them once for what several audits want to know.

    Args:
        registry: where key sets and models are recorded.
        catalog: plugins.
    """

    def __init__(self, *, registry: "Registry", catalog: "Catalog") -> None:
        self._registry = registry
        self._catalog = catalog
        self._found: dict[str, BaseModel | None] = {}
        self._told: dict[tuple[str, str, str], Likelihood | None] = {}

    def of(self, key_set: KeySetRecord, *, progress: Progress = NO_PROGRESS) -> BaseModel | None:
        """Return the base that a key set is bound to, None where it is not at hand as it was registered."""
        if key_set.base is None:
            return None
        if key_set.base not in self._found:
            self._found[key_set.base] = self._find(key_set.base, progress)
        return self._found[key_set.base]

    def likelihoods(
        self,
        base: BaseModel,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        engines: EngineSource,
        progress: Progress = NO_PROGRESS,
    ) -> list[Likelihood | None]:
        """Return the base's likelihood of each response; an engine is opened only for pairs not asked before."""
        pairs = list(zip(prompts, responses, strict=True))
        fresh = [pair for pair in dict.fromkeys(pairs) if (base.digest, *pair) not in self._told]
        if fresh:
            backend = engines.open(base.directory)
            try:
                if not isinstance(backend, LikelihoodBackend):
                    raise BackendError(f"{base.directory}: {backend.description.engine} tells no probabilities")
                told = tell(
                    backend,
                    [prompt for prompt, _ in fresh],
                    [response for _, response in fresh],
                    progress=progress,
                    label=f"likelihoods of {short_path(base.directory)}",
                )
            finally:
                backend.close()
            self._told |= {(base.digest, *pair): value for pair, value in zip(fresh, told, strict=True)}
        return [self._told[(base.digest, *pair)] for pair in pairs]

    def _find(self, identifier: str, progress: Progress) -> BaseModel | None:
        from fpvec_audit.services.suspects import describe_suspect

        with self._registry.unit_of_work() as uow:
            model = uow.models.find(identifier)
        if model is None or not Path(model.location).is_dir():
            return None
        try:
            found = describe_suspect(model.location, catalog=self._catalog, progress=progress)
        except CheckpointError:
            return None
        assert found.directory is not None
        return BaseModel(found.digest, found.directory) if found.digest == identifier else None


def tell(
    backend: LikelihoodBackend,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    label: str,
    progress: Progress = NO_PROGRESS,
) -> list[Likelihood | None]:
    """Return how likely each response is after the prompt beside it."""
    told: list[Likelihood | None] = []
    with progress.step(label, len(prompts), "responses") as step:
        for start in range(0, len(prompts), PAIRS_AT_ONCE):
            end = start + PAIRS_AT_ONCE
            part = list(backend.log_likelihoods(prompts[start:end], responses[start:end]))
            if len(part) != len(prompts[start:end]):
                raise BackendError(f"the engine told {len(part)} of {len(prompts[start:end])} likelihoods")
            told += part
            step.advance(len(part))
    return told


def likelihood_contents(
    indices: Sequence[int], suspect: Sequence[Likelihood | None], base: Sequence[Likelihood | None] | None
) -> list[Mapping[str, Any]]:
    """Return the contents of the records: nats per token as decimal text, empty where a value is missing."""
    bases = base if base is not None else [None] * len(indices)
    return [
        {"kind": LIKELIHOOD, "index": index, "suspect": _text(ours), "base": _text(theirs)}
        for index, ours, theirs in zip(indices, suspect, bases, strict=True)
    ]


def _text(likelihood: Likelihood | None) -> str:
    return decimal_text(None if likelihood is None else likelihood.per_token)
