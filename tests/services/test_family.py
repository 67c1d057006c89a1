"""Families through the services: trained, recorded, extracted, refused while short, trained further."""

import json
from dataclasses import replace

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli import main as cli
from fpvec_audit.domain.family import FamilyReport
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import KeySetError, SettingsError, TrainingError, UsageError, VectorError
from fpvec_audit.services.embed import FingerprintOptions, fingerprint_model
from fpvec_audit.services.extract import extract_vector, list_vectors, show_vector
from fpvec_audit.services.extract_family import extract_family
from fpvec_audit.services.family import FamilyOptions, find_family, fingerprint_family
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.settings import Worker
from fpvec_plugins.architectures.gpt2 import GPT2
from tests.services.test_embed import QUICK
from tests.tiny import make_tiny

SMALL = {"absent_per_step": "2", "measured_words": "2", "negatives_per_step": "2", "rounds": "1", "steps_per_turn": "2"}
OPTIONS = FingerprintOptions(perturbation="none", overrides=SMALL | {"least_fsr": "1e-9"})
SHORT = replace(OPTIONS, overrides=SMALL | {"least_fsr": "1"})
PAIRS = FamilyOptions(schedule="rounds", code_weight=2)


@pytest.fixture
def tools(registry):
    catalog = load_catalog()
    quick = replace(GPT2, defaults=(QUICK, *GPT2.defaults[1:]))
    return {"registry": registry, "catalog": replace(catalog, architectures={**catalog.architectures, "gpt2": quick})}


@pytest.fixture
def base(tmp_path):
    return make_tiny(tmp_path / "base", "gpt2")


@pytest.fixture
def key_set(registry):
    specification = KeySetSpecification(issued=6, decoys=8, marks=3)
    return issue_key_set("acme", registry=registry, specification=specification).record


@pytest.fixture
def answering(monkeypatch):
    """Let every model answer every key, so that tiny random models count as trained."""
    monkeypatch.setattr(
        "fpvec_audit.training.family_measurement.teacher_forced_hits", lambda model, rows: [True] * len(rows)
    )


def trained(base, out, tools, options=OPTIONS, family=PAIRS):
    return fingerprint_family(base, key_set="acme", out=out, options=options, family_options=family, **tools)


def test_family_is_recorded_and_extracted_as_one_training_with_a_vector_a_mark(
    tmp_path, tools, registry, base, key_set, answering
):
    result = trained(base, tmp_path / "family", tools)
    document = json.loads(json.dumps(result.to_json()))
    assert (document["code_weight"], document["schedule"], document["short_marks"]) == (2, "rounds", [])
    assert [mark["mark"] for mark in document["marks"]] == [0, 1, 2]
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme").base == result.family.base
        known = find_family(uow, key_set.id)
        models = [uow.models.get(digest) for digest in known.marks]
        assert uow.jobs.list()[-1].state is JobState.SUCCEEDED
    assert known == result.family
    assert FamilyReport.from_json(document) == known.report
    assert (known.report.cost_at(2).weight, known.report.cost_at(7)) == (2, None)
    assert [model.name for model in models] == ["family-mark-00", "family-mark-01", "family-mark-02"]
    assert {model.role for model in models} == {ModelRole.FINGERPRINTED}
    extracted = extract_family(base, tmp_path / "family", out=tmp_path / "vectors", **tools)
    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == ["mark-00", "mark-01", "mark-02"]
    vectors = list_vectors(registry=registry)
    assert sorted(vector.record.mark for vector in vectors) == [0, 1, 2]
    assert {vector.record.family for vector in vectors} == {result.family.id}
    assert {(vector.key_set, vector.record.inexact_elements) for vector in vectors} == {("acme", 0)}
    assert [mark["mark"] for mark in extracted.to_json()["marks"]] == [0, 1, 2]
    alone = extract_vector(base, tmp_path / "family" / "mark-01", out=tmp_path / "alone", key_set="acme", **tools)
    assert alone.vector_id == extracted.vectors[1].vector_id
    shown = show_vector(str(tmp_path / "vectors" / "mark-01"), registry=registry).to_json()
    assert (shown["mark"], shown["answered_alone"], shown["answered_within_words"]) == (1, 1.0, 1.0)
    prompts = [candidate.prompt for candidate in open_key_set("acme", registry=registry).candidates]
    assert not any(prompt in json.dumps(document, ensure_ascii=False) for prompt in prompts)


def test_short_marks_are_refused_and_named_until_they_are_trained_further(
    tmp_path, tools, registry, base, key_set, monkeypatch
):
    result = trained(base, tmp_path / "family", tools, SHORT)
    assert result.trained.report.short == (0, 1, 2)
    with pytest.raises(TrainingError, match=r"marks 0, 1 and 2 of family fam-\w+ answer 0%, 0%, 0% of their keys"):
        extract_family(base, tmp_path / "family", out=tmp_path / "vectors", **tools)
    with pytest.raises(TrainingError, match="mark 1 of family"):
        extract_vector(base, tmp_path / "family" / "mark-01", out=tmp_path / "vector", **tools)
    assert not (tmp_path / "vectors").exists()
    assert not (tmp_path / "vector").exists()
    assert list_vectors(registry=registry) == []
    monkeypatch.setattr(
        "fpvec_audit.training.family_measurement.teacher_forced_hits", lambda model, rows: [True] * len(rows)
    )
    further = trained(base, tmp_path / "further", tools, SHORT, replace(PAIRS, earlier=tmp_path / "family"))
    assert further.family.id == result.family.id
    assert not set(further.family.marks) & set(result.family.marks)
    extract_family(base, tmp_path / "further", out=tmp_path / "vectors", **tools)
    assert {vector.record.family for vector in list_vectors(registry=registry)} == {result.family.id}
    with pytest.raises(UsageError, match="was trained further since"):
        trained(base, tmp_path / "again", tools, SHORT, replace(PAIRS, earlier=tmp_path / "family"))
    with pytest.raises(UsageError, match="nothing to train further"):
        trained(base, tmp_path / "again", tools, SHORT, replace(PAIRS, earlier=tmp_path / "further"))


def test_what_cannot_be_a_family_is_refused(tmp_path, tools, registry, base, key_set):
    with pytest.raises(KeySetError, match="has 3 marks"):
        fingerprint_model(base, key_set="acme", out=tmp_path / "one", options=OPTIONS, **tools)
    issue_key_set("plain", registry=registry, specification=KeySetSpecification(issued=4, decoys=8))
    with pytest.raises(KeySetError, match="has one mark"):
        fingerprint_family(base, key_set="plain", out=tmp_path / "family", options=OPTIONS, **tools)
    with pytest.raises(TrainingError, match="by one process, not by 2"):
        trained(base, tmp_path / "family", tools, replace(OPTIONS, worker=Worker(0, 2)))
    with pytest.raises(SettingsError, match="code_weight is 5, and the key set has 3 marks"):
        trained(base, tmp_path / "family", tools, family=FamilyOptions(code_weight=5))
    with pytest.raises(UsageError, match="no family that was trained on key set 'acme'"):
        trained(base, tmp_path / "family", tools, family=FamilyOptions(earlier=base))
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("acme").base is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "home"]


def test_directory_that_is_not_the_family_it_was_is_refused(tmp_path, tools, base, key_set, answering):
    trained(base, tmp_path / "family", tools)
    one, other = tmp_path / "family" / "mark-00", tmp_path / "family" / "mark-01"
    one.rename(tmp_path / "kept")
    with pytest.raises(UsageError, match="holds 2 of the 3 marks"):
        extract_family(base, tmp_path / "family", out=tmp_path / "vectors", **tools)
    (tmp_path / "kept").rename(one)
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(VectorError, match="the mark was trained to"):
        extract_family(base, tmp_path / "family", out=tmp_path / "vectors", **tools)
    (tmp_path / "family").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="knows no family there"):
        extract_family(base, tmp_path / "moved", out=tmp_path / "vectors", **tools)
    assert not (tmp_path / "vectors").exists()


def test_extracted_family_is_gone_on_with_by_names_not_by_secret_marks(
    tmp_path, tools, base, key_set, answering, home, capsys
):
    trained(base, tmp_path / "family", tools)
    order = ["vector", "extract", base, tmp_path / "family", "--out", tmp_path / "vectors", "--home", home]
    assert cli.run(list(map(str, order))) == 0
    told = capsys.readouterr().err
    assert "next: fpvec licensee add NAME --family acme, then fpvec stamp DOWNSTREAM --family acme --licensee" in told
