"""A checkpoint is recognised from what is left of it."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.errors import CheckpointError
from fpvec_audit.registry.repositories import sketches
from fpvec_audit.services.models import register_model
from fpvec_audit.services.recognition import recognise_model
from tests.registry.builders import stamp_record, vector_record
from tests.tiny import make_tiny, rewrite, tensors_of


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture
def family(tmp_path, tools, registry):
    """A base, and a sharded copy of it for Bob that shares no tensor with it."""
    base = make_tiny(tmp_path / "base", "llama2")
    copy = make_tiny(tmp_path / "copy", "llama2", seed=7, sharded=True)
    parent = register_model(base, role=ModelRole.BASE, **tools).record
    stamped = register_model(copy, role=ModelRole.STAMPED, parent="base", **tools).record
    with registry.unit_of_work() as uow:
        uow.vectors.add(vector_record(base=parent.id, fingerprinted=stamped.id))
        uow.stamps.add(stamp_record(downstream=parent.id, stamped=stamped.id))
    return base, copy


def found(path, tools):
    return recognise_model(path, **tools).to_json()


def test_whole_checkpoint_is_named_with_its_stamp_and_lineage(family, tools, tmp_path):
    elsewhere = shutil.copytree(family[1], tmp_path / "found")
    (match,) = found(elsewhere, tools)["matches"]
    assert (match["name"], match["exact"], match["share"], match["share_of_model"]) == ("copy", True, 1.0, 1.0)
    assert [stamp["licensee"] for stamp in match["stamps"]] == ["Bob"]
    assert match["stamps"][0]["downstream_name"] == "base"
    assert match["base"]["name"] == "base"
    assert [model["name"] for model in match["lineage"]] == ["copy", "base"]


def test_single_shards_are_recognised(family, tools):
    shards = sorted(family[1].glob("*.safetensors"))
    assert len(shards) > 2
    recognised = 0
    for shard in shards:
        document = found(shard, tools)
        assert document["warnings"][0] == f"only {shard.name} was read"
        for match in document["matches"]:
            recognised += 1
            assert (match["name"], match["exact"], match["share"]) == ("copy", False, 1.0)
            assert 0 < match["share_of_model"] < 1
            assert match["missing"] == match["model_tensors"] - document["tensors"]
    # A shard of two matrices is less than a fifth of two layers, and may hold no counted tensor.
    assert recognised >= len(shards) - 1


def test_missing_and_damaged_shards_are_named_and_the_rest_is_recognised(family, tools):
    shards = sorted(family[1].glob("*.safetensors"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-10])
    document = found(family[1], tools)
    assert document["matches"][0]["name"] == "copy"
    assert any(shards[0].name in note and "missing" in note for note in document["warnings"])
    assert any(shards[1].name in note and "left out" in note for note in document["warnings"])


def test_without_configuration_the_tensors_still_tell(family, tools):
    (family[1] / "config.json").unlink()
    match = found(family[1], tools)["matches"][0]
    assert (match["name"], match["share"], match["share_of_model"]) == ("copy", 1.0, 1.0)


def test_model_with_code_of_its_own_is_read_as_nothing_is_run(family, tools):
    config = json.loads((family[1] / "config.json").read_text())
    (family[1] / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    assert found(family[1], tools)["matches"][0]["name"] == "copy"


def test_other_names_are_seen_through(family, tools):
    tensors = {name.replace("model.", "backbone."): tensor for name, tensor in tensors_of(family[0]).items()}
    save_file(tensors, family[0] / "model.safetensors", metadata={"format": "pt"})
    match = found(family[0], tools)["matches"][0]
    assert (match["name"], match["exact"], match["share"]) == ("base", False, 1.0)
    assert match["renamed"] > 10
    assert match["changed"] == match["missing"] == 0


@pytest.mark.parametrize("kept", ["embed", "layers.0", "layers.1", "mlp", "self_attn"])
def test_what_retraining_left_alone_is_enough(family, tools, tmp_path, kept):
    changed = rewrite(family[0], tmp_path / "changed", lambda name, tensor: tensor if kept in name else tensor + 1)
    match = found(changed, tools)["matches"][0]
    assert match["name"] == "base"
    assert 0 < match["share"] < 1
    assert match["changed"] > 0
    assert all(kept not in name for name in match["first_changed"])


def test_tensors_of_two_models_name_both_the_larger_share_first(family, tools, tmp_path):
    base, copy = family
    other = tensors_of(copy)
    merged = rewrite(base, tmp_path / "merged", lambda name, tensor: other[name] if "layers.1" in name else tensor)
    matches = found(merged, tools)["matches"]
    assert [match["name"] for match in matches] == ["base", "copy"]
    assert matches[0]["share"] + matches[1]["share"] == pytest.approx(1)


def test_stranger_is_said_to_be_one(family, tools, tmp_path):
    document = found(make_tiny(tmp_path / "stranger", "gpt2", seed=99), tools)
    assert document["recognised"] is False
    assert document["matches"] == []
    assert "fpvec trace" in document["warnings"][-1]


def test_nothing_that_can_be_read_is_refused(tools, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        found(tmp_path / "nowhere", tools)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no safetensors"):
        found(tmp_path / "empty", tools)


def test_rare_tensors_name_a_model_among_many_that_share_a_common_one(family, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(sketches, "FEW", 1)
    base, shared = tensors_of(family[0]), "model.embed_tokens.weight"
    other = rewrite(
        make_tiny(tmp_path / "another", "llama2", seed=11),
        tmp_path / "other",
        lambda name, tensor: base[name] if name == shared else tensor,
    )
    register_model(other, **tools)
    other = rewrite(other, tmp_path / "tuned", lambda name, tensor: tensor + ("layers.0" in name))
    document = found(other, tools)
    assert document["matches"][0]["name"] == "other"
    assert any("so many models share 1 " in note for note in document["warnings"])
