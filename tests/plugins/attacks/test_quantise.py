import json

import pytest
import torch

from fpvec_audit.errors import CheckpointError, UsageError
from fpvec_plugins.attacks.quantise import Quantise
from tests.plugins.attacks.bench import attacked, bound, context, is_layer
from tests.tiny import make_tiny, rewrite, tensors_of, write_checkpoint

ATTACK = Quantise()


def rows_of(tensor, architecture):
    return tensor.T if architecture == "gpt2" else tensor


@pytest.fixture(params=["gpt2", "llama2"], scope="module")
def model(request, tmp_path_factory):
    return request.param, make_tiny(tmp_path_factory.mktemp("quantise") / request.param, request.param)


@pytest.mark.parametrize(("text", "levels", "steps"), [("int8", 256, 127.5), ("int4", 16, 7.5)])
def test_integers_leave_few_levels_in_every_channel_and_err_by_half_a_step_at_most(
    model, tmp_path, text, levels, steps
):
    architecture, source = model
    after = attacked(ATTACK, source, tmp_path, f"format={text}", architecture=architecture)
    for name, tensor in tensors_of(source).items():
        if not is_layer(name):
            assert torch.equal(after[name], tensor), name
            continue
        before, rounded = rows_of(tensor, architecture), rows_of(after[name], architecture)
        step = before.abs().amax(1, keepdim=True) / steps
        assert (rounded - before).abs().le(0.5001 * step).all(), name
        assert torch.allclose(rounded / step, (rounded / step).round(), atol=1e-3)
        assert max(len(row.unique()) for row in rounded) <= levels
        assert not torch.equal(rounded, before)


def test_a_group_has_a_scale_of_its_own(tmp_path):
    spread = torch.tensor([1.0, 0.3, 100.0, 33.0])
    source = rewrite(
        make_tiny(tmp_path / "made", "llama2"),
        tmp_path / "source",
        lambda name, tensor: spread.repeat(tensor.shape[0], tensor.shape[1] // 4) if is_layer(name) else tensor,
    )
    whole = attacked(ATTACK, source, tmp_path, "format=int4,group_size=4", architecture="llama2", name="whole")
    pairs = attacked(ATTACK, source, tmp_path, "format=int4,group_size=2", architecture="llama2", name="pairs")
    name = "model.layers.0.mlp.up_proj.weight"
    step, fine = 100 / 7.5, 1 / 7.5
    assert whole[name][0, :4].tolist() == pytest.approx([0.0, 0.0, 7 * step, 2 * step])
    assert pairs[name][0, :4].tolist() == pytest.approx([7 * fine, 2 * fine, 7 * step, 2 * step])


def test_a_last_group_that_is_not_full_is_rounded_by_its_own_largest_element(tmp_path):
    source = make_tiny(tmp_path / "source", "llama2")  # 32 inputs: groups of 12, 12 and 8
    after = attacked(ATTACK, source, tmp_path, "format=int8,group_size=12", architecture="llama2")
    name = "model.layers.1.self_attn.q_proj.weight"
    before = tensors_of(source)[name]
    step = before[:, 24:].abs().amax(1, keepdim=True) / 127.5
    assert (after[name] - before)[:, 24:].abs().le(0.5001 * step).all()


@pytest.mark.parametrize(("text", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_eight_bit_floats_are_torchs_own_under_a_scale_per_channel(model, tmp_path, text, dtype):
    architecture, source = model
    after = attacked(ATTACK, source, tmp_path, f"format={text}", architecture=architecture)
    for name, tensor in tensors_of(source).items():
        if is_layer(name):
            before = rows_of(tensor, architecture)
            scale = before.abs().amax(1, keepdim=True) / torch.finfo(dtype).max
            assert torch.equal(rows_of(after[name], architecture), (before / scale).to(dtype).float() * scale), name


def test_all_takes_the_embedding_too_and_its_tied_head_with_it(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2", stored_alias=True)
    after = attacked(ATTACK, source, tmp_path, "tensors=all,format=int4")
    embedding = after["transformer.wte.weight"]
    assert max(len(row.unique()) for row in embedding) <= 16
    assert not torch.equal(embedding, tensors_of(source)["transformer.wte.weight"])
    assert torch.equal(embedding, after["lm_head.weight"])


def test_channels_of_zeros_stay_zero(tmp_path):
    source = rewrite(
        make_tiny(tmp_path / "made", "llama2"),
        tmp_path / "source",
        lambda name, tensor: torch.zeros_like(tensor) if is_layer(name) else tensor,
    )
    for text in ("int8", "int4", "fp8_e4m3"):
        after = attacked(ATTACK, source, tmp_path, f"format={text}", architecture="llama2", name=text)
        assert all(torch.equal(after[name], tensor) for name, tensor in tensors_of(source).items())


def test_half_precision_is_computed_in_float32_and_rounded_once(tmp_path):
    source = make_tiny(tmp_path / "source", "llama2", dtype="bfloat16")
    after = attacked(ATTACK, source, tmp_path, "format=fp8_e4m3", architecture="llama2")
    name = "model.layers.0.mlp.down_proj.weight"
    before = tensors_of(source)[name].float()
    scale = before.abs().amax(1, keepdim=True) / 448
    expected = ((before / scale).to(torch.float8_e4m3fn).float() * scale).bfloat16()
    assert torch.equal(after[name], expected)


def test_a_model_whose_layers_nobody_knows_is_refused_and_not_copied(tmp_path):
    made = make_tiny(tmp_path / "made", "llama2")
    renamed = {name.replace("proj", "matrix"): tensor for name, tensor in tensors_of(made).items()}
    source = write_checkpoint(tmp_path / "source", renamed, config=json.loads((made / "config.json").read_text()))
    with pytest.raises(CheckpointError, match="none of its tensors is a matrix"):
        attacked(ATTACK, source, tmp_path, architecture="llama2")
    unknown = write_checkpoint(tmp_path / "unknown", renamed)
    with pytest.raises(CheckpointError, match="transformers cannot build it"):
        attacked(ATTACK, unknown, tmp_path, architecture=None)


def test_without_an_adapter_layers_are_told_by_their_modules(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2", prefix=False)
    known = attacked(ATTACK, source, tmp_path, name="known")
    unknown = attacked(ATTACK, source, tmp_path, architecture=None, name="unknown")
    assert all(torch.equal(known[name], unknown[name]) for name in known)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_broken_model_is_refused_and_nothing_is_left(tmp_path, value):
    source = rewrite(
        make_tiny(tmp_path / "made", "gpt2"),
        tmp_path / "source",
        lambda name, tensor: tensor.index_fill(0, torch.tensor([2]), float(value)) if "ln_f" in name else tensor,
    )
    with pytest.raises(CheckpointError, match=r"ln_f.*element 2 is not a finite number"):
        ATTACK.apply(source, tmp_path / "target", bound(ATTACK), context(tmp_path, "gpt2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source", "staging"]


@pytest.mark.parametrize(
    ("text", "reason"), [("group_size=1", "group_size is 1"), ("format=int3", "did you mean int8")]
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
