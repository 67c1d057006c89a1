import os

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.services.digested import VECTOR, look_at
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.models import identify_model, register_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.tensors import delta as delta_module
from fpvec_audit.tensors import file_state
from fpvec_audit.tensors import stamp as stamp_module
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.vector_files import read_vector
from tests.tiny import edit_json, make_tiny, perturb, rewrite


@pytest.fixture
def model(tmp_path):
    return make_tiny(tmp_path / "model", "gpt2", sharded=True)


@pytest.fixture
def old(monkeypatch):
    """Let files that were just made count as settled."""
    monkeypatch.setattr(file_state, "SETTLED_SECONDS", -1.0)


def known(registry, path):
    with registry.unit_of_work() as uow:
        return look_at(read_checkpoint(path), "gpt2").known_digest(uow)


def remember(registry, path):
    catalog = load_catalog()
    digest = register_model(path, registry=registry, catalog=catalog).record.id
    with registry.unit_of_work() as uow:
        look_at(read_checkpoint(path), "gpt2").remember(uow, digest)
    return digest


def test_unchanged_files_are_known_with_all_their_tensors(registry, model, old):
    assert known(registry, model) is None
    digest = remember(registry, model)
    assert known(registry, model) == digest
    with registry.unit_of_work() as uow:
        manifest = look_at(read_checkpoint(model), "gpt2").known_manifest(uow)
    assert manifest == identify_model(model, catalog=load_catalog()).manifest


@pytest.mark.parametrize("restore_times", [False, True])
def test_any_write_makes_them_unknown_even_with_the_old_times(registry, model, old, restore_times):
    remember(registry, model)
    file = sorted(model.glob("*.safetensors"))[0]
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    if restore_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known(registry, model) is None


def test_replaced_file_other_adapter_and_other_configuration_make_them_unknown(registry, model, old, tmp_path):
    remember(registry, model)
    with registry.unit_of_work() as uow:
        assert look_at(read_checkpoint(model), "llama2").known_digest(uow) is None
    copy = rewrite(model, tmp_path / "copy", lambda _, tensor: tensor)
    assert known(registry, copy) is None
    edit_json(model / "config.json", tie_word_embeddings=False)
    assert known(registry, model) is None


def test_files_that_were_just_written_are_not_believed(registry, model):
    remember(registry, model)
    assert known(registry, model) is None


def test_files_that_changed_while_they_were_read_are_not_remembered(registry, model, old):
    catalog = load_catalog()
    digest = register_model(model, registry=registry, catalog=catalog).record.id
    files = look_at(read_checkpoint(model), "gpt2")
    os.utime(sorted(model.glob("*.safetensors"))[0])
    with registry.unit_of_work() as uow:
        files.remember(uow, digest)
    assert known(registry, model) is None


def test_file_that_is_gone_is_refused(model):
    checkpoint = read_checkpoint(model)
    sorted(model.glob("*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        look_at(checkpoint, "gpt2")


def test_vector_that_was_just_extracted_is_known(registry, tmp_path, model, monkeypatch):
    monkeypatch.setattr(file_state, "OWN_SETTLED_SECONDS", -1.0)
    catalog = load_catalog()
    result = extract_vector(
        model, perturb(model, tmp_path / "fp"), out=tmp_path / "vector", registry=registry, catalog=catalog
    )
    with registry.unit_of_work() as uow:
        assert look_at(read_vector(tmp_path / "vector").files, VECTOR).known_digest(uow) is None
    monkeypatch.setattr(file_state, "SETTLED_SECONDS", -1.0)
    with registry.unit_of_work() as uow:
        assert look_at(read_vector(tmp_path / "vector").files, VECTOR).known_digest(uow) == result.vector.digest


def test_stamp_of_known_files_gives_the_same_digests_without_hashing_them(registry, tmp_path, model, old, monkeypatch):
    monkeypatch.setattr(file_state, "OWN_SETTLED_SECONDS", -1.0)
    catalog = load_catalog()
    tools = {"registry": registry, "catalog": catalog}
    extract_vector(model, perturb(model, tmp_path / "fp"), out=tmp_path / "vector", **tools)
    register_model(model, **tools)
    order = {"vectors": [str(tmp_path / "vector")], **tools}
    hashed = []
    run = stamp_module.run

    def count(works, **options):
        hashed.append(sum(len(work.hashed) for work in works))
        run(works, **options)

    monkeypatch.setattr(stamp_module, "run", count)
    (known,) = stamp_models([model], out=tmp_path / "known", **order)
    (reread,) = stamp_models([model], out=tmp_path / "reread", reread=True, **order)
    assert (known.digest, known.downstream_digest) == (reread.digest, reread.downstream_digest)
    assert hashed[1] == 3 * hashed[0]


def test_vector_that_was_tampered_with_is_refused_although_it_was_known(registry, tmp_path, model, old, monkeypatch):
    monkeypatch.setattr(file_state, "OWN_SETTLED_SECONDS", -1.0)
    tools = {"registry": registry, "catalog": load_catalog()}
    extract_vector(model, perturb(model, tmp_path / "fp"), out=tmp_path / "vector", **tools)
    file = tmp_path / "vector" / "vector.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(VectorError, match="the tensors are not those that vec-"):
        stamp_models([model], vectors=[str(tmp_path / "vector")], out=tmp_path / "out", **tools)


def test_vector_of_known_models_is_the_same_without_hashing_them(registry, tmp_path, model, old, monkeypatch):
    monkeypatch.setattr(file_state, "OWN_SETTLED_SECONDS", -1.0)
    tools = {"registry": registry, "catalog": load_catalog()}
    fingerprinted = perturb(model, tmp_path / "fp")
    hashed = []
    run = delta_module.run

    def count(works, **options):
        hashed.append(sum(len(work.hashed) for work in works))
        run(works, **options)

    monkeypatch.setattr(delta_module, "run", count)
    new, known, reread = (
        extract_vector(model, fingerprinted, out=tmp_path / name, reread=name == "reread", **tools)
        for name in ("new", "known", "reread")
    )
    assert new.vector == known.vector == reread.vector
    assert hashed == [3 * hashed[1], hashed[1], 3 * hashed[1]]


def test_vector_of_a_model_that_changed_is_read_anew(registry, tmp_path, model, old):
    tools = {"registry": registry, "catalog": load_catalog()}
    fingerprinted = perturb(model, tmp_path / "fp")
    first = extract_vector(model, fingerprinted, out=tmp_path / "first", **tools)
    changed = perturb(model, tmp_path / "other", seed=2)
    for file in fingerprinted.glob("*.safetensors"):
        file.write_bytes((changed / file.name).read_bytes())
    second = extract_vector(model, fingerprinted, out=tmp_path / "second", **tools)
    assert second.vector.base_digest == first.vector.base_digest
    assert second.vector.fingerprinted_digest == identify_model(changed, catalog=tools["catalog"]).digest
