import json

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.services.weight_evidence import MEANING, KnownVector, weight_evidence
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint
from tests.tiny import make_tiny, perturb, rewrite, tensors_of


@pytest.fixture(scope="module")
def adapter():
    return load_catalog().architectures["gpt2"]


def known(name, base, fingerprinted, adapter, directory):
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter)
    directory.mkdir()
    description = write_vector(plan, directory, tool_version="0").description
    return KnownVector(description.id, directory, name)


@pytest.fixture
def bench(tmp_path, adapter):
    """Return a base, two vectors of it, and a downstream that carries the first at scale one."""
    base = make_tiny(tmp_path / "base", "gpt2", tokenizer=False)
    fingerprinted = [perturb(base, tmp_path / f"fp{seed}", seed=seed, size=0.02) for seed in (1, 2)]
    vectors = [
        known(f"set{place}", base, model, adapter, tmp_path / f"vector{place}")
        for place, model in enumerate(fingerprinted)
    ]
    downstream = perturb(base, tmp_path / "downstream", seed=3)
    tau = {name: tensor - tensors_of(base)[name] for name, tensor in tensors_of(fingerprinted[0]).items()}
    stamped = rewrite(downstream, tmp_path / "stamped", lambda name, tensor: tensor + tau[name])
    return base, vectors, stamped


def clean(base, tmp_path, count):
    return [perturb(base, tmp_path / f"clean{seed}", seed=100 + seed) for seed in range(count)]


def test_a_stamped_copy_stands_out_from_clean_fine_tunes_for_its_own_vector_alone(tmp_path, adapter, bench):
    base, vectors, stamped = bench
    controls = clean(base, tmp_path, 5)
    found = weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter, controls=controls)
    ours, other = found.vectors
    # the downstream's own training is random here: it leans on a vector by about 1/(2·√40,000)
    assert ours.coefficient == pytest.approx(1, abs=0.02)
    assert other.coefficient == pytest.approx(0, abs=0.02)
    assert ours.conformal_p == 1 / 6
    lowest, highest = ours.control_range
    assert -0.02 < lowest <= highest < 0.02
    assert ours.cosine == pytest.approx(2 / 5**0.5, rel=0.02)  # 0.02 against √(0.02² + 0.01²)
    assert {role: round(coefficient, 1) for role, (coefficient, _) in ours.roles.items()} == dict.fromkeys(
        (TensorRole.EMBEDDING, TensorRole.ATTENTION, TensorRole.MLP, TensorRole.NORM), 1.0
    )
    assert found.residual == pytest.approx(0.2, abs=0.01)  # 0.01² of 0.02² + 0.01²


def test_the_document_says_that_it_is_descriptive(tmp_path, adapter, bench):
    base, vectors, stamped = bench
    found = weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter, controls=clean(base, tmp_path, 1))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["descriptive"] is True
    assert document["meaning"] == MEANING
    assert "never give a MATCH" in MEANING
    assert [entry["key_set"] for entry in document["vectors"]] == ["set0", "set1"]
    entry = document["vectors"][0]
    assert set(entry) == {
        *("vector_id", "key_set", "mark", "coefficient", "cosine", "own_cosine", "roles"),
        *("control_range", "conformal_p"),
    }
    assert entry["vector_id"] == vectors[0].id
    assert set(entry["roles"]["mlp"]) == {"coefficient", "cosine"}
    assert entry["control_range"][0] == entry["control_range"][1]
    assert any("with 1 controls" in remark for remark in document["remarks"])


def test_without_controls_the_conformal_p_is_one(adapter, bench):
    base, vectors, stamped = bench
    found = weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter)
    assert {vector.conformal_p for vector in found.vectors} == {1}
    assert found.to_json()["vectors"][0]["control_range"] is None


def test_a_control_that_is_the_suspect_counts_against_the_suspicion(adapter, bench):
    base, vectors, stamped = bench
    found = weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter, controls=[base, stamped])
    assert found.vectors[0].conformal_p == 2 / 3


def test_the_base_as_a_suspect_is_said_to_be_the_base(adapter, bench):
    base, vectors, _ = bench
    found = weight_evidence(base, base_dir=base, vectors=vectors, adapter=adapter)
    assert [vector.coefficient for vector in found.vectors] == [0, 0]
    assert found.residual is None
    assert any("has the weights of the base" in remark for remark in found.remarks)
    json.dumps(found.to_json(), allow_nan=False)


def test_vectors_of_another_base_and_strangers_are_refused(tmp_path, adapter, bench):
    base, vectors, stamped = bench
    other = make_tiny(tmp_path / "other", "gpt2", seed=9, tokenizer=False)
    foreign = known("foreign", other, perturb(other, tmp_path / "ofp"), adapter, tmp_path / "foreign")
    with pytest.raises(VectorError, match="is a vector of base"):
        weight_evidence(stamped, base_dir=base, vectors=[*vectors, foreign], adapter=adapter)
    with pytest.raises(VectorError, match="is a vector of base"):
        weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter, base_digest="0" * 64)
    narrow = make_tiny(tmp_path / "narrow", "gpt2", hidden=16, tokenizer=False)
    with pytest.raises(CheckpointError, match="narrow"):
        weight_evidence(stamped, base_dir=base, vectors=vectors, adapter=adapter, controls=[narrow])
