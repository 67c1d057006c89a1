import json

import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.errors import CheckpointError, OutputError, UsageError, VectorError
from fpvec_audit.services.extract import extract_vector
from fpvec_audit.services.models import register_model, show_model
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.unstamp import unstamp_model
from tests.lora import loaded, make_adapter, with_adapter
from tests.tiny import PLAIN_TEMPLATE, edit_json, make_tiny, make_tokenizer, perturb, tensors_of


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
    return extract_vector(base, perturb(base, tmp_path / "fp"), out=tmp_path / "vector", **tools).vector_id


@pytest.fixture
def chat(tmp_path, base, vector, tools):
    """Return a fine-tune of the base, which is the base of an adapter."""
    path = perturb(base, tmp_path / "chat", seed=2)
    register_model(path, parent="base", **tools)
    return path


@pytest.fixture
def lora(tmp_path, chat):
    path = make_adapter(chat, tmp_path / "lora", "gpt2")
    make_tokenizer(PLAIN_TEMPLATE).save_pretrained(path)
    return path


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def answers(model):
    with torch.no_grad():
        return model(torch.arange(20).view(2, 10)).logits


def test_kept_adapter_lies_beside_its_stamped_base(tmp_path, tools, vector, chat, lora):
    (plain,) = stamp_models([chat], vectors=[vector], out=tmp_path / "plain", **tools)
    (result,) = stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="keep", **tools)
    assert (result.digest, result.downstream_digest) == (plain.digest, plain.downstream_digest)
    assert result.stamp_id != plain.stamp_id
    assert contents(tmp_path / "out" / "adapter") == contents(lora)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == PLAIN_TEMPLATE
    assert (tmp_path / "out" / "config.json").read_bytes() == (chat / "config.json").read_bytes()
    ours = answers(with_adapter(tmp_path / "out", tmp_path / "out" / "adapter"))
    assert torch.equal(ours, answers(with_adapter(tmp_path / "plain", lora)))
    assert not torch.allclose(ours, answers(with_adapter(chat, lora)))
    assert not torch.allclose(ours, answers(loaded(tmp_path / "plain")))


def test_merged_adapter_is_in_the_weights_and_nowhere_else(tmp_path, tools, vector, chat, lora):
    (result,) = stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    (plain,) = stamp_models([chat], vectors=[vector], out=tmp_path / "plain", **tools)
    assert result.downstream_digest == plain.downstream_digest
    assert result.digest != plain.digest
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(path.name for path in chat.iterdir()), "chat_template.jinja"
    }  # fmt: skip
    ours = answers(loaded(tmp_path / "out"))
    assert torch.allclose(ours, answers(with_adapter(tmp_path / "plain", lora)), atol=1e-5)


@pytest.mark.parametrize("mode", ["keep", "merge"])
def test_record_names_base_and_adapter(tmp_path, tools, registry, vector, chat, lora, mode):
    (result,) = stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter=mode, **tools)
    document = json.loads(json.dumps(result.to_json()))
    assert (document["adapter"], document["adapter_base"]) == (mode, str(chat))
    assert f"is {chat}, named in its adapter_config.json" in result.warnings[0]
    with registry.unit_of_work() as uow:
        record = uow.stamps.get(result.stamp_id)
    assert record.policies["adapter"] == mode
    assert record.policies["adapter_digest"] == document["adapter_digest"]
    model = show_model(result.digest, registry=registry).to_json()
    assert (model["role"], model["parent_name"]) == ("stamped", "chat")
    with pytest.raises(VectorError, match="of a base and an adapter"):
        unstamp_model(tmp_path / "out", stamp=result.stamp_id, out=tmp_path / "again", **tools)


@pytest.mark.parametrize("mode", ["keep", "merge"])
def test_the_same_stamp_recognises_itself_and_another_adapter_is_another(tmp_path, tools, vector, chat, lora, mode):
    order = {"vectors": [vector], "out": tmp_path / "out", "adapter": mode}
    (first,) = stamp_models([lora], **order, **tools)
    (again,) = stamp_models([lora], **order, **tools)
    assert (first.already, again.already) == (False, True)
    assert (again.stamp_id, again.adapter_digest) == (first.stamp_id, first.adapter_digest)
    edit_json(lora / "adapter_config.json", lora_alpha=12)
    with pytest.raises(OutputError, match=f"is not this stamp of {lora}"):
        stamp_models([lora], **order, **tools)
    (other,) = stamp_models([lora], **(order | {"out": tmp_path / "other"}), **tools)
    assert other.stamp_id != first.stamp_id


def test_changed_kept_adapter_is_not_the_same_stamp(tmp_path, tools, vector, lora):
    order = {"vectors": [vector], "out": tmp_path / "out", "adapter": "keep"}
    stamp_models([lora], **order, **tools)
    edit_json(tmp_path / "out" / "adapter" / "adapter_config.json", lora_alpha=12)
    with pytest.raises(OutputError, match="is not this stamp"):
        stamp_models([lora], **order, **tools)


def test_adapter_is_refused_until_it_is_said_what_becomes_of_it(tmp_path, tools, vector, chat, lora):
    with pytest.raises(UsageError, match="is an adapter, not a whole model") as caught:
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", **tools)
    assert "--adapter keep" in caught.value.advice
    assert "--adapter merge" in caught.value.advice
    with pytest.raises(UsageError, match="unknown adapter mode 'fuse'"):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="fuse", **tools)
    with pytest.raises(UsageError, match="none of the downstream models is an adapter"):
        stamp_models([chat], vectors=[vector], out=tmp_path / "out", adapter="keep", **tools)
    with pytest.raises(CheckpointError, match="--adapter keep"):
        register_model(lora, **tools)


def test_base_is_looked_for_beside_the_adapter_then_here_then_given(tmp_path, tools, vector, chat, lora, monkeypatch):
    edit_json(lora / "adapter_config.json", base_model_name_or_path="../chat")
    (beside,) = stamp_models([lora], vectors=[vector], out=tmp_path / "beside", adapter="merge", **tools)
    edit_json(lora / "adapter_config.json", base_model_name_or_path="chat")
    with pytest.raises(UsageError, match="'chat', is no directory here"):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        (here,) = stamp_models([lora], vectors=[vector], out=tmp_path / "here", adapter="merge", **tools)
    edit_json(lora / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(UsageError, match="names no base"):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    (given,) = stamp_models([lora], vectors=[vector], out=tmp_path / "given", adapter="merge", base=chat, **tools)
    assert beside.digest == here.digest == given.digest
    assert "given with --base" in given.warnings[0]
    assert len(given.warnings) == 1


def test_base_that_is_found_is_compared_with_the_one_that_is_given(tmp_path, tools, registry, base, vector):
    chat = perturb(base, tmp_path / "chat", seed=2)
    lora = make_adapter(chat, tmp_path / "lora", "gpt2")
    order = {"vectors": [vector], "adapter": "merge"}
    (unknown,) = stamp_models([lora], out=tmp_path / "unknown", **order, **tools)
    assert any("nothing says that chat was made from" in warning for warning in unknown.warnings)
    (known,) = stamp_models([lora], out=tmp_path / "known", base=base, **order, **tools)
    assert not any("nothing says" in warning for warning in known.warnings)
    assert show_model("chat", registry=registry).parent_name == "base"
    with pytest.raises(VectorError, match="was not extracted from"):
        stamp_models([lora], out=tmp_path / "out", base=chat, **order, **tools)


def test_adapter_of_the_vector_s_base_itself_needs_no_other_base(tmp_path, tools, base, vector):
    lora = make_adapter(base, tmp_path / "lora", "gpt2")
    (result,) = stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    assert len(result.warnings) == 1


def test_base_that_carries_the_vector_is_refused(tmp_path, tools, vector, chat, lora):
    stamp_models([chat], vectors=[vector], out=tmp_path / "stamped", **tools)
    edit_json(lora / "adapter_config.json", base_model_name_or_path=str(tmp_path / "stamped"))
    with pytest.raises(VectorError, match="carries"):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    assert not (tmp_path / "out").exists()


def test_quantised_base_and_adapter_of_an_adapter_are_refused(tmp_path, tools, vector, chat, lora):
    edit_json(chat / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match="is quantised"):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    second = make_adapter(tmp_path / "base", tmp_path / "second", "gpt2")
    edit_json(second / "adapter_config.json", base_model_name_or_path="../lora")
    with pytest.raises(CheckpointError, match="is an adapter, too"):
        stamp_models([second], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)


def test_several_copies_are_named_after_the_adapters(tmp_path, tools, vector, chat, lora):
    other = make_adapter(chat, tmp_path / "other", "gpt2", seed=9)
    results = stamp_models(
        [lora, other, chat], vectors=[vector], out=tmp_path / "out", licensees=["A", "B"], adapter="merge",
        file_digests=True, **tools
    )  # fmt: skip
    assert [item.out.name for item in results] == ["lora-A", "lora-B", "other-A", "other-B", "chat-A", "chat-B"]
    assert len({item.digest for item in results}) == 3
    assert [item.adapter for item in results] == ["merge"] * 4 + [None] * 2
    alone = stamp_models([other], vectors=[vector], out=tmp_path / "alone", adapter="merge", **tools)
    assert alone[0].digest == results[2].digest


def test_file_digests_cover_the_kept_adapter(tmp_path, tools, vector, lora):
    order = {"vectors": [vector], "out": tmp_path / "out", "adapter": "keep"}
    (result,) = stamp_models([lora], file_digests=True, **order, **tools)
    assert result.file_digests.keys() == contents(tmp_path / "out").keys()


def test_kept_adapter_with_tensors_of_its_own_is_told(tmp_path, tools, vector, chat):
    lora = make_adapter(chat, tmp_path / "lora", "gpt2", modules_to_save=["ln_f"])
    order = {"vectors": [vector], "adapter": "keep"}
    (kept,) = stamp_models([lora], out=tmp_path / "kept", **order, **tools)
    assert any("transformer.ln_f.weight" in warning and "--adapter merge" in warning for warning in kept.warnings)
    assert any("is not stamped: load the stamped model first" in warning for warning in kept.warnings)


@pytest.mark.parametrize("change", [None, "adapter"])
def test_interrupted_merge_is_gone_on_with_unless_the_adapter_changed(
    tmp_path, tools, vector, lora, monkeypatch, change
):
    from fpvec_audit.tensors import staging, stamp_journal

    (whole,) = stamp_models([lora], vectors=[vector], out=tmp_path / "whole", adapter="merge", **tools)
    add, noted = stamp_journal.StampJournal.add, []

    def die(journal, tensor):
        noted.append(tensor)
        add(journal, tensor)
        if len(noted) == 5:
            raise KeyboardInterrupt

    order = {"vectors": [vector], "out": tmp_path / "out", "adapter": "merge"}
    with monkeypatch.context() as patch:
        patch.setattr(stamp_journal.StampJournal, "add", die)
        patch.setattr(staging.shutil, "rmtree", lambda *_, **__: None)  # as if the process was killed
        with pytest.raises(KeyboardInterrupt):
            stamp_models([lora], **order, **tools)
    if change:
        (lora / "adapter_model.safetensors").write_bytes(
            (
                make_adapter(tmp_path / "chat", tmp_path / "new", "gpt2", seed=8) / "adapter_model.safetensors"
            ).read_bytes()
        )
    (result,) = stamp_models([lora], resume=True, **order, **tools)
    assert (result.resumed > 0) is (change is None)
    assert (result.digest == whole.digest) is (change is None)


@pytest.mark.parametrize("mode", ["keep", "merge"])
def test_stamped_directory_holds_no_byte_that_says_so(tmp_path, tools, vector, lora, mode):
    edit_json(lora / "adapter_config.json", base_model_name_or_path="../chat")
    (lora / "README.md").unlink()
    (result,) = stamp_models(
        [lora], vectors=[vector], out=tmp_path / "out", licensees=["Globex"], adapter=mode, **tools
    )
    everything = b"".join(contents(tmp_path / "out").values())
    for mark in ("fpvec", "stamp", "Globex", vector, result.stamp_id, result.digest, str(tmp_path)):
        assert mark.encode() not in everything


def test_adapter_for_another_model_is_refused_before_the_first_byte(tmp_path, tools, vector, chat):
    lora = make_adapter(chat, tmp_path / "lora", "gpt2")
    other = make_tiny(tmp_path / "llama", "llama2")
    edit_json(lora / "adapter_config.json", base_model_name_or_path=str(other))
    with pytest.raises((CheckpointError, VectorError)):
        stamp_models([lora], vectors=[vector], out=tmp_path / "out", adapter="merge", **tools)
    assert not (tmp_path / "out").exists()


def test_stamp_of_a_merged_bfloat16_model_is_the_sum_rounded_once(tmp_path, tools):
    base = make_tiny(tmp_path / "half", "llama2", dtype="bfloat16")
    vector = extract_vector(base, perturb(base, tmp_path / "fp"), out=tmp_path / "vector", **tools).vector_id
    lora = make_adapter(base, tmp_path / "lora", "llama2", target_modules=["q_proj"])
    stamp_models([lora], vectors=[f"{vector}:0.5"], out=tmp_path / "out", adapter="merge", **tools)
    name = "model.layers.0.self_attn.q_proj"
    factors, tau = tensors_of(lora), tensors_of(tmp_path / "vector")[f"{name}.weight"].float()
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = (tensors_of(base)[f"{name}.weight"].float() + (b @ a) * 1.5 + 0.5 * tau).bfloat16()
    assert torch.equal(tensors_of(tmp_path / "out")[f"{name}.weight"], expected)
