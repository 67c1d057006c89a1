import re

import pytest
import torch
from safetensors.torch import save_file

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.errors import CheckpointError, UnknownNameError, UsageError
from fpvec_audit.services.models import identify_model, list_models, register_model, show_model, verify_model
from tests.tiny import ARCHITECTURES, make_tiny, perturb, rewrite, tensors_of, write_checkpoint


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_model_is_registered_by_digest_with_its_architecture(tmp_path, tools, registry, architecture):
    model = register_model(make_tiny(tmp_path / "model", architecture), role=ModelRole.BASE, **tools)
    shown = show_model(model.record.id[:8], registry=registry)
    assert shown.to_json() == {
        "id": model.record.id,
        "name": "model",
        "role": "base",
        "architecture": architecture,
        "location": str(tmp_path / "model"),
        "parent": None,
        "parent_name": None,
        "parameters": model.record.parameters,
        "created_at": "2026-01-02T03:04:05+00:00",
        "stamps": [],
    }


def test_the_same_weights_elsewhere_are_the_same_model(tmp_path, tools, registry):
    first = register_model(make_tiny(tmp_path / "one", "gpt2"), name="mine", **tools)
    again = register_model(make_tiny(tmp_path / "two", "gpt2", sharded=True, prefix=False), **tools)
    assert again.record.id == first.record.id
    assert again.record.name == "mine"
    assert again.record.location == str(tmp_path / "two")
    assert len(list_models(registry=registry)) == 1


def test_directories_of_one_name_get_numbered_names(tmp_path, tools):
    register_model(make_tiny(tmp_path / "a" / "model", "gpt2"), **tools)
    assert register_model(make_tiny(tmp_path / "b" / "model", "bloom"), **tools).record.name == "model-2"
    with pytest.raises(UsageError, match="exists already"):
        register_model(make_tiny(tmp_path / "c", "llama2"), name="model", **tools)


def test_parent_is_found_by_name_id_or_directory(tmp_path, tools):
    base = make_tiny(tmp_path / "base", "gpt2")
    parent = register_model(base, role=ModelRole.BASE, **tools).record
    for number, reference in enumerate(("base", parent.id[:10], str(base))):
        child = register_model(perturb(base, tmp_path / f"child{number}", seed=number), parent=reference, **tools)
        assert (child.record.parent, child.parent_name) == (parent.id, "base")


def test_unknown_parent_is_refused_with_the_nearest_name(tmp_path, tools):
    register_model(make_tiny(tmp_path / "base-model", "gpt2"), **tools)
    with pytest.raises(UnknownNameError, match="did you mean base-model"):
        register_model(make_tiny(tmp_path / "child", "bloom"), parent="base-modle", **tools)
    stranger = make_tiny(tmp_path / "stranger", "llama2")
    with pytest.raises(UnknownNameError, match="stranger"):
        register_model(make_tiny(tmp_path / "child2", "bloom"), parent=str(stranger), **tools)


def test_unknown_architecture_is_registered_under_stored_names(tmp_path, tools):
    model = register_model(write_checkpoint(tmp_path / "odd", {"w": torch.ones(2)}), **tools)
    assert model.record.architecture == ""
    assert model.to_json()["architecture"] is None


def test_named_architecture_overrides_detection_and_must_exist(tmp_path, tools):
    model = make_tiny(tmp_path / "model", "vicuna")
    assert register_model(model, architecture="llama2", **tools).record.architecture == "llama2"
    with pytest.raises(UnknownNameError, match="did you mean llama2"):
        register_model(model, architecture="lama2", **tools)


def test_models_are_listed_by_role(tmp_path, tools, registry):
    base = make_tiny(tmp_path / "base", "gpt2")
    register_model(base, role=ModelRole.BASE, **tools)
    register_model(perturb(base, tmp_path / "suspect"), role=ModelRole.SUSPECT, **tools)
    assert [model.record.name for model in list_models(registry=registry, role=ModelRole.SUSPECT)] == ["suspect"]
    assert {model.record.name for model in list_models(registry=registry)} == {"base", "suspect"}


def test_broken_model_is_not_registered(tmp_path, tools, registry):
    with pytest.raises(CheckpointError):
        register_model(tmp_path / "absent", **tools)
    assert list_models(registry=registry) == []


def test_any_change_of_weights_is_another_model(tmp_path, catalog):
    model = make_tiny(tmp_path / "model", "gpt2")
    changed = rewrite(
        model, tmp_path / "changed", lambda name, tensor: -tensor if name.endswith("ln_f.bias") else tensor
    )
    assert identify_model(model, catalog=catalog).digest != identify_model(changed, catalog=catalog).digest


def test_model_is_verified_where_it_lies_or_lay(tmp_path, registry, catalog):
    path = make_tiny(tmp_path / "chat", "gpt2")
    record = register_model(path, registry=registry, catalog=catalog).record
    for reference in ("chat", record.id[:12], str(path)):
        result = verify_model(reference, registry=registry, catalog=catalog)
        assert (result.intact, result.difference, result.digest) == (True, None, record.id)
    moved = path.rename(tmp_path / "moved")
    assert verify_model("chat", path=moved, registry=registry, catalog=catalog).intact


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda tensors: tensors["transformer.h.1.ln_1.bias"].view(-1)[3:4].add_(1), "h.1.ln_1.bias has other numbers"),
        (lambda tensors: tensors.pop("transformer.wpe.weight"), "transformer.wpe.weight is missing"),
        (lambda tensors: tensors.update({"transformer.a": torch.ones(1)}), "transformer.a is new"),
        (
            lambda tensors: tensors.update({"transformer.ln_f.bias": tensors["transformer.ln_f.bias"].bfloat16()}),
            r"transformer.ln_f.bias is BF16 \[\d+\], it was F32",
        ),
    ],
    ids=["bit", "missing", "new", "dtype"],
)
def test_first_tensor_that_differs_is_named(tmp_path, registry, catalog, change, difference):
    path = make_tiny(tmp_path / "chat", "gpt2")
    register_model(path, registry=registry, catalog=catalog)
    tensors = {name: tensor.clone() for name, tensor in tensors_of(path).items()}
    change(tensors)
    save_file(tensors, path / "model.safetensors")
    result = verify_model("chat", registry=registry, catalog=catalog)
    assert not result.intact
    assert re.search(difference, result.difference)
    assert result.to_json()["intact"] is False


def test_model_of_an_older_registry_is_verified_as_a_whole(tmp_path, registry, catalog):
    path = make_tiny(tmp_path / "chat", "gpt2")
    record = register_model(path, registry=registry, catalog=catalog).record
    with registry.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM model_manifest")
    assert verify_model("chat", registry=registry, catalog=catalog).intact
    rewritten = rewrite(path, tmp_path / "other", lambda _, tensor: tensor * 2)
    assert "were not recorded" in verify_model(record.id, path=rewritten, registry=registry, catalog=catalog).difference


def test_unknown_model_is_not_verified(registry, catalog):
    with pytest.raises(UnknownNameError):
        verify_model("nobody", registry=registry, catalog=catalog)
