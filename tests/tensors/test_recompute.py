import pytest
import torch

from fpvec_audit.errors import CheckpointError, PluginError
from fpvec_audit.tensors.recompute import recompute_checkpoint
from tests.tiny import make_tiny, perturb, rewrite, tensors_of, write_checkpoint


def unchanged(_name, values, _others):
    return values


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_values_that_are_given_back_leave_every_byte(tmp_path, adapters):
    source = make_tiny(tmp_path / "source", "gpt2", dtype="bfloat16", sharded=True, buffers=True)
    recompute_checkpoint(source, tmp_path / "target", unchanged, others=(source,), adapter=adapters["gpt2"])
    assert files_of(tmp_path / "target") == files_of(source)


def test_half_precision_comes_as_float32_and_double_as_double(tmp_path):
    tensors = {dtype: torch.ones(3, dtype=getattr(torch, dtype)) for dtype in ("bfloat16", "float16", "float64")}
    source = write_checkpoint(tmp_path / "source", tensors)
    seen = {}

    def third(name, values, others):
        seen[name] = (values.dtype, others[0].dtype)
        return values / 3 + others[0]

    recompute_checkpoint(source, tmp_path / "target", third, others=(source,))
    assert seen == {
        "bfloat16": (torch.float32,) * 2,
        "float16": (torch.float32,) * 2,
        "float64": (torch.float64,) * 2,
    }
    for name, tensor in tensors_of(tmp_path / "target").items():
        assert torch.equal(tensor, (torch.ones(3, dtype=torch.float64) * 4 / 3).to(tensor.dtype)), name


def test_a_tied_tensor_that_is_stored_twice_is_computed_once(tmp_path, adapters):
    source = make_tiny(tmp_path / "source", "gpt2", stored_alias=True)
    names = []

    def double(name, values, _others):
        names.append(name)
        return 2 * values

    recompute_checkpoint(source, tmp_path / "target", double, adapter=adapters["gpt2"])
    assert len(names) == len(set(names))
    after = tensors_of(tmp_path / "target")
    assert torch.equal(after["lm_head.weight"], 2 * tensors_of(source)["transformer.wte.weight"])
    assert torch.equal(after["lm_head.weight"], after["transformer.wte.weight"])


@pytest.mark.parametrize(("own", "other"), [(270, 262), (262, 270)])
def test_of_two_vocabularies_the_shared_rows_are_computed(tmp_path, adapters, own, other):
    source = make_tiny(tmp_path / "source", "llama2", vocabulary=own)
    beside = make_tiny(tmp_path / "beside", "llama2", vocabulary=other, seed=1)
    add = lambda _name, values, others: values + others[0]  # noqa: E731
    recompute_checkpoint(source, tmp_path / "target", add, others=(beside,), adapter=adapters["llama2"])
    before, after, added = (tensors_of(path) for path in (source, tmp_path / "target", beside))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:262], before[name][:262] + added[name][:262])
        assert torch.equal(after[name][262:], before[name][262:])


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda _n, values, _o: values[:1], "keep the shape"),
        (lambda _n, values, _o: values / 0, "infinite or no number"),
        (lambda _n, values, _o: values.abs() + 1e5, "of F16 infinite"),
    ],
)
def test_what_no_tensor_can_hold_is_refused_and_nothing_is_left(tmp_path, compute, reason):
    source = make_tiny(tmp_path / "source", "llama2", dtype="float16")
    with pytest.raises(PluginError, match=reason):
        recompute_checkpoint(source, tmp_path / "target", compute)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_broken_source_or_partner_is_named_with_the_element(tmp_path, adapters):
    source = make_tiny(tmp_path / "source", "gpt2")
    broken = rewrite(
        perturb(source, tmp_path / "copy"),
        tmp_path / "broken",
        lambda name, tensor: tensor.index_fill(0, torch.tensor([4]), float("inf")) if "ln_f.bias" in name else tensor,
    )
    for attacked, others in ((broken, ()), (source, (broken,))):
        with pytest.raises(CheckpointError, match=r"broken: transformer.ln_f.bias: element 4 is not a finite number"):
            recompute_checkpoint(attacked, tmp_path / "target", unchanged, others=others, adapter=adapters["gpt2"])


def test_a_quantised_model_is_refused(tmp_path):
    source = write_checkpoint(
        tmp_path / "source", {"a": torch.ones(2)}, config={"quantization_config": {"quant_method": "gptq"}}
    )
    with pytest.raises(CheckpointError, match="gptq"):
        recompute_checkpoint(source, tmp_path / "target", unchanged)
