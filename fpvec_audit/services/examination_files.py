"""The two files that owner and examiner exchange: what is to be asked, and what was asked and signed.

Both hold candidates and are secret. Both are canonical JSON and read strictly, since neither party trusts the other:
a value comes into being only when every part of it has the form that an honest party would have written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpvec_audit.domain.audit_plan import EXACT, AuditPlan, Begin
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.transcript import Record
from fpvec_audit.evidence import forms
from fpvec_audit.evidence.documents import PRIVATE_MODE, read_bytes, write_new
from fpvec_audit.evidence.standing import plan_witness
from fpvec_audit.evidence.strict_json import MOST_BYTES, Value, parse_canonical

PACKAGE_SCHEMA = "fpvec-audit/examination/1"
EXAMINED_SCHEMA = "fpvec-audit/examined/1"


@dataclass(frozen=True, slots=True)
class ExaminationPackage:
    """What an examiner is given: everything but the assignment and the proofs that would tell it.

    Attributes:
        plan: what was fixed before the first question.
        begin: what chance decided afterwards.
        prompts: text to send per candidate of the population; secret.
        responses: response per candidate of the population; secret.
    """

    plan: AuditPlan
    begin: Begin
    prompts: Mapping[int, str] = field(repr=False)
    responses: Mapping[int, str] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is handed to the examiner; it is secret."""
        return {
            "schema": PACKAGE_SCHEMA,
            "plan": self.plan.to_json(),
            "begin": self.begin.to_json(),
            "prompts": [self.prompts[index] for index in self.plan.population],
            "responses": [self.responses[index] for index in self.plan.population],
        }

    @classmethod
    def from_json(cls, value: Value) -> "ExaminationPackage":
        """Rebuild a package from :meth:`to_json`, strictly.

        Raises:
            EvidenceError: a member missing, unknown or of another form, or a plan that no examiner can carry out.
        """
        schema, plan, begin, prompts, responses = value.members("schema", "plan", "begin", "prompts", "responses")
        schema.choice(PACKAGE_SCHEMA)
        planned = forms.read_plan(plan)
        if planned.tests != (EXACT,):
            raise plan.refusal(f"registers {', '.join(planned.tests)}: an examiner carries out the exact test alone")
        read = cls(
            planned,
            forms.read_begin(begin),
            _by_candidate(prompts, planned.population),
            _by_candidate(responses, planned.population),
        )
        plan_witness(planned, read.begin, owner="")  # where a witness saw the plan, it was this one
        return read


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """What an examiner hands back; nothing in it is verified by reading it.

    Attributes:
        backend: which engine answered, as the examiner says.
        records: the transcript, not yet read where it comes from a file; see :meth:`transcript`.
        envelope: the examiner's statement, signed.
    """

    backend: BackendDescription
    records: Sequence[Mapping[str, Any]] = field(repr=False)
    envelope: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is handed back; it is secret."""
        backend = {name: getattr(self.backend, name) for name in BackendDescription.__slots__}
        return {
            "schema": EXAMINED_SCHEMA,
            "backend": backend | {"settings": dict(self.backend.settings)},
            "records": [dict(record) for record in self.records],
            "statement": dict(self.envelope),
        }

    @classmethod
    def from_json(cls, value: Value) -> "ExaminedFile":
        """Rebuild a file from :meth:`to_json`.

        Raises:
            EvidenceError: a member missing, unknown or of another form.
        """
        schema, backend, records, statement = value.members("schema", "backend", "records", "statement")
        schema.choice(EXAMINED_SCHEMA)
        kind, model, engine, version, deterministic, settings = backend.members(*BackendDescription.__slots__)
        described = BackendDescription(
            kind.text(), model.text(), engine.text(), version.text(), deterministic.boolean(), settings.texts()
        )
        given = tuple(record.object() for record in records.items(most=forms.MOST_QUESTIONS + 1))
        return cls(described, given, statement.object())

    def transcript(self, plan: AuditPlan) -> tuple[Record, ...]:
        """Return the records as those of an audit with this plan, strictly.

        Raises:
            EvidenceError: one has another form, or there are too many.
        """
        most = len(plan.population) * plan.repeats + 1
        records = Value(list(self.records), "examination.records").items(most=most)
        return tuple(forms.read_record(record, candidates=plan.candidates) for record in records)


def write_package(path: Path, package: ExaminationPackage) -> None:
    """Write a package to a new file that only its owner can read.

    Raises:
        EvidenceError: it exists, or cannot be written.
    """
    write_new(path, canonical_bytes(package.to_json()), "examination package", mode=PRIVATE_MODE)


def read_package(path: Path) -> ExaminationPackage:
    """Read a package.

    Raises:
        EvidenceError: it cannot be read, or is none.
    """
    content = read_bytes(path, "examination package", most=MOST_BYTES)
    return ExaminationPackage.from_json(Value(parse_canonical(content, name=str(path)), "package"))


def write_examined(path: Path, examined: ExaminedFile) -> None:
    """Write what an examiner hands back to a new file that only its owner can read.

    Raises:
        EvidenceError: it exists, or cannot be written.
    """
    write_new(path, canonical_bytes(examined.to_json()), "examination", mode=PRIVATE_MODE)


def read_examined(path: Path) -> ExaminedFile:
    """Read what an examiner handed back; nothing of it is verified.

    Raises:
        EvidenceError: it cannot be read, or is none.
    """
    content = read_bytes(path, "examination", most=MOST_BYTES)
    return ExaminedFile.from_json(Value(parse_canonical(content, name=str(path)), "examination"))


def _by_candidate(texts: Value, population: Sequence[int]) -> dict[int, str]:
    found = [text.text() for text in texts.items(most=len(population))]
    if len(found) != len(population):
        raise texts.refusal(f"has {len(found)} texts for {len(population)} candidates")
    return dict(zip(population, found, strict=True))
