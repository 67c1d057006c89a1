import json

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli.main import run
from fpvec_audit.domain.records import JobState
from fpvec_audit.errors import OutputError, UsageError, VectorError
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.compress import compress_vector
from fpvec_audit.services.extract import extract_vector, list_vectors
from tests.tiny import edit_json, make_tiny, perturb, rewrite


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture
def vector(tmp_path, tools):
    base = make_tiny(tmp_path / "base", "llama2", dtype="bfloat16", hidden=64)
    extracted = extract_vector(base, perturb(base, tmp_path / "fp", exact=True), out=tmp_path / "vector", **tools)
    return extracted.vector


def jobs(registry):
    with registry.unit_of_work() as uow:
        return [(job.kind, job.state) for job in uow.jobs.list()]


@pytest.mark.parametrize(
    ("options", "kind", "error"),
    [
        ({"keep": 0.1}, "keep", (0.5, 0.9)),
        ({"rank": 4}, "rank", (0.5, 0.99)),
        ({"dtype": "fp8"}, "fp8", (0.02, 0.03)),
    ],
)
def test_result_has_the_fields_of_the_contract_and_is_recorded_in_the_family(
    tmp_path, tools, registry, vector, options, kind, error
):
    result = compress_vector(vector.id[:10], out=tmp_path / "small", **options, **tools)
    document = json.loads(json.dumps(result.to_json()))
    assert document["out"] == str(tmp_path / "small")
    assert document["source"] == vector.id
    assert (document["kind"], document["parameters"]) == (kind, options)
    assert document["bytes"] == sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    sizes = [(tmp_path / name / "vector.safetensors").stat().st_size for name in ("small", "vector")]
    assert document["share_of_bytes"] == pytest.approx(sizes[0] / sizes[1])
    assert error[0] < document["relative_error"] < error[1]
    assert document["cosine"] == pytest.approx((1 - document["relative_error"] ** 2) ** 0.5, abs=0.01)
    assert {role["role"] for role in document["roles"]} == {"embedding", "output_head", "attention", "mlp", "norm"}
    assert document["seconds"] > 0
    assert bool(document["warnings"]) == (document["relative_error"] > 0.1)
    first, second = sorted(list_vectors(registry=registry), key=lambda found: found.record.id != vector.id)
    assert second.record.id == document["vector_id"] != vector.id
    assert second.record.norm == document["norm"] == pytest.approx(vector.norm * document["cosine"], rel=0.01)
    for name in ("family", "mark", "key_set", "base", "fingerprinted", "architecture"):
        assert getattr(second.record, name) == getattr(first.record, name)
    assert second.record.location == str(tmp_path / "small")
    assert ("compress", JobState.SUCCEEDED) in jobs(registry)
    with registry.unit_of_work() as uow:
        entry = list(uow.ledger.entries())[-1]
    assert (entry.event, entry.subject, entry.content["source"]) == ("vector.compressed", second.record.id, vector.id)


def test_vector_of_another_registry_is_adopted_with_its_origin(tmp_path, catalog, vector, clock):
    with open_registry(f"sqlite:///{tmp_path / 'other.db'}", clock=clock) as other:
        tools = {"registry": other, "catalog": catalog}
        result = compress_vector(str(tmp_path / "vector"), out=tmp_path / "small", dtype="fp8", **tools)
        assert {found.record.id for found in list_vectors(registry=other)} == {vector.id, result.vector.id}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "nothing says how"),
        ({"keep": 0.1, "rank": 2}, "--keep and --rank exclude each other"),
        ({"keep": 0.0}, "--keep 0 is no share"),
        ({"keep": 1.0}, "--keep 1 is no share"),
        ({"keep": float("nan")}, "--keep nan is no share"),
        ({"rank": 0}, "--rank 0 leaves nothing"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"rank": 1000}, "give a smaller --rank"),
    ],
)
def test_bad_option_is_refused_without_a_trace(tmp_path, tools, registry, vector, options, match):
    with pytest.raises(UsageError, match=match):
        compress_vector(vector.id, out=tmp_path / "small", **options, **tools)
    assert not (tmp_path / "small").exists()
    assert len(list_vectors(registry=registry)) == 1


def test_unknown_vector_and_existing_output_are_refused(tmp_path, tools, vector):
    with pytest.raises(UsageError, match="unknown vector 'vec-none'"):
        compress_vector("vec-none", out=tmp_path / "small", dtype="fp8", **tools)
    with pytest.raises(OutputError, match="exists already"):
        compress_vector(vector.id, out=tmp_path / "vector", dtype="fp8", **tools)


def test_compressed_vector_is_not_compressed_again(tmp_path, tools, vector):
    small = compress_vector(vector.id, out=tmp_path / "small", dtype="fp8", **tools)
    with pytest.raises(VectorError, match=f"compressed already .*{vector.id}"):
        compress_vector(small.vector.id, out=tmp_path / "smaller", keep=0.1, **tools)


def test_moved_or_damaged_vector_is_refused_and_leaves_nothing(tmp_path, tools, registry, vector):
    rewrite(tmp_path / "vector", tmp_path / "spoilt", lambda name, tensor: tensor * 2)
    with pytest.raises(VectorError, match="not those of its description"):
        compress_vector(str(tmp_path / "spoilt"), out=tmp_path / "small", dtype="fp8", **tools)
    assert not [path for path in tmp_path.iterdir() if "small" in path.name]
    assert ("compress", JobState.FAILED) in jobs(registry)
    edit_json(tmp_path / "vector" / "fpvec_vector.json", digest="0" * 64)
    with pytest.raises(VectorError, match=f"holds vec-0000000000000000, not {vector.id}"):
        compress_vector(vector.id, out=tmp_path / "small", dtype="fp8", **tools)


def test_command_prints_a_document_or_a_table(tmp_path, home, vector, capsys):
    options = ["--home", str(home), "--dtype", "fp8"]
    assert run(["vector", "compress", vector.id, "--out", str(tmp_path / "small"), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == vector.id
    assert run(["vector", "compress", vector.id, "--out", str(tmp_path / "again"), *options]) == 0
    assert "What was lost" in capsys.readouterr().out
    assert run(["vector", "compress", vector.id, "--out", str(tmp_path / "more"), *options, "--keep", "0.1"]) == 2
    assert "exclude each other" in capsys.readouterr().err
