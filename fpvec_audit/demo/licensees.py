"""The story that ``fpvec demo --licensees N`` tells: one training, a copy of its own for everybody, and who leaked it.

Models, vectors, words and copies are kept by key set, so that an interrupted telling goes on where it was; what copies
cost and what traces say is measured anew every time.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends import Engines
from fpvec_audit.demo.copies import Copies, Found, leak
from fpvec_audit.demo.family import Family, family_recipe, make_family
from fpvec_audit.demo.story import DemoOptions, Stages, Tell, question_task, single_threaded
from fpvec_audit.domain.audit_plan import EXACT, GRADIENT, LIKELIHOOD
from fpvec_audit.domain.carrier import DEFAULT_STRENGTH
from fpvec_audit.domain.family import FamilyReport, named_marks
from fpvec_audit.domain.harmlessness import compare
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.errors import TrainingError, UsageError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.code_summary import NOTHING, Wanted, family_code
from fpvec_audit.services.embed import FingerprintOptions
from fpvec_audit.services.extract_family import extract_family
from fpvec_audit.services.family import FamilyOptions, find_family, fingerprint_family
from fpvec_audit.services.family_codes import add_licensees
from fpvec_audit.services.family_plan import FamilyPlan, plan_family
from fpvec_audit.services.harmlessness import evaluate
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.likelihoods import BaseModels
from fpvec_audit.services.models import register_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.trace import trace

if TYPE_CHECKING:
    from fpvec_audit.catalog import Catalog
    from fpvec_audit.domain.records import KeySetRecord
    from fpvec_audit.registry.unit_of_work import Registry, UnitOfWork

COLLUDERS = 2
"""So many pool their copies in the story; the code must bear it."""
MOST_MARKS = 20
"""More keys than these marks have do not fit into models of a million parameters."""
MOST_TRAININGS = 4
SETTINGS: Mapping[str, AuditSettings] = {
    "answers": AuditSettings(tests=(EXACT,), leave_out=(GRADIENT,)),
    "weights": AuditSettings(tests=(EXACT, LIKELIHOOD)),
}
"""How a suspect is traced, by what is at hand. Tests on gradients take longest and would name nobody else."""


@dataclass(slots=True)
class LicenseeStory:
    """One telling: options, tools, and what came out so far."""

    options: DemoOptions
    licensees: int
    registry: "Registry"
    catalog: "Catalog"
    progress: Progress = NO_PROGRESS
    tell: Tell = lambda _stage, _document: None
    stages: Stages = field(default_factory=Stages)

    def run(self) -> dict[str, Any]:
        """Tell the whole story and return its document.

        Raises:
            UsageError: fewer than two licensees, or more than a family of the demo can serve.
            TrainingError: marks fall short however often they are trained.
        """
        if self.licensees < COLLUDERS:
            raise UsageError(
                f"--licensees {self.licensees}", advice=f"{COLLUDERS} of them pool their copies: ask for more"
            )
        plan = plan_family(self.licensees, colluders=COLLUDERS, most_marks=MOST_MARKS)
        with single_threaded(), Engines(self.options.backend, at_once=os.cpu_count() or 1) as engines:
            engines.warm_up()  # the import goes on beside the training
            return self._tell(plan, engines)

    def _tell(self, plan: FamilyPlan, engines: Engines) -> dict[str, Any]:
        adapter = self.catalog.architecture(self.options.architecture)
        with self.stages.stage("family"):
            family = make_family(adapter, self.options.directory / "families", progress=self.progress)
        with self.stages.stage("keys"):
            key_set = self._key_set(family, plan)
        with self.stages.stage("fingerprint"):
            marks, report = self._trained(family, key_set, plan)
            self.tell("marks", {"key_set": key_set, **report.to_json()})
        with self.stages.stage("vectors"):
            vectors = self._place(key_set) / "vectors"
            if not vectors.exists():
                extract_family(family.base, marks, out=vectors, key_set=key_set, **self._tools)
        with self.stages.stage("licensees"):
            code = self._licensed(key_set, plan)
            self.tell("code", code)
        with self.stages.stage("stamp"):
            copies = self._stamped(family, key_set)
            self.tell("copies", {"licensees": len(copies), "models": sum(map(len, copies.values()))})
        with self.stages.stage("harmlessness"):
            harmlessness = self._harmlessness(family, copies)
            self.tell("harmlessness", harmlessness)
        with self.stages.stage("leaks"):
            steps = family_recipe(family.architecture).downstream_steps
            found = leak(
                copies, family, self._place(key_set) / "found", catalog=self.catalog, steps=steps,
                seed=self.options.seed, progress=self.progress,
            )  # fmt: skip
        with self.stages.stage("traces"):
            traces = self._traces(found, key_set, engines)
            self.tell("traces", traces)
        return {
            "arch": self.options.architecture,
            "stages": self.stages.timed,
            "key_set": key_set,
            "marks": str(marks),
            "vectors": str(vectors),
            "training": report.to_json(),
            "code": code,
            "models": {
                "base": str(family.base),
                "downstream_a": str(family.downstream_a),
                "downstream_b": str(family.downstream_b),
            },
            "copies": {name: [str(path) for path in paths] for name, paths in copies.items()},
            "harmlessness": harmlessness,
            "traces": traces,
        }

    @property
    def _tools(self) -> dict[str, Any]:
        return {"registry": self.registry, "catalog": self.catalog, "progress": self.progress}

    @property
    def _names(self) -> list[str]:
        return [f"licensee-{number:02}" for number in range(1, self.licensees + 1)]

    def _place(self, key_set: str) -> Path:
        return self.options.directory / key_set

    def _key_set(self, family: Family, plan: FamilyPlan) -> str:
        """Return the name of the last key set of this base that serves the same plan, or issue one."""
        base = register_model(family.base, role=ModelRole.BASE, **self._tools).record
        stem = f"licensees-{self.options.architecture}"
        with self.registry.snapshot() as uow:
            mine = [record for record in uow.key_sets.list() if record.name.startswith(f"{stem}-")]
            usable = [record for record in mine if record.base in (None, base.id) and _serves(uow, record, plan)]
        if usable and not self.options.fresh_keys:
            return usable[-1].name
        name = f"{stem}-{len(mine) + 1}"
        issue_key_set(
            name, registry=self.registry, specification=plan.specification, owner="fpvec demo", base=family.base
        )
        return name

    def _trained(self, family: Family, key_set: str, plan: FamilyPlan) -> tuple[Path, FamilyReport]:
        """Train the family until every mark answers its keys; what an earlier run left is gone on with."""
        options = FingerprintOptions(seed=self.options.seed, resume=True)
        earlier: Path | None = None
        for turn in range(MOST_TRAININGS):
            out = self._place(key_set) / (f"marks-{turn + 1}" if turn else "marks")
            if not out.exists():
                wanted = FamilyOptions(code_weight=plan.code.weight, earlier=earlier)
                fingerprint_family(
                    family.base, key_set=key_set, out=out, options=options, family_options=wanted, **self._tools
                )
            report = self._report(key_set, out)
            if report is not None and not report.short:
                return out, report
            earlier = out
        told = "its training" if report is None else named_marks(report.short)
        raise TrainingError(
            f"{told} of {key_set} did not learn enough keys in {MOST_TRAININGS} trainings",
            advice="begin anew with --fresh-keys",
        )

    def _report(self, key_set: str, out: Path) -> FamilyReport | None:
        """Return what the ledger says of a training, None where its marks were trained further since."""
        with self.registry.snapshot() as uow:
            known = find_family(uow, uow.key_sets.get(key_set).id)
        return known.report if known is not None and known.out == out.resolve() else None

    def _licensed(self, key_set: str, plan: FamilyPlan) -> dict[str, Any]:
        """Give every licensee a word, the first of which chooses the code; return what the code bears."""
        with self.registry.snapshot() as uow:
            code = uow.code_words.code_of(uow.key_sets.get(key_set).id)
            given = set() if code is None else {word.licensee for word in uow.code_words.words(code)}
        missing = [name for name in self._names if name not in given]
        wanted = NOTHING if code is not None else Wanted(plan.code.text, self.licensees, COLLUDERS)
        if missing:
            add_licensees(missing, key_set, registry=self.registry, wanted=wanted)
        return family_code(key_set, registry=self.registry).to_json()

    def _stamped(self, family: Family, key_set: str) -> Copies:
        """Make everybody's copies of both downstreams, those that are there already left alone."""
        downstreams = [family.downstream_a, family.downstream_b]
        for downstream in downstreams:
            register_model(downstream, role=ModelRole.DOWNSTREAM, parent=str(family.base), **self._tools)
        stamps = stamp_models(
            downstreams, vectors=(), family=key_set, licensees=self._names, out=self._place(key_set) / "copies",
            carrier=DEFAULT_STRENGTH, **self._tools,
        )  # fmt: skip
        half = len(self._names)
        return {
            name: (stamps[place].out, stamps[half + place].out) for place, name in enumerate(self._names)
        }  # downstream by downstream, licensees within

    def _harmlessness(self, family: Family, copies: Copies) -> dict[str, Any]:
        """Measure what one licensee's marks cost each of its copies."""
        name = self._names[0]
        adapter = self.catalog.architecture(self.options.architecture)
        measured = {}
        for place, (downstream, questions) in enumerate(
            ((family.downstream_a, family.questions_a), (family.downstream_b, family.questions_b))
        ):
            task = question_task(downstream.name, questions, adapter)
            before, after = (
                evaluate(model, tasks=[task], documents=family.documents, progress=self.progress)
                for model in (downstream, copies[name][place])
            )
            measured[f"{downstream.name} of {name}"] = compare(before, after).to_json()
        return measured

    def _traces(self, found: Sequence[Found], key_set: str, engines: Engines) -> list[dict[str, Any]]:
        """Trace every suspect with what is at hand."""
        bases = BaseModels(registry=self.registry, catalog=self.catalog)
        traces = []
        for suspect in found:
            for told_by in suspect.told_by:
                result = trace(
                    suspect.path,
                    settings=SETTINGS[told_by],
                    families=[key_set],
                    backend=engines,
                    bases=bases,
                    **self._tools,
                )
                traces.append(_told(suspect, told_by, result.to_json()))
        return traces


def _serves(uow: "UnitOfWork", record: "KeySetRecord", plan: FamilyPlan) -> bool:
    """Return whether a key set has the marks that are wanted, and no other code."""
    if record.commitment.marks != plan.code.marks:
        return False
    code = uow.code_words.code_of(record.id)
    return code is None or code.text == plan.code.text


def _told(suspect: Found, told_by: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace beside the truth."""
    named = list(dict.fromkeys(item["licensee"] for item in document["named"]))
    return {
        "suspect": suspect.name,
        "path": str(suspect.path),
        "made_by": list(suspect.made_by),
        "told_by": told_by,
        "verdict": document["verdict"],
        "named": named,
        "innocent_named": [name for name in named if name not in suspect.made_by],
        "trace": dict(document),
    }
