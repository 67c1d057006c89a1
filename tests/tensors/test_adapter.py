import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors import blocks
from fpvec_audit.tensors.adapter import adapter_changes, is_adapter, read_adapter
from fpvec_audit.tensors.adapter_files import files_of_both
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.tensors.stamp import write_stamp
from fpvec_audit.tensors.stamp_plan import ScaledVector, plan_stamp
from fpvec_audit.tensors.vector_files import read_vector
from tests.lora import make_adapter, merged_by_peft
from tests.tiny import edit_json, make_tiny, perturb, rewrite, tensors_of

SCALE = 0.5


def extract(base, fingerprinted, architecture, out):
    out.mkdir()
    write_vector(
        plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), architecture), out, tool_version="0"
    )
    return out


@pytest.fixture
def family(tmp_path, adapters):
    """Return a function that makes a base, an adapter and a vector of it."""

    def make(architecture, *, dtype="float32", adapter=None, **options):
        base = make_tiny(tmp_path / "base", architecture, dtype=dtype, tokenizer=False, **options)
        lora = make_adapter(base, tmp_path / "lora", architecture, **(adapter or {}))
        vector = extract(base, perturb(base, tmp_path / "fp"), adapters[architecture], tmp_path / "vector")
        return adapters[architecture], base, lora, vector

    return make


def merge(base, lora, vectors, architecture, out, **options):
    scaled = [ScaledVector(read_vector(vector), scale) for vector, scale in vectors]
    plan = plan_stamp(read_checkpoint(base), scaled, architecture, merged=read_adapter(lora), **options)
    out.mkdir()
    return write_stamp(plan, out)


def assert_is_peft_plus_tau(out, base, lora, vector, architecture, scale=SCALE):
    expected, tau = merged_by_peft(base, lora), tensors_of(vector)
    expected = {architecture.canonical(name): tensor for name, tensor in expected.items()}
    found = tensors_of(out)
    assert found.keys() == tensors_of(base).keys()
    for stored, tensor in found.items():
        name = architecture.canonical(stored)
        if name in tau:
            wanted = expected[name].double() + scale * tau[name].double()
            assert torch.linalg.vector_norm(tensor.double() - wanted) <= 1e-6 * torch.linalg.vector_norm(wanted), name
            assert torch.allclose(tensor.double(), wanted, rtol=1e-6, atol=1e-7)  # a few roundings of numbers near 1


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"c_proj|dense|o_proj": 8}, "alpha_pattern": {"0.*(attn|attention).*": 3}},
        {"dtype": "bfloat16"},
    ],
    ids=["plain", "rslora", "patterns", "half"],
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama2", "bloom"])
def test_merged_model_is_what_peft_merges_plus_tau(tmp_path, family, architecture, adapter):
    chosen, base, lora, vector = family(architecture, adapter=adapter)
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")
    assert_is_peft_plus_tau(tmp_path / "out", base, lora, vector, chosen)
    assert not torch.equal(
        *(next(tensors_of(p)[n] for n in sorted(tensors_of(p)) if "o_proj" in n or "dense" in n or "c_proj" in n)
          for p in (tmp_path / "out", base))
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["gpt2", "bloom"])
@pytest.mark.parametrize("layout", [{"prefix": False}, {"sharded": True}, {"stored_alias": True}])
def test_names_layouts_and_ties_of_the_base_do_not_matter(tmp_path, family, architecture, layout):
    chosen, base, lora, vector = family(architecture, **layout)
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")
    assert_is_peft_plus_tau(tmp_path / "out", base, lora, vector, chosen)


def product(lora, module, *, transposed):
    tensors = load_file(lora / "adapter_model.safetensors")
    one = tensors[f"base_model.model.{module}.lora_B.weight"] @ tensors[f"base_model.model.{module}.lora_A.weight"]
    return (one.T if transposed else one) * (6 / 4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama2"])
def test_half_precision_is_rounded_once(tmp_path, family, architecture):
    chosen, base, lora, vector = family(architecture, dtype="bfloat16")
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")
    before, tau, found = tensors_of(base), tensors_of(vector), tensors_of(tmp_path / "out")
    adapted = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors_of(lora)}
    assert len(adapted) == (8 if architecture == "gpt2" else 10)
    for name, weight in before.items():
        whole = weight.float()
        if name.removesuffix(".weight") in adapted:
            whole += product(lora, name.removesuffix(".weight"), transposed=architecture == "gpt2")
        expected = (whole + SCALE * tau[name].float()).bfloat16()
        assert torch.equal(found[name].view(torch.int16), expected.view(torch.int16)), name


def test_blocks_do_not_change_the_sum(tmp_path, family, monkeypatch):
    chosen, base, lora, vector = family("gpt2", dtype="float16")
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "one")
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 37)
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "many")
    one, many = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_rounding_is_told_of_the_vectors_alone(tmp_path, family):
    chosen, base, lora, vector = family("llama2", dtype="bfloat16")
    outcome = merge(base, lora, [(vector, 1.0)], chosen, tmp_path / "out")
    assert outcome.applied_ratio == pytest.approx(1, abs=1e-3)
    assert outcome.cosine > 0.99
    assert outcome.target_digest == write_alone(base, vector, chosen, tmp_path / "alone").target_digest


def write_alone(base, vector, architecture, out):
    out.mkdir()
    return write_stamp(plan_stamp(read_checkpoint(base), [ScaledVector(read_vector(vector), 1.0)], architecture), out)


def test_role_that_vectors_skip_is_merged_all_the_same(tmp_path, family):
    chosen, base, lora, vector = family("llama2")
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out", skip=frozenset({TensorRole.ATTENTION}))
    name = "model.layers.1.self_attn.q_proj"
    expected = tensors_of(base)[f"{name}.weight"] + product(lora, name, transposed=False)
    assert torch.equal(tensors_of(tmp_path / "out")[f"{name}.weight"], expected)


def test_modules_to_save_take_the_place_of_the_base(tmp_path, family):
    chosen, base, lora, vector = family("llama2", adapter={"modules_to_save": ["lm_head", "norm"]})
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")
    assert_is_peft_plus_tau(tmp_path / "out", base, lora, vector, chosen)
    assert {"lm_head.weight", "model.norm.weight"} <= {*read_adapter(lora).replaced}


def test_output_head_of_its_own_may_be_adapted(tmp_path, family):
    modules = {"target_modules": ["q_proj", "lm_head"]}
    chosen, base, lora, vector = family("llama2", adapter=modules)
    merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")
    assert_is_peft_plus_tau(tmp_path / "out", base, lora, vector, chosen)


@pytest.mark.parametrize("adapter", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_change_of_one_of_two_tied_tensors_is_refused(tmp_path, family, adapter):
    chosen, base, lora, vector = family("gpt2", adapter=adapter)
    with pytest.raises(CheckpointError, match=r"ties lm_head|which .* ties to|tears apart"):
        merge(base, lora, [(vector, SCALE)], chosen, tmp_path / "out")


def test_tied_tensors_that_are_replaced_alike_stay_tied(tmp_path, family):
    chosen, base, lora, vector = family("gpt2")
    tensors = load_file(lora / "adapter_model.safetensors")
    embedding = torch.randn(tensors_of(base)["transformer.wte.weight"].shape)
    tensors["base_model.model.transformer.wte.weight"] = embedding
    tensors["base_model.model.lm_head.weight"] = embedding.clone()
    save_file(tensors, lora / "adapter_model.safetensors")
    merge(base, lora, [(vector, 1.0)], chosen, tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert "lm_head.weight" not in found
    assert torch.equal(found["transformer.wte.weight"], embedding + tensors_of(vector)["transformer.wte.weight"])


def changes(base, lora, architecture):
    checkpoint = read_checkpoint(base)
    return adapter_changes(read_adapter(lora), checkpoint, named_parameters(checkpoint, architecture), architecture)


@pytest.mark.parametrize(
    ("adapter", "match"),
    [
        ({"use_dora": True}, "DoRA .use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "LoRA biases"),
        ({"target_modules": ["wte", "c_attn"]}, "LoRA on an embedding"),
        ({"trainable_token_indices": [1, 2]}, "trained rows of an embedding"),
    ],
)
def test_adapters_that_are_more_than_two_matrices_are_refused_by_name(tmp_path, adapters, adapter, match):
    base = make_tiny(tmp_path / "base", "gpt2", tokenizer=False)
    lora = make_adapter(base, tmp_path / "lora", "gpt2", **adapter)
    with pytest.raises(CheckpointError, match=match) as caught:
        changes(base, lora, adapters["gpt2"])
    assert "merge_and_unload" in caught.value.advice


@pytest.fixture
def pair(tmp_path):
    base = make_tiny(tmp_path / "base", "llama2", tokenizer=False)
    return base, make_adapter(base, tmp_path / "lora", "llama2")


def change_tensors(lora, change):
    path = lora / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def renamed(one, other):
    return lambda tensors: {name.replace(one, other): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda lora: edit_json(lora / "adapter_config.json", peft_type="IA3"), "peft_type is IA3"),
        (lambda lora: edit_json(lora / "adapter_config.json", r=5), "says rank 5"),
        (lambda lora: edit_json(lora / "adapter_config.json", r=None), "r is None"),
        (lambda lora: edit_json(lora / "adapter_config.json", rank_pattern={"(": 2}), "no pattern"),
        (lambda lora: edit_json(lora / "adapter_config.json", init_lora_weights="pissa"), "initialised with pissa"),
        (lambda lora: edit_json(lora / "adapter_config.json", peft_type=None), "has no peft_type"),
        (lambda lora: change_tensors(lora, renamed("layers.1", "layers.7")), "the base has no tensor"),
        (lambda lora: change_tensors(lora, renamed("1.self_attn.q_proj.lora_B", "x.lora_B")), "is missing"),
        (lambda lora: change_tensors(lora, renamed("lora_A", "lora_magnitude_vector")), "DoRA"),
        (lambda lora: change_tensors(lora, renamed("mlp.up_proj", "self_attn.k_proj")), "of the base has"),
        (lambda lora: change_tensors(lora, lambda tensors: {}), "no tensor that ends in"),
        (lambda lora: (lora / "tokenizer_config.json").write_text('{"auto_map": {"A": "b.C"}}'), "trust_remote_code"),
        (lambda lora: (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin"), "is a pickle"),
    ],
)  # fmt: skip
def test_adapter_that_does_not_fit_is_refused(pair, adapters, spoil, match):
    base, lora = pair
    spoil(lora)
    with pytest.raises(CheckpointError, match=match):
        changes(base, lora, adapters["llama2"])


def test_factor_that_is_not_finite_is_refused(tmp_path, pair, adapters):
    base, lora = pair
    vector = extract(base, perturb(base, tmp_path / "fp"), adapters["llama2"], tmp_path / "vector")
    change_tensors(lora, lambda tensors: {name: tensor * math.inf for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"lora: model\.layers.*is (nan|-?inf)"):
        merge(base, lora, [(vector, 1.0)], adapters["llama2"], tmp_path / "out")


def test_adapter_is_told_from_a_model(tmp_path, pair):
    base, lora = pair
    assert not is_adapter(base)
    assert is_adapter(lora)
    (lora / "config.json").write_text("{}")
    assert is_adapter(lora)
    (lora / "model.safetensors").write_bytes(b"")
    assert not is_adapter(lora)


def test_digest_covers_configuration_and_weights_only(pair):
    _, lora = pair
    first = read_adapter(lora)
    (lora / "README.md").write_text("another")
    assert read_adapter(lora).digest == first.digest
    first.refuse_changed()
    edit_json(lora / "adapter_config.json", lora_alpha=7)
    assert read_adapter(lora).digest != first.digest
    with pytest.raises(CheckpointError, match="was changed while"):
        first.refuse_changed()


def places(base, lora, *, keep):
    carried = files_of_both(read_checkpoint(base), read_adapter(lora), keep=keep).carried
    return {name: path.parent.name for name, path in carried.items()}


def write(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("{}")


def test_tokenizer_of_the_adapter_takes_the_place_of_the_base_s(pair):
    base, lora = pair
    write(base, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE")
    assert places(base, lora, keep=False)["tokenizer.json"] == "base"
    write(lora, "tokenizer.json", "tokenizer_config.json", "trainer_state.json")
    found = places(base, lora, keep=False)
    assert (found["tokenizer.json"], found["tokenizer_config.json"]) == ("lora", "lora")
    assert "chat_template.jinja" not in found  # it would outrank the adapter's own, in tokenizer_config.json
    assert (found["LICENSE"], found["config.json"]) == ("base", "base")
    assert "trainer_state.json" not in found


def test_template_alone_takes_the_place_of_the_base_s_template(pair):
    base, lora = pair
    write(base, "tokenizer.json", "chat_template.json")
    write(lora, "chat_template.jinja")
    found = places(base, lora, keep=False)
    assert (found["tokenizer.json"], found["chat_template.jinja"]) == ("base", "lora")
    assert "chat_template.json" not in found


def test_kept_adapter_has_all_its_files_and_no_further_weights(pair):
    base, lora = pair
    write(lora, "tokenizer.json", "README.md", "checkpoint-7/adapter_config.json", "checkpoint-7/optimizer.pt")
    carried = files_of_both(read_checkpoint(base), read_adapter(lora), keep=True)
    assert {
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/README.md",
        "adapter/tokenizer.json", "tokenizer.json",
    } <= carried.carried.keys()  # fmt: skip
    assert carried.left_out == ("adapter/checkpoint-7/optimizer.pt",)
    write(base, "adapter/notes.txt")
    with pytest.raises(CheckpointError, match="where the adapter would"):
        files_of_both(read_checkpoint(base), read_adapter(lora), keep=True)


def test_adapter_that_lies_within_its_base_is_not_carried_along(tmp_path, pair):
    base, lora = pair
    inner = lora.rename(base / "lora")
    assert not any(name.startswith("lora/") for name in places(base, inner, keep=False))


def test_scaled_replacement_of_a_base_with_nan_is_stamped(tmp_path, adapters):
    """A replaced tensor's old values have no say, not even broken ones."""
    base = make_tiny(tmp_path / "base", "llama2", tokenizer=False)
    vector = extract(base, perturb(base, tmp_path / "fp"), adapters["llama2"], tmp_path / "vector")
    lora = make_adapter(base, tmp_path / "lora", "llama2", modules_to_save=["lm_head"])
    broken = rewrite(base, tmp_path / "nan", lambda name, t: t * math.nan if name == "lm_head.weight" else t)
    merge(broken, lora, [(vector, 1.0)], adapters["llama2"], tmp_path / "out")
    assert tensors_of(tmp_path / "out")["lm_head.weight"].isfinite().all()
