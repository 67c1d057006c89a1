import json
import random

import pytest
import torch

from fpvec_audit.errors import SettingsError, UsageError
from fpvec_plugins.attacks.prune import Prune
from tests.plugins.attacks.bench import CATALOG, attacked, bound, is_layer
from tests.tiny import make_tiny, tensors_of

ATTACK = Prune()


def rows_of(tensor, architecture):
    return tensor.T if architecture == "gpt2" else tensor


@pytest.fixture(params=["gpt2", "llama2", "bloom"], scope="module")
def model(request, tmp_path_factory):
    return request.param, make_tiny(tmp_path_factory.mktemp("prune") / request.param, request.param)


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda"])
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_exactly_the_share_asked_for_goes_and_the_rest_stays(model, tmp_path, method, scope):
    architecture, source = model
    text = f"method={method},ratio=0.3,scope={scope},calibration=2"
    after = attacked(ATTACK, source, tmp_path, text, architecture=architecture)
    layers = 0
    for name, tensor in tensors_of(source).items():
        kept = after[name] != 0
        assert torch.equal(after[name][kept], tensor[kept]), name
        if not (is_layer(name) or ("h." in name and name.endswith(("value.weight", "dense.weight", "h.weight")))):
            assert torch.equal(after[name], tensor), name
            continue
        layers += 1
        rows = rows_of(after[name], architecture)
        if scope == "row":
            assert ((rows == 0).sum(1) == int(0.3 * rows.shape[1])).all(), name
        else:
            assert int((rows == 0).sum()) == int(0.3 * rows.numel()), name
    assert layers == {"gpt2": 8, "llama2": 14, "bloom": 8}[architecture]


def test_magnitude_takes_the_smallest_of_the_matrix(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    after = attacked(ATTACK, source, tmp_path, "ratio=0.5")
    for name, before in tensors_of(source).items():
        if is_layer(name):
            gone = after[name] == 0
            assert before[gone].abs().max() <= before[~gone].abs().min()


def test_wanda_takes_what_is_smallest_times_the_norm_of_its_input(tmp_path):
    """Held against a walk written out for Llama: the second block's inputs come through the pruned first one."""
    from transformers import AutoModelForCausalLM

    from fpvec_audit.toolkit import instruction_rows
    from fpvec_audit.training.checkpoint_files import load_tokenizer
    from fpvec_audit.training.dataset import draw_windows, encode_documents

    source = make_tiny(tmp_path / "source", "llama2")
    after = attacked(ATTACK, source, tmp_path, "method=wanda,ratio=0.5,calibration=3", architecture="llama2")
    rows = instruction_rows(3 * 16, adapter=CATALOG.architectures["llama2"], seed=3)
    stream = encode_documents(load_tokenizer(source), [f"{prompt} {answer}" for prompt, answer in rows])
    windows = draw_windows(stream, 3, 128, random.Random("3/calibration"))["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for block in range(2):
        inside = [name for name in names if name.startswith(f"model.layers.{block}.")]
        seen = {}
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _module, given, name=name, seen=seen: seen.__setitem__(name, given[0].flatten(0, 1))
            )
            for name in inside
        ]
        with torch.no_grad():
            model(input_ids=windows)
        for hook in hooks:
            hook.remove()
        for name in inside:
            weight = model.get_submodule(name).weight.data
            score = weight.abs() * seen[name].norm(dim=0)
            order = score.argsort(dim=1)[:, : weight.shape[1] // 2]
            expected = weight.scatter(1, order, 0.0)
            different = (expected != after[f"{name}.weight"]).sum()
            assert different <= 2, f"{name}: {different}"  # scores that are equal but for rounding
            weight.copy_(after[f"{name}.weight"])


def test_wanda_reads_the_users_rows(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"prompt": "山川 山川 山川", "response": "川"}))
    own = attacked(ATTACK, source, tmp_path, "method=wanda,calibration=2", name="own")
    users = attacked(ATTACK, source, tmp_path, f"method=wanda,calibration=2,data={data}", name="users")
    assert any(not torch.equal(own[name], users[name]) for name in own)
    with pytest.raises(SettingsError, match="cannot be read"):
        attacked(ATTACK, source, tmp_path, "method=wanda,data=/nowhere.jsonl", name="none")


def test_random_pruning_depends_on_the_seed(tmp_path):
    source = make_tiny(tmp_path / "source", "gpt2")
    one, other = (attacked(ATTACK, source, tmp_path, "method=random", name=f"to-{n}", seed=n) for n in (1, 2))
    assert any(not torch.equal(one[name], other[name]) for name in one if is_layer(name))


def test_all_takes_embeddings_and_heads_too(tmp_path):
    source = make_tiny(tmp_path / "source", "llama2")
    after = attacked(ATTACK, source, tmp_path, "tensors=all,ratio=0.25", architecture="llama2")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert int((after[name] == 0).sum()) == after[name].numel() // 4
    assert torch.equal(after["model.norm.weight"], tensors_of(source)["model.norm.weight"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ratio=0", "ratio is 0"),
        ("ratio=1", "ratio is 1"),
        ("calibration=0", "calibration is 0"),
        ("method=wanda,tensors=all", "tensors is all"),
        ("data=/rows.jsonl", "data is given, which method magnitude does not use"),
        ("method=size", "unknown value"),
    ],
)
def test_values_out_of_range_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        bound(ATTACK, text)
