import json
from pathlib import Path

import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import ArchitectureError, CheckpointError, KeySetError, OutputError, UsageError, VectorError
from fpvec_audit.services.extract import extract_vector, list_vectors, show_vector
from fpvec_audit.services.key_life import retire_key_set
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.models import register_model
from tests.tiny import edit_json, make_tiny, perturb, tensors_of, write_checkpoint


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture
def pair(tmp_path):
    base = make_tiny(tmp_path / "base", "gpt2")
    return base, perturb(base, tmp_path / "fp", exact=True)


def jobs(registry):
    with registry.unit_of_work() as uow:
        return [(job.kind, job.state) for job in uow.jobs.list()]


def issue(registry, name="acme"):
    return issue_key_set(
        name, registry=registry, specification=KeySetSpecification(issued=4, decoys=8), entropy=lambda size: b"k" * size
    ).record


def test_result_has_the_fields_of_the_contract_and_is_recorded(tmp_path, tools, registry, pair):
    result = extract_vector(*pair, out=tmp_path / "vector", **tools)
    document = json.loads(json.dumps(result.to_json()))
    assert document["out"] == str(tmp_path / "vector")
    assert document["tensors"] == 28
    assert document["inexact_elements"] == 0
    assert document["norm"] > 0
    assert document["seconds"] > 0
    assert document["bytes"] == sum(path.stat().st_size for path in (tmp_path / "vector").iterdir())
    shown = show_vector(document["vector_id"][:10], registry=registry).to_json()
    assert shown["base_digest"] == document["base_digest"]
    assert shown["fingerprinted_digest"] == document["fingerprinted_digest"]
    assert shown["location"] == str(tmp_path / "vector")
    assert (shown["base"], shown["fingerprinted"]) == ("base", "fp")
    assert shown == show_vector(str(tmp_path / "vector"), registry=registry).to_json()
    assert (shown.pop("stamps"), shown.pop("latest_stamps")) == (0, [])
    assert [vector.to_json() for vector in list_vectors(registry=registry)] == [shown]
    assert jobs(registry) == [("extract", JobState.SUCCEEDED)]
    with registry.unit_of_work() as uow:
        assert uow.models.get("base").role is ModelRole.BASE
        assert uow.models.get("fp").role is ModelRole.FINGERPRINTED
        assert uow.models.get("fp").parent == uow.models.get("base").id
        assert [entry.event for entry in uow.ledger.entries()][-1] == "vector.extracted"


def test_vector_can_be_stored_in_float32(tmp_path, tools):
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16")
    extract_vector(base, perturb(base, tmp_path / "fp"), out=tmp_path / "vector", dtype="float32", **tools)
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "vector").values()} == {torch.float32}


def test_key_set_is_the_one_named(tmp_path, tools, registry, pair):
    key_set = issue(registry)
    result = extract_vector(*pair, out=tmp_path / "vector", key_set="acme", **tools)
    assert result.key_set == key_set.id
    assert result.warnings == ()
    assert show_vector(result.vector_id, registry=registry).key_set == "acme"


def test_key_set_is_found_from_the_history_of_the_fingerprinted_model(tmp_path, tools, registry, pair):
    key_set = issue(registry)
    model = register_model(pair[1], role=ModelRole.FINGERPRINTED, **tools).record
    with registry.unit_of_work() as uow:
        uow.ledger.append("model.fingerprinted", model.id, {"key_set": key_set.id})
    assert extract_vector(*pair, out=tmp_path / "vector", **tools).key_set == key_set.id


def test_vector_without_key_set_is_extracted_with_a_warning(tmp_path, tools, pair):
    result = extract_vector(*pair, out=tmp_path / "vector", **tools)
    assert result.key_set is None
    assert "--key" in result.warnings[0]


def test_key_set_of_another_base_or_model_is_refused(tmp_path, tools, registry, pair):
    key_set, other = (
        issue(registry),
        issue_key_set(
            "other",
            registry=registry,
            specification=KeySetSpecification(issued=4, decoys=8),
            entropy=lambda n: b"o" * n,
        ).record,
    )
    stranger = register_model(make_tiny(tmp_path / "stranger", "bloom"), role=ModelRole.BASE, **tools).record
    with registry.unit_of_work() as uow:
        uow.key_sets.bind(key_set.id, stranger.id)
    with pytest.raises(KeySetError, match="bound to the base"):
        extract_vector(*pair, out=tmp_path / "vector", key_set="acme", **tools)
    model = register_model(pair[1], role=ModelRole.FINGERPRINTED, **tools).record
    with registry.unit_of_work() as uow:
        uow.ledger.append("model.fingerprinted", model.id, {"key_set": key_set.id})
    with pytest.raises(KeySetError, match="was trained on key set"):
        extract_vector(*pair, out=tmp_path / "vector", key_set=other.name, **tools)
    assert not (tmp_path / "vector").exists()


def test_model_that_is_no_mark_is_not_taken_for_all_marks_of_a_key_set(tmp_path, tools, registry, pair):
    specification = KeySetSpecification(issued=6, decoys=8, marks=3)
    key_set = issue_key_set("family", registry=registry, specification=specification).record
    match = r"has 3 marks, and .*/fp is none of the models .* give the directory of all marks"
    refused(tmp_path, tools, registry, KeySetError, *pair, match=match, key_set="family")
    with registry.unit_of_work() as uow:
        assert uow.key_sets.get("family") == key_set


def test_retired_key_set_is_found_in_no_further_model(tmp_path, tools, registry, pair):
    issue(registry)
    extract_vector(*pair, out=tmp_path / "vector", key_set="acme", **tools)
    retire_key_set("acme", registry=registry, reason="over")
    again = extract_vector(*pair, out=tmp_path / "again", key_set="acme", **tools)
    assert again.vector_id == show_vector(str(tmp_path / "vector"), registry=registry).record.id
    other = perturb(pair[0], tmp_path / "other", seed=5, exact=True)
    with pytest.raises(KeySetError, match="nothing new is made with it"):
        extract_vector(pair[0], other, out=tmp_path / "more", key_set="acme", **tools)
    assert not (tmp_path / "more").exists()


def test_retired_key_set_that_a_model_was_trained_on_is_taken(tmp_path, tools, registry, pair):
    key_set = issue(registry)
    model = register_model(pair[1], role=ModelRole.FINGERPRINTED, **tools).record
    with registry.unit_of_work() as uow:
        uow.ledger.append("model.fingerprinted", model.id, {"key_set": key_set.id})
    retire_key_set("acme", registry=registry, reason="over")
    assert extract_vector(*pair, out=tmp_path / "vector", key_set="acme", **tools).key_set == key_set.id


def test_fingerprinted_model_of_another_base_is_refused(tmp_path, tools, pair):
    other = make_tiny(tmp_path / "other", "gpt2", seed=3)
    register_model(pair[0], role=ModelRole.BASE, **tools)
    register_model(pair[1], role=ModelRole.FINGERPRINTED, parent="base", **tools)
    with pytest.raises(VectorError, match="was made from model"):
        extract_vector(other, pair[1], out=tmp_path / "vector", **tools)


def refused(tmp_path, tools, registry, error, *pair, match, **options):
    """Check that an extraction is refused, and that neither files nor records are left of it."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=match):
        extract_vector(*pair, out=tmp_path / "deep" / "vector", **options, **tools)
    assert sorted(tmp_path.iterdir()) == before
    assert list_vectors(registry=registry) == []
    assert JobState.SUCCEEDED not in [state for _, state in jobs(registry)]
    assert JobState.RUNNING not in [state for _, state in jobs(registry)]


def test_existing_output_is_refused_and_kept(tmp_path, tools, pair):
    (tmp_path / "vector").mkdir()
    (tmp_path / "vector" / "precious").touch()
    with pytest.raises(OutputError, match="exists already"):
        extract_vector(*pair, out=tmp_path / "vector", **tools)
    assert (tmp_path / "vector" / "precious").exists()


def test_unknown_dtype_key_or_architecture_name_is_refused(tmp_path, tools, registry, pair):
    refused(tmp_path, tools, registry, UsageError, *pair, match="unknown vector dtype", dtype="int8")
    refused(tmp_path, tools, registry, UsageError, *pair, match="unknown key set", key_set="acme")
    refused(tmp_path, tools, registry, UsageError, *pair, match="did you mean gpt2", architecture="gpt-2")


def test_unknown_architecture_is_refused(tmp_path, tools, registry):
    odd = write_checkpoint(tmp_path / "odd", {"w": torch.ones(2)})
    other = write_checkpoint(tmp_path / "other", {"w": torch.zeros(2)})
    refused(tmp_path, tools, registry, ArchitectureError, odd, other, match="no adapter for")


def test_quantised_model_is_refused(tmp_path, tools, registry, pair):
    edit_json(pair[1] / "config.json", quantization_config={"quant_method": "awq"})
    refused(tmp_path, tools, registry, CheckpointError, *pair, match="quantised")


def test_number_that_is_not_finite_is_refused_in_the_middle_of_writing(tmp_path, tools, registry, pair):
    from tests.tiny import rewrite

    spoilt = rewrite(pair[1], tmp_path / "nan", lambda name, t: t * float("nan") if name.endswith("wte.weight") else t)
    refused(tmp_path, tools, registry, CheckpointError, pair[0], spoilt, match=r"wte\.weight: element 0 is nan")
    assert jobs(registry) == [("extract", JobState.FAILED)]


def test_other_shapes_and_equal_models_are_refused(tmp_path, tools, registry, pair):
    wide = make_tiny(tmp_path / "wide", "gpt2", hidden=64)
    refused(tmp_path, tools, registry, VectorError, pair[0], wide, match="the base has shape")
    refused(tmp_path, tools, registry, VectorError, pair[0], pair[0], match="has the same weights")


def test_interrupted_extraction_leaves_nothing_but_a_cancelled_job(tmp_path, tools, registry, pair, monkeypatch):
    from fpvec_audit.tensors.kernels import BlockKernels

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockKernels, "subtract", interrupt)
    refused(tmp_path, tools, registry, KeyboardInterrupt, *pair, match=None)
    assert jobs(registry) == [("extract", JobState.CANCELLED)]


def test_place_that_cannot_be_written_is_told(tools, pair):
    with pytest.raises(OutputError, match="/proc"):  # even root cannot write there
        extract_vector(*pair, out=Path("/proc/vector"), **tools)
