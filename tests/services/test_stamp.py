import json
import subprocess
from pathlib import Path

import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.errors import (
    ArchitectureError,
    CheckpointError,
    OutputError,
    UnknownNameError,
    UsageError,
    VectorError,
)
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.extract import extract_vector, list_vectors
from fpvec_audit.services.models import register_model, show_model
from fpvec_audit.services.stamp import stamp_models
from tests.tiny import edit_json, make_tiny, perturb, rewrite, tensors_of, write_checkpoint

FIELDS = {
    "out", "vectors", "vector", "scale", "licensee", "tensors", "bytes_written", "applied_ratio", "cosine", "digest",
    "stamp_id", "already", "seconds", "peak_memory_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture
def base(tmp_path):
    return make_tiny(tmp_path / "base", "gpt2")


@pytest.fixture
def vector(tmp_path, base, tools):
    fingerprinted = perturb(base, tmp_path / "fp", exact=True)
    return extract_vector(base, fingerprinted, out=tmp_path / "vector", **tools).vector_id


@pytest.fixture
def downstream(tmp_path, base, vector, tools):
    path = perturb(base, tmp_path / "chat", seed=2)
    register_model(path, parent="base", **tools)
    return path


def stamp_jobs(registry):
    with registry.unit_of_work() as uow:
        return [job.state for job in uow.jobs.list() if job.kind == "stamp"]


def test_result_has_the_fields_of_the_contract_and_is_recorded(tmp_path, tools, registry, vector, downstream):
    (result,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=["Globex"], **tools)
    document = json.loads(json.dumps(result.to_json()))
    assert document.keys() >= FIELDS
    assert document["vectors"] == [{"vector": vector, "scale": 1.0}]
    assert (document["vector"], document["scale"], document["licensee"]) == (vector, 1.0, "Globex")
    assert document["already"] is False
    assert document["warnings"] == []
    assert document["applied_ratio"] == pytest.approx(1, abs=1e-3)
    assert document["peak_memory_bytes"] > 10_000_000
    model = show_model(document["digest"], registry=registry).to_json()
    assert (model["role"], model["parent_name"], model["location"]) == ("stamped", "chat", str(tmp_path / "out"))
    (stamp,) = model["stamps"]
    assert (stamp["stamp_id"], stamp["licensee"]) == (document["stamp_id"], "Globex")
    assert (stamp["vectors"], stamp["location"]) == ([{"vector": vector, "scale": 1.0}], str(tmp_path / "out"))
    assert stamp["policies"] == {"vocabulary": "refuse", "again": False, "skip": []}
    assert stamp["applied_ratio"] == document["applied_ratio"]
    assert stamp_jobs(registry) == [JobState.SUCCEEDED]
    with registry.unit_of_work() as uow:
        assert uow.ledger.entries()[-1].event == "stamp.made"
        assert uow.ledger.verify() is None


@pytest.mark.parametrize("name", ["", "  "])
def test_licensee_without_a_name_is_refused_before_all(tmp_path, tools, registry, vector, downstream, name):
    with pytest.raises(UsageError, match="the name of a licensee is empty"):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=[name], **tools)
    assert not (tmp_path / "out").exists()
    assert stamp_jobs(registry) == []


def test_copies_for_long_names_get_directories_that_a_disk_takes(tmp_path, tools, vector, downstream):
    names = ["株" * 199 + "甲", "株" * 199 + "乙", "Globex"]
    results = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=names, **tools)
    assert [result.licensee for result in results] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(result.out.name for result in results)
    assert results[2].out.name == "chat-Globex"
    again = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=names, **tools)
    assert [result.already for result in again] == [True] * 3


def test_vector_may_be_given_by_id_prefix_or_directory_with_a_scale(tmp_path, tools, vector, downstream):
    by_directory = stamp_models([downstream], vectors=[f"{tmp_path / 'vector'}:0.5"], out=tmp_path / "a", **tools)
    by_prefix = stamp_models([downstream], vectors=[f"{vector[:9]}:0.5"], out=tmp_path / "b", **tools)
    assert by_directory[0].digest == by_prefix[0].digest
    assert by_prefix[0].vectors == ((vector, 0.5),)
    tau, before = tensors_of(tmp_path / "vector"), tensors_of(downstream)
    name = "transformer.wpe.weight"
    assert torch.equal(tensors_of(tmp_path / "a")[name], before[name] + 0.5 * tau[name])


@pytest.mark.parametrize("text", ["vec-x:fast", "vec-x:", "vec-x:0", "vec-x:nan", "vec-x:inf"])
def test_scale_that_is_none_is_refused(tmp_path, tools, vector, downstream, text):
    with pytest.raises(UsageError, match=r"no scale|stamps nothing"):
        stamp_models([downstream], vectors=[text], out=tmp_path / "out", **tools)


def test_unknown_vector_is_refused_with_the_nearest(tmp_path, tools, vector, downstream):
    with pytest.raises(UnknownNameError, match=f"did you mean {vector}"):
        stamp_models([downstream], vectors=[vector[:-1] + "x"], out=tmp_path / "out", **tools)


def test_moved_vector_is_told(tmp_path, tools, vector, downstream):
    (tmp_path / "vector").rename(tmp_path / "moved")
    with pytest.raises(VectorError, match="does not exist"):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    assert stamp_models([downstream], vectors=[str(tmp_path / "moved")], out=tmp_path / "out", **tools)


def test_several_copies_get_names_and_a_record_each(tmp_path, tools, registry, base, vector, downstream):
    code = perturb(base, tmp_path / "code", seed=3)
    results = stamp_models([downstream, code], vectors=[vector], out=tmp_path / "out", licensees=["A/B", "C"], **tools)
    assert [result.out.name for result in results] == ["chat-A-B", "chat-C", "code-A-B", "code-C"]
    assert [result.licensee for result in results] == ["A/B", "C", "A/B", "C"]
    assert len({result.stamp_id for result in results}) == 4
    assert results[0].digest == results[1].digest != results[2].digest
    with registry.unit_of_work() as uow:
        assert len(uow.stamps.list()) == 4


def test_two_copies_of_one_name_are_refused_before_the_first_byte(tmp_path, tools, base, vector, downstream):
    other = perturb(base, tmp_path / "sub", seed=3)
    other = other.rename(tmp_path / "elsewhere")
    (tmp_path / "deep").mkdir()
    other = other.rename(tmp_path / "deep" / "chat")
    with pytest.raises(UsageError, match="would both become"):
        stamp_models([downstream, other], vectors=[vector], out=tmp_path / "out", **tools)
    with pytest.raises(UsageError, match="would both become"):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=["A B", "A/B"], **tools)
    assert not (tmp_path / "out").exists()


def test_the_same_stamp_recognises_itself(tmp_path, tools, registry, vector, downstream):
    (first,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    (again,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    assert (first.already, again.already) == (False, True)
    assert (again.stamp_id, again.digest, again.applied_ratio) == (first.stamp_id, first.digest, first.applied_ratio)
    assert again.bytes_written == 0


def test_only_the_missing_copies_are_made(tmp_path, tools, vector, downstream):
    order = {"vectors": [vector], "out": tmp_path / "out", "licensees": ["A", "B"]}
    stamp_models([downstream], **order, **tools)
    for path in (tmp_path / "out" / "chat-B").iterdir():
        path.unlink()
    (tmp_path / "out" / "chat-B").rmdir()
    assert [result.already for result in stamp_models([downstream], **order, **tools)] == [True, False]


def broken(kind, out, downstream):
    if kind == "another scale":
        return ":0.5"
    if kind == "a changed file":
        (out / "config.json").write_text("{}")
    if kind == "a further file":
        (out / "new.txt").touch()
    if kind == "a truncated file":
        content = (out / "model.safetensors").read_bytes()
        (out / "model.safetensors").write_bytes(content[:-4])
    if kind == "changed weights":
        content = bytearray((out / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (out / "model.safetensors").write_bytes(content)
    return ""


@pytest.mark.parametrize(
    "kind", ["another scale", "a changed file", "a further file", "a truncated file", "changed weights"]
)
def test_anything_else_at_the_output_is_refused_and_kept(tmp_path, tools, vector, downstream, kind):
    out = tmp_path / "out"
    stamp_models([downstream], vectors=[vector], out=out, **tools)
    scale = broken(kind, out, downstream)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match="exists already, and is not this stamp"):
        stamp_models([downstream], vectors=[vector + scale], out=out, **tools)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_unrelated_directory_and_file_at_the_output_are_refused(tmp_path, tools, vector, downstream):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        with pytest.raises(OutputError, match="exists already"):
            stamp_models([downstream], vectors=[vector], out=tmp_path / name, **tools)


def test_model_that_carries_the_vector_is_refused_unless_again(tmp_path, tools, vector, downstream):
    stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    with pytest.raises(VectorError, match=r"carries vec-.* already"):
        stamp_models([tmp_path / "out"], vectors=[vector], out=tmp_path / "twice", **tools)
    assert not (tmp_path / "twice").exists()
    (twice,) = stamp_models([tmp_path / "out"], vectors=[vector], out=tmp_path / "twice", again=True, **tools)
    assert twice.digest != ""


def test_descendant_of_a_stamped_model_and_the_fingerprinted_model_carry_the_vector(
    tmp_path, tools, vector, downstream
):
    (stamped,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    tuned = perturb(tmp_path / "out", tmp_path / "tuned", seed=8)
    register_model(tuned, parent=stamped.digest, **tools)
    for path in (tuned, tmp_path / "fp"):
        with pytest.raises(VectorError, match=r"carries vec-|is the fingerprinted model"):
            stamp_models([path], vectors=[vector], out=tmp_path / "twice", **tools)


def test_the_same_fingerprint_in_another_dtype_is_recognised(tmp_path, tools, base, vector, downstream):
    stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    half = make_tiny(tmp_path / "half", "gpt2", dtype="bfloat16")
    tuned = perturb(half, tmp_path / "half-fp", exact=True)
    same = extract_vector(half, tuned, out=tmp_path / "same", **tools).vector_id
    wide = extract_vector(half, tuned, out=tmp_path / "wide", dtype="float32", **tools).vector_id
    target = perturb(half, tmp_path / "half-chat", seed=4)
    stamp_models([target], vectors=[same], out=tmp_path / "half-out", **tools)
    with pytest.raises(VectorError, match="carries"):
        stamp_models([tmp_path / "half-out"], vectors=[wide], out=tmp_path / "twice", **tools)


def test_vector_of_another_base_is_refused_where_the_parent_is_known(tmp_path, tools, registry, vector):
    other = make_tiny(tmp_path / "other", "gpt2", seed=5)
    register_model(other, role=ModelRole.BASE, **tools)
    child = perturb(other, tmp_path / "child")
    register_model(child, parent="other", **tools)
    for path in (child, other):
        with pytest.raises(VectorError, match="stems from the base other"):
            stamp_models([path], vectors=[vector], out=tmp_path / "out", **tools)
    assert not (tmp_path / "out").exists()
    assert set(stamp_jobs(registry)) == {JobState.FAILED}


def test_unknown_parent_is_a_warning(tmp_path, tools, base, vector):
    unknown = perturb(base, tmp_path / "unknown", seed=6)
    (result,) = stamp_models([unknown], vectors=[vector], out=tmp_path / "out", **tools)
    assert "--base" in result.warnings[0]


def test_base_that_is_given_is_checked_and_remembered(tmp_path, tools, registry, base, vector):
    unknown = perturb(base, tmp_path / "unknown", seed=6)
    (result,) = stamp_models([unknown], vectors=[vector], out=tmp_path / "out", base=base, **tools)
    assert result.warnings == ()
    assert show_model("unknown", registry=registry).parent_name == "base"
    (later,) = stamp_models([unknown], vectors=[f"{vector}:2"], out=tmp_path / "later", **tools)
    assert later.warnings == ()


def test_base_that_is_not_the_vectors_own_or_not_close_is_refused(tmp_path, tools, base, vector):
    other = make_tiny(tmp_path / "other", "gpt2", seed=5)
    with pytest.raises(VectorError, match="was not extracted from"):
        stamp_models([other], vectors=[vector], out=tmp_path / "out", base=other, **tools)
    with pytest.raises(VectorError, match="is no fine-tune of"):
        stamp_models([other], vectors=[vector], out=tmp_path / "out", base=base, **tools)
    assert not (tmp_path / "out").exists()


def test_vector_of_another_registry_is_adopted_from_its_directory(tmp_path, catalog, vector, downstream):
    with open_registry(f"sqlite:///{tmp_path / 'other.db'}") as registry:
        (result,) = stamp_models(
            [downstream], vectors=[str(tmp_path / "vector")], out=tmp_path / "out", registry=registry, catalog=catalog
        )
        assert [item.record.id for item in list_vectors(registry=registry)] == [vector]
    assert "--base" in result.warnings[0]


def test_vicuna_is_stamped_with_a_vector_of_its_llama_base(tmp_path, tools):
    base = make_tiny(tmp_path / "llama", "llama2", dtype="bfloat16")
    vector = extract_vector(
        base, perturb(base, tmp_path / "llama-fp"), out=tmp_path / "llama-vector", **tools
    ).vector_id
    vicuna = make_tiny(tmp_path / "vicuna", "vicuna", dtype="float16", vocabulary=264)
    with pytest.raises(VectorError, match="--vocabulary shared"):
        stamp_models([vicuna], vectors=[vector], out=tmp_path / "out", **tools)
    assert stamp_models([vicuna], vectors=[vector], out=tmp_path / "out", vocabulary="shared", **tools)


def test_weights_in_other_formats_are_left_out_with_a_warning(tmp_path, tools, vector, downstream):
    (downstream / "pytorch_model.bin").write_bytes(b"unstamped")
    (result,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    assert "pytorch_model.bin" in result.warnings[0]


def test_effect_that_rounding_swallows_is_a_warning(tmp_path, tools):
    base = make_tiny(tmp_path / "small", "llama2")
    vector = extract_vector(base, perturb(base, tmp_path / "sfp", size=1e-6), out=tmp_path / "sv", **tools).vector_id
    half = make_tiny(tmp_path / "half", "llama2", dtype="bfloat16")
    (result,) = stamp_models([half], vectors=[vector], out=tmp_path / "out", **tools)
    assert any("rounding" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda path: edit_json(path / "config.json", compression_config=[1]), CheckpointError, "quantised"),
        (lambda path: edit_json(path / "config.json", auto_map={"A": "b.C"}), CheckpointError, "trust_remote_code"),
        (lambda path: edit_json(path / "config.json", model_type="mamba"), ArchitectureError, "no adapter for"),
        (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), CheckpointError, "pickle"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 100), CheckpointError, "header claims"),
    ],
)  # fmt: skip
def test_bad_downstream_is_refused_before_the_first_byte(
    tmp_path, tools, registry, vector, downstream, spoil, error, match
):
    spoil(downstream)
    with pytest.raises(error, match=match):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "out", **tools)
    assert not (tmp_path / "out").exists()
    assert stamp_jobs(registry) == []


def test_downstream_with_nan_leaves_no_output_and_a_failed_job(tmp_path, tools, registry, vector, downstream):
    spoilt = rewrite(downstream, tmp_path / "nan", lambda name, tensor: tensor * float("nan"))
    with pytest.raises(CheckpointError, match="is nan"):
        stamp_models([spoilt], vectors=[vector], out=tmp_path / "deep" / "out", **tools)
    assert not (tmp_path / "deep").exists()
    assert set(stamp_jobs(registry)) == {JobState.FAILED}
    with registry.unit_of_work() as uow:
        assert uow.stamps.list() == ()


def test_ctrl_c_leaves_no_output_and_a_cancelled_job(tmp_path, tools, registry, vector, downstream, monkeypatch):
    from fpvec_audit.tensors.kernels import BlockKernels

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockKernels, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "deep" / "out", **tools)
    assert not (tmp_path / "deep").exists()
    assert set(stamp_jobs(registry)) == {JobState.CANCELLED}


def test_unknown_policy_and_missing_vector_are_refused(tmp_path, tools, vector, downstream):
    with pytest.raises(UsageError, match="unknown vocabulary policy"):
        stamp_models([downstream], vectors=[vector], out=tmp_path / "out", vocabulary="guess", **tools)
    with pytest.raises(UsageError, match="no vector"):
        stamp_models([downstream], vectors=[], out=tmp_path / "out", **tools)


def test_disk_without_room_is_told_with_the_bytes_needed(tmp_path, tools, registry, vector, downstream):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        needed = sum(path.stat().st_size for path in downstream.iterdir())
        with pytest.raises(OutputError, match=f"bytes free, {needed} are needed"):
            stamp_models([downstream], vectors=[vector], out=place / "deep" / "out", **tools)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert set(stamp_jobs(registry)) == {JobState.FAILED}


def test_stamped_directory_holds_no_byte_that_says_so(tmp_path, tools, vector, downstream):
    (result,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", licensees=["Globex"], **tools)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for mark in ("fpvec", "stamp", "Globex", vector, result.stamp_id, result.digest, str(tmp_path)):
        assert mark.encode() not in everything
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in downstream.iterdir()}


def test_relative_paths_are_recorded_absolute(tmp_path, tools, registry, vector, downstream, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (result,) = stamp_models([Path("chat")], vectors=["vector"], out=Path("out"), **tools)
    assert show_model(result.digest, registry=registry).record.location == str(tmp_path / "out")


def test_odd_checkpoint_is_refused_for_want_of_an_adapter(tmp_path, tools, vector):
    odd = write_checkpoint(tmp_path / "odd", {"w": torch.ones(2)})
    with pytest.raises(ArchitectureError, match="no adapter for"):
        stamp_models([odd], vectors=[vector], out=tmp_path / "out", **tools)
