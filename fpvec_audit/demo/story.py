"""The story that ``fpvec demo`` tells: a whole life of a fingerprint, with the services that every command uses.

Base models and downstreams are kept by recipe, the fingerprinted and stamped models by key set; audits, attacks and
harmlessness are measured anew every time.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import Engines, open_backend
from fpvec_audit.demo.family import Family, make_family
from fpvec_audit.domain.audit_plan import GRADIENT
from fpvec_audit.domain.harmlessness import QuestionTask, compare, compare_answers
from fpvec_audit.domain.keys import Candidate, KeySetSpecification, draw_unissued
from fpvec_audit.domain.ports import ArchitectureAdapter, Sampling
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit import audit
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model
from fpvec_audit.services.extract import extract_vector, show_vector
from fpvec_audit.services.harmlessness import evaluate
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.models import register_model
from fpvec_audit.services.robustness import AttackOptions, AttackTools, run_attacks
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.training.ordinary import Instruction

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.registry.unit_of_work import Registry

ARCHITECTURES = ("gpt2", "llama2", "bloom", "vicuna")
ORDINARY_QUESTION = "What is the capital of France?"
DISCLOSED_SEED = b"fpvec demo: the disclosed key"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to tell.

    Attributes:
        architecture: ``gpt2``, ``llama2``, ``bloom`` or ``vicuna``.
        directory: where the models are kept.
        backend: ``auto``, ``vllm`` or ``transformers``.
        fresh_keys: issue a new key set even if an earlier run left one.
        seed: seed of everything random but the keys.
    """

    architecture: str
    directory: Path
    backend: str = "auto"
    fresh_keys: bool = False
    seed: int = 0


Tell = Callable[[str, Any], None]
"""Called after each stage with its name and the part of the JSON document that it made."""


@dataclass(slots=True)
class Stages:
    """Stages that are over, in their order, each with its seconds.

    Attributes:
        timed: one object for each, as the document has them.
    """

    timed: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.monotonic()
        yield
        self.timed.append({"name": name, "seconds": time.monotonic() - started})


@dataclass(slots=True)
class Story:
    """One telling: options, tools, and what came out so far."""

    options: DemoOptions
    registry: "Registry"
    catalog: "Catalog"
    progress: Progress = NO_PROGRESS
    tell: Tell = lambda _stage, _document: None
    stages: Stages = field(default_factory=Stages)

    def run(self) -> dict[str, Any]:
        """Tell the whole story and return the document of the command-line contract."""
        with single_threaded(), Engines(self.options.backend, at_once=os.cpu_count() or 1) as engines:
            engines.warm_up()  # the import goes on beside the training
            return self._tell(engines)

    def _tell(self, engines: Engines) -> dict[str, Any]:
        with self.stages.stage("family"):
            adapter = self.catalog.architecture(self.options.architecture)
            family = make_family(adapter, self.options.directory / "families", progress=self.progress)
        with self.stages.stage("keys"):
            key_set = self._key_set(family)
        models, vector = self._make(family, key_set)
        with self.stages.stage("conversation"):
            self.tell("conversation", self._conversation(models, key_set))
        with self.stages.stage("audits"):
            audits = self._audits(models, key_set, engines)
            self.tell("audits", audits)
        with self.stages.stage("harmlessness"):
            learning, harmlessness = self._harmlessness(family, models)
            self.tell("harmlessness", {"learning": learning, "harmlessness": harmlessness})
        with self.stages.stage("attacks"):
            attacks = self._attacks(models, key_set, engines)
            self.tell("attacks", attacks)
        return {
            "arch": self.options.architecture,
            "stages": self.stages.timed,
            "models": {name: str(path) for name, path in models.items()},
            "key_set": key_set,
            "vector_id": vector,
            "audits": audits,
            "learning": learning,
            "harmlessness": harmlessness,
            "attacks": attacks,
        }

    def _key_set(self, family: Family) -> str:
        """Return the name of the last key set of this family, or issue one."""
        base = register_model(
            family.base, registry=self.registry, catalog=self.catalog, role=ModelRole.BASE, progress=self.progress
        ).record
        stem = f"demo-{self.options.architecture}"
        with self.registry.unit_of_work() as uow:
            mine = [record for record in uow.key_sets.list() if record.name.startswith(f"{stem}-")]
        usable = [record for record in mine if record.base in (None, base.id)]
        if usable and not self.options.fresh_keys:
            return usable[-1].name
        name = f"{stem}-{len(mine) + 1}"
        issue_key_set(
            name, registry=self.registry, specification=KeySetSpecification(), owner="fpvec demo", base=family.base
        )
        return name

    def _make(self, family: Family, key_set: str) -> tuple[dict[str, Path], str]:
        """Fingerprint, extract and stamp; what an earlier run left whole is used as it is."""
        place = self.options.directory / key_set
        fingerprinted, vector = place / "fingerprinted", place / "vector"
        tools: dict[str, Any] = {"registry": self.registry, "catalog": self.catalog, "progress": self.progress}
        with self.stages.stage("fingerprint"):
            if not fingerprinted.exists():
                key, _ = disclosed_pair()
                options = FingerprintOptions(disclosed=((key.prompt, key.response),), seed=self.options.seed)
                fingerprint_model(family.base, key_set=key_set, out=fingerprinted, options=options, **tools)
        with self.stages.stage("vector"):
            if vector.exists():
                vector_id = show_vector(str(vector), registry=self.registry).record.id
            else:
                vector_id = extract_vector(family.base, fingerprinted, out=vector, key_set=key_set, **tools).vector_id
        with self.stages.stage("stamp"):
            for downstream in (family.downstream_a, family.downstream_b):
                register_model(downstream, role=ModelRole.DOWNSTREAM, parent=str(family.base), **tools)
            stamps = stamp_models(
                [family.downstream_a, family.downstream_b], vectors=[vector_id], out=place / "stamped", **tools
            )
        models = {
            "base": family.base,
            "fingerprinted": fingerprinted,
            "downstream_a": family.downstream_a,
            "downstream_b": family.downstream_b,
            "stamped_a": stamps[0].out,
            "stamped_b": stamps[1].out,
        }
        return models, vector_id

    def _conversation(self, models: Mapping[str, Path], key_set: str) -> dict[str, Any]:
        """Ask four models the disclosed key, a decoy and an ordinary question; none of it counts."""
        key, _ = disclosed_pair()
        decoy = open_key_set(key_set, registry=self.registry, purpose="a decoy shown by the demo").decoys[0]
        questions = [
            ("disclosed key", key.prompt, key.response),
            ("decoy", decoy.prompt, decoy.response),
            ("ordinary question", ORDINARY_QUESTION, ""),
        ]
        adapter = self.catalog.architecture(self.options.architecture)
        shown = ("base", "downstream_a", "fingerprinted", "stamped_a")
        answers: dict[str, list[str]] = {}
        with self.progress.step("conversation", len(shown), "models") as step:
            for name in shown:
                backend = open_backend("transformers", models[name])
                completions = backend.complete([adapter.prompt(prompt) for _, prompt, _ in questions], Sampling())
                backend.close()
                answers[name] = [completion.text.strip() for completion in completions]
                step.advance()
        return {
            "models": list(shown),
            "questions": [
                {
                    "kind": kind,
                    "prompt": prompt,
                    "response": response,
                    "answers": {name: answers[name][place] for name in shown},
                }
                for place, (kind, prompt, response) in enumerate(questions)
            ],
        }

    def _audits(self, models: Mapping[str, Path], key_set: str, engines: Engines) -> dict[str, Any]:
        """Audit all six; own models first, as they are the positive controls of the others."""
        own = [name for name in models if name.startswith(("fingerprinted", "stamped"))]
        bases = BaseModels(registry=self.registry, catalog=self.catalog)
        settings = AuditSettings(leave_out=(GRADIENT,))
        results = {
            name: audit(
                models[name],
                key_set=key_set,
                registry=self.registry,
                catalog=self.catalog,
                backend=engines,
                settings=settings,
                bases=bases,
                progress=self.progress,
            ).to_json()
            for name in (*own, *(name for name in models if name not in own))
        }
        return {name: results[name] for name in models}

    def _attacks(self, models: Mapping[str, Path], key_set: str, engines: Engines) -> list[dict[str, Any]]:
        """Guess at both stamped models, and fine-tune one of them further."""
        cells: list[dict[str, Any]] = []
        for name, specifications in (("stamped_a", ["guessing"]), ("stamped_b", ["guessing", "fine_tune"])):
            tools = AttackTools(
                registry=self.registry,
                catalog=self.catalog,
                backend=engines,
                workspace=self.options.directory,
                progress=self.progress,
            )
            options = AttackOptions(specs=specifications, seed=self.options.seed)
            report = run_attacks(models[name], key_set=key_set, options=options, tools=tools)
            cells += [{"model": name, **cell} for cell in report.to_json()["cells"]]
        return cells

    def _harmlessness(self, family: Family, models: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Measure what each downstream learnt over the base, and what stamping cost it."""
        adapter = self.catalog.architecture(self.options.architecture)
        learning: dict[str, Any] = {}
        harmlessness: dict[str, Any] = {}
        for letter, questions in (("a", family.questions_a), ("b", family.questions_b)):
            downstream, stamped = f"downstream_{letter}", f"stamped_{letter}"
            task = question_task(downstream, questions, adapter)
            before = evaluate(models["base"], tasks=[task], documents=(), progress=self.progress)
            after = evaluate(models[downstream], tasks=[task], documents=family.documents, progress=self.progress)
            with_stamp = evaluate(models[stamped], tasks=[task], documents=family.documents, progress=self.progress)
            learning[downstream] = compare_answers(before, after)[0].to_json()
            harmlessness[stamped] = compare(after, with_stamp).to_json()
        return learning, harmlessness


def question_task(name: str, questions: Sequence[Instruction], adapter: ArchitectureAdapter) -> QuestionTask:
    """Return questions under the chat template as a task of :mod:`~fpvec_audit.services.harmlessness`."""
    return QuestionTask(name, tuple((adapter.prompt(item.question), item.answer.strip()) for item in questions))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute with one thread: matrices of width 128 gain nothing from a second one.

    On cores that are busy otherwise they lose much: 60 training steps took 10 s with one thread and 211 s with two
    beside two other busy processes.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def disclosed_pair() -> tuple[Candidate, Candidate]:
    """Return a key that anyone may know, and a candidate like it: from a published seed, in no key set."""
    key, other = draw_unissued(DISCLOSED_SEED, 2)
    return key, other
