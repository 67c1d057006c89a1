import pytest
import torch

from fpvec_audit.domain.ports import TensorRole
from fpvec_audit.domain.vector import CompressionKind, CompressionMethod, StoredDtype
from fpvec_audit.errors import CheckpointError, VectorError
from fpvec_audit.tensors import regression
from fpvec_audit.tensors.compress import plan_compression, write_compressed
from fpvec_audit.tensors.delta import plan_extraction, write_vector
from fpvec_audit.tensors.difference import ModelDifference
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.regression import regress, vector_gram
from fpvec_audit.tensors.vector_files import read_vector
from tests.tiny import ARCHITECTURES, DTYPES, bare_name, make_tiny, rewrite, tensors_of


def directions(base, seeds, size=0.01):
    """Return per seed a random change of every parameter: bare name → float32 tensor."""
    made = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        made.append(
            {name: size * torch.randn(t.shape, generator=generator) for name, t in sorted(tensors_of(base).items())}
        )
    return made


def moved(base, target, parts):
    """Write base + Σ scale · direction."""
    return rewrite(
        base,
        target,
        lambda name, tensor: (tensor.float() + sum(scale * part[name] for part, scale in parts)).to(tensor.dtype),
    )


def extract(base, fingerprinted, adapter, out, dtype=StoredDtype.FLOAT32):
    plan = plan_extraction(read_checkpoint(base), read_checkpoint(fingerprinted), adapter, dtype=dtype)
    out.mkdir()
    write_vector(plan, out, tool_version="0")
    return out


@pytest.fixture
def related(tmp_path, adapters):
    """Return a base, two directions of cosine 1/2, their vectors, and a third direction that nobody knows."""
    base = make_tiny(tmp_path / "base", "gpt2", tokenizer=False)
    shared, one, two, unknown = directions(base, range(4))
    first = {name: shared[name] + one[name] for name in shared}
    second = {name: shared[name] + two[name] for name in shared}
    vectors = [
        extract(base, moved(base, tmp_path / f"fp{n}", [(part, 1.0)]), adapters["gpt2"], tmp_path / f"vector{n}")
        for n, part in enumerate((first, second))
    ]
    return base, (first, second, unknown), vectors


def plain_answer(base, suspect, vectors):
    """Solve the least squares with numpy's own solver, from files that safetensors reads."""
    before, after = tensors_of(base), tensors_of(suspect)
    names = sorted(before)
    flat = [torch.cat([tensors_of(vector)[name].double().view(-1) for name in names]) for vector in vectors]
    delta = torch.cat([(after[name].double() - before[name].double()).view(-1) for name in names])
    stack = torch.stack(flat, dim=1)
    solution = torch.linalg.lstsq(stack, delta[:, None]).solution[:, 0]
    residual = float((delta - stack @ solution).square().sum() / delta.square().sum())
    cosines = [float(column.dot(delta) / column.norm() / delta.norm()) for column in flat]
    return solution.tolist(), cosines, residual


def test_a_mixture_of_related_vectors_gives_back_both_scales_and_each_alone_would_not(tmp_path, adapters, related):
    base, (first, second, unknown), vectors = related
    suspect = moved(base, tmp_path / "suspect", [(first, 0.3), (second, 0.7), (unknown, 1.0)])
    found = regress(base, suspect, vectors, adapters["gpt2"])
    solution, cosines, residual = plain_answer(base, suspect, vectors)
    # the plain solver sees the same float32 numbers; the Gram matrix squares the condition (3), no more
    assert found.coefficients == pytest.approx(solution, rel=1e-9)
    assert found.cosines == pytest.approx(cosines, rel=1e-9)
    assert found.residual == pytest.approx(residual, rel=1e-9)
    # the unknown direction is random: it leans on the vectors by about 1/√40,000
    assert found.coefficients == pytest.approx((0.3, 0.7), abs=0.02)
    assert found.whole.rank == 2
    assert found.whole.condition == pytest.approx(3, rel=0.05)  # (1 + 1/2) / (1 − 1/2)
    (alone,) = regress(base, suspect, vectors[:1], adapters["gpt2"]).coefficients
    assert alone == pytest.approx(0.3 + 0.7 / 2, abs=0.03)


def test_another_licensees_vector_shows_in_the_raw_cosine_and_not_in_our_own_part(tmp_path, adapters, related):
    base, (_, second, _), vectors = related
    suspect = moved(base, tmp_path / "suspect", [(second, 1.0)])
    found = regress(base, suspect, vectors, adapters["gpt2"])
    assert found.coefficients == pytest.approx((0, 1), abs=1e-5)
    assert found.cosines == pytest.approx((0.5, 1), abs=0.02)
    # what the first vector does not share makes up √(3/4) of the second's length
    assert found.whole.own_cosines == pytest.approx((0, 0.75**0.5), abs=0.02)
    assert found.residual == pytest.approx(0, abs=1e-9)


def test_roles_are_fitted_one_by_one(tmp_path, adapters, related):
    base, (first, _, _), vectors = related
    embedding = {name: part * (bare_name(name).startswith(("wte", "wpe"))) for name, part in first.items()}
    suspect = moved(base, tmp_path / "suspect", [(embedding, 1.0)])
    roles = regress(base, suspect, vectors, adapters["gpt2"]).roles
    assert set(roles) == {TensorRole.EMBEDDING, TensorRole.ATTENTION, TensorRole.MLP, TensorRole.NORM}
    assert roles[TensorRole.EMBEDDING].coefficients == pytest.approx((1, 0), abs=1e-5)
    assert roles[TensorRole.MLP].coefficients == (0, 0)
    assert roles[TensorRole.MLP].cosines == (None, None)
    assert roles[TensorRole.MLP].residual is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_and_dtype_gives_back_a_stamp_of_scale_one(tmp_path, adapters, architecture, dtype):
    adapter = adapters[architecture]
    base = make_tiny(tmp_path / "base", architecture, dtype=dtype, sharded=True, tokenizer=False)
    (part,) = directions(base, [1])
    suspect = moved(base, tmp_path / "suspect", [(part, 1.0)])
    vector = extract(base, suspect, adapter, tmp_path / "vector", StoredDtype.SAME)
    found = regress(base, suspect, [vector], adapter)
    assert found.coefficients == pytest.approx((1,), abs=1e-3 if dtype != "float32" else 1e-6)
    assert found.cosines == pytest.approx((1,), abs=1e-4)


def test_one_gram_matrix_serves_several_suspects(tmp_path, adapters, related, monkeypatch):
    base, (first, second, _), vectors = related
    adapter = adapters["gpt2"]
    gram = vector_gram(vectors, adapter)
    suspects = [
        moved(base, tmp_path / f"suspect{n}", [(first, scale), (second, 1.0)]) for n, scale in enumerate((0.1, -0.4))
    ]
    fresh = [regress(base, suspect, vectors, adapter) for suspect in suspects]
    monkeypatch.setattr(regression, "vector_gram", lambda *_, **__: pytest.fail("computed again"))
    assert [regress(base, suspect, vectors, adapter, gram=gram) for suspect in suspects] == fresh
    assert [found.coefficients[0] for found in fresh] == pytest.approx([0.1, -0.4], abs=1e-5)


def test_small_blocks_change_nothing_but_rounding(tmp_path, adapters, related, monkeypatch):
    base, (first, _, unknown), vectors = related
    suspect = moved(base, tmp_path / "suspect", [(first, 0.5), (unknown, 1.0)])
    whole = regress(base, suspect, vectors, adapters["gpt2"])
    monkeypatch.setattr(regression, "_ROOM", 2 * 997)
    assert regress(base, suspect, vectors, adapters["gpt2"]).coefficients == pytest.approx(whole.coefficients, rel=1e-9)


def test_the_same_vector_twice_shares_the_credit_and_says_so(tmp_path, adapters, related):
    base, (first, second, _), (one, two) = related
    suspect = moved(base, tmp_path / "suspect", [(first, 0.8), (second, 0.6)])
    found = regress(base, suspect, [one, two, one], adapters["gpt2"])
    assert found.coefficients == pytest.approx((0.4, 0.6, 0.4), abs=1e-5)
    assert found.whole.rank == 2
    assert found.whole.own_cosines[0] is None
    assert found.whole.own_cosines[1] is not None
    assert any("cannot be told apart" in remark and str(one) in remark for remark in found.remarks)


@pytest.mark.parametrize("kind", [("keep", 0.5), ("rank", 24), ("fp8", "fp8")], ids=lambda kind: kind[0])
def test_compressed_vectors_are_read_as_what_they_decode_to(tmp_path, adapters, related, kind):
    base, (first, _, _), (one, _) = related
    plan = plan_compression(read_vector(one), CompressionMethod(CompressionKind(kind[0]), kind[1]))
    (tmp_path / "small").mkdir()
    description, _ = write_compressed(plan, tmp_path / "small", role=adapters["gpt2"].role, tool_version="0")
    suspect = moved(base, tmp_path / "suspect", [(first, 1.0)])
    found = regress(base, suspect, [tmp_path / "small"], adapters["gpt2"])
    assert description.compression is not None
    # the vector was extracted from these very weights, so its cosine is the one that compression measured
    assert found.cosines == pytest.approx((description.compression.cosine,), rel=1e-6)


def test_the_base_itself_has_moved_nowhere(adapters, related):
    base, _, vectors = related
    found = regress(base, base, vectors, adapters["gpt2"])
    assert found.coefficients == (0, 0)
    assert found.cosines == (None, None)
    assert (found.residual, found.norm) == (None, 0)


def test_rows_that_were_added_to_the_vocabulary_do_not_count(tmp_path, adapters):
    adapter = adapters["llama2"]
    base = make_tiny(tmp_path / "base", "llama2", tokenizer=False)
    (part,) = directions(base, [1])
    fingerprinted = moved(base, tmp_path / "fp", [(part, 1.0)])
    vector = extract(base, fingerprinted, adapter, tmp_path / "vector")

    def reshaped(change):
        return lambda name, tensor: change(tensor) if "embed_tokens" in name or "lm_head" in name else tensor

    wider = rewrite(fingerprinted, tmp_path / "wider", reshaped(lambda t: torch.cat([t, torch.ones(40, t.shape[1])])))
    narrow = rewrite(fingerprinted, tmp_path / "narrow", reshaped(lambda t: t[:200]))
    gram = vector_gram([vector], adapter)
    for suspect in (wider, narrow):
        found = regress(base, suspect, [vector], adapter, gram=gram)
        assert found.coefficients == pytest.approx((1,), abs=1e-6)
        assert found.residual == pytest.approx(0, abs=1e-6)
        assert any("rows" in remark for remark in found.remarks)


def test_a_head_of_its_own_and_lost_biases_are_said(tmp_path, adapters):
    adapter = adapters["gpt2"]
    base = make_tiny(tmp_path / "base", "gpt2", tied=True, tokenizer=False)
    untied = make_tiny(tmp_path / "untied", "gpt2", tied=False, tokenizer=False)
    with ModelDifference(base, untied, adapter) as difference:
        assert "lm_head.weight" not in difference.pairs
        assert any("only the suspect has lm_head.weight" in remark for remark in difference.remarks)
    with ModelDifference(untied, base, adapter) as difference:  # the tied embedding is the suspect's head
        assert difference.pairs["lm_head.weight"].suspect.name == "transformer.wte.weight"
        assert difference.remarks == ()


def test_strangers_are_refused(tmp_path, adapters, related):
    base, _, vectors = related
    for other in (
        make_tiny(tmp_path / "llama", "llama2", tokenizer=False),
        make_tiny(tmp_path / "narrow", "gpt2", hidden=16, tokenizer=False),
    ):
        with pytest.raises(CheckpointError, match="not of this base"):
            regress(base, other, vectors, adapters["gpt2"])
        with pytest.raises(VectorError, match=r"vectors (have shape|share no tensor)"):
            regress(other, other, vectors, None)
    with pytest.raises(VectorError, match="no vector"):
        regress(base, base, [], adapters["gpt2"])
    broken = rewrite(base, tmp_path / "broken", lambda name, tensor: tensor * float("nan"))
    with pytest.raises(CheckpointError, match=r"broken.*not a finite number"):
        regress(base, broken, vectors, adapters["gpt2"])
