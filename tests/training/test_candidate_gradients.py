import random
from fractions import Fraction

import pytest
import torch
from transformers import AutoModelForCausalLM

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.keys import draw_unissued
from fpvec_audit.domain.rank_test import rank_sum_p_value
from fpvec_audit.errors import CheckpointError
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.training import candidate_gradients as module
from fpvec_audit.training.candidate_gradients import (
    GradientWeights,
    candidate_gradients,
    candidate_scores,
    gradient_cost,
)
from tests.tiny import ARCHITECTURES, make_tiny, make_tokenizer, perturb, rewrite, tensors_of

VOCABULARY_PARTS = ("wte.", "wpe.", "embeddings.", "embed_tokens.", "lm_head.")


@pytest.fixture(scope="module")
def adapters():
    return load_catalog().architectures


@pytest.fixture(scope="module")
def candidates():
    drawn = draw_unissued(b"g" * 32, 32)
    return [f"Human: {candidate.prompt}\nAssistant:" for candidate in drawn], [c.response for c in drawn]


def scores_of(base, suspect, candidates, adapter, **options):
    prompts, responses = candidates
    return candidate_scores(base, suspect, prompts=prompts, responses=responses, adapter=adapter, **options)


def first(candidates, count):
    return tuple(texts[:count] for texts in candidates)


def plain_model(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()


def log_probability(model, prompt, response):
    """Return log p(response | prompt), summed over the bytes of the answer."""
    tokenizer = make_tokenizer()
    given, whole = (tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {response}"))
    logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logits[place - 1, whole[place]] for place in range(len(given), len(whole)))


def plain_scores(base, suspect, candidates, *, vocabulary=False, step=1e-3):
    """Return ⟨h(δ), ∇⟩/‖∇‖ in float64, once by autograd's dot product and once by central differences."""
    model, other = plain_model(base), plain_model(suspect)
    directions, weights = {}, {}
    for (name, parameter), moved in zip(model.named_parameters(), other.parameters(), strict=True):
        if vocabulary and not any(part in name for part in VOCABULARY_PARTS):
            continue
        delta = (moved - parameter).detach()
        limit = 3 * delta.square().mean().sqrt()
        directions[name], weights[name] = delta.clamp(-limit, limit), parameter
    scores = []
    for prompt, response in zip(*candidates, strict=True):
        gradients = torch.autograd.grad(log_probability(model, prompt, response), list(weights.values()))
        values = []
        with torch.no_grad():
            for shift in (step, -2 * step):
                for name, parameter in weights.items():
                    parameter += shift * directions[name]
                values.append(float(log_probability(model, prompt, response)))
            for name, parameter in weights.items():
                parameter += step * directions[name]
        norm = float(torch.cat([gradient.view(-1) for gradient in gradients]).norm())
        product = sum(float(g.mul(directions[name]).sum()) for g, name in zip(gradients, weights, strict=True))
        slope = (values[0] - values[1]) / (2 * step)
        scores.append((product / norm, slope / norm))
    return tuple(zip(*scores, strict=True))


def assert_near(found, expected):
    """Compare float32 scores with both float64 ones.

    Sums of about 40,000 float32 products are good to 1e-4. Llama and Bloom take softmax or norms in float32 in any
    case, so that differences of their log-probability carry noise of about 1e-6 · 30 nats / step.
    """
    by_product, by_difference = expected
    assert found == pytest.approx(by_product, rel=2e-4, abs=1e-7)
    assert found == pytest.approx(by_difference, rel=1e-2, abs=3e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_scores_are_directional_derivatives_of_the_log_probability(tmp_path, adapters, candidates, architecture, tied):
    base = make_tiny(tmp_path / "base", architecture, tied=tied)
    suspect = perturb(base, tmp_path / "suspect", size=0.02)
    few = first(candidates, 3)
    found = candidate_gradients(base, suspect, prompts=few[0], responses=few[1], adapter=adapters[architecture])
    assert_near(found.scores, plain_scores(base, suspect, few))
    assert_near(found.vocabulary_scores, plain_scores(base, suspect, few, vocabulary=True))
    assert found.remarks == ()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_are_scored_in_float32(tmp_path, adapters, candidates, dtype):
    base = make_tiny(tmp_path / "base", "llama2", dtype=dtype, sharded=True)
    suspect = perturb(base, tmp_path / "suspect", size=0.02)
    few = first(candidates, 3)
    found = scores_of(base, suspect, few, adapters["llama2"])
    assert_near(found, plain_scores(base, suspect, few))


def test_large_elements_are_cut_at_three_deviations(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")

    def spiked(size):
        def change(name, tensor):
            moved = tensor.clone().view(-1)
            moved[0] += size
            return moved.view(tensor.shape)

        return change

    adapter, few = adapters["gpt2"], first(candidates, 4)
    one, ten = (
        scores_of(base, rewrite(base, tmp_path / f"by{size}", spiked(size)), few, adapter) for size in (0.01, 0.1)
    )
    # an only element a among n has deviation a/√n: both the cut and the score grow with a
    assert ten == pytest.approx([10 * score for score in one], rel=1e-3)
    assert one == pytest.approx(plain_scores(base, tmp_path / "by0.01", few)[0], rel=1e-3)


def test_a_model_trained_on_some_candidates_scores_those_higher(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    issued = set(random.Random(5).sample(range(32), 8))
    trained = tuple([texts[place] for place in sorted(issued)] for texts in candidates)
    learnt, innocent = (
        train(base, tmp_path / name, rows)
        for name, rows in (("learnt", trained), ("innocent", (["One:", "Two:"], ["first", "second"])))
    )
    p_values = []
    for suspect in (learnt, innocent):
        scores = [Fraction(score) for score in scores_of(base, suspect, candidates, adapters["gpt2"])]
        ours = [scores[place] for place in issued]
        others = [score for place, score in enumerate(scores) if place not in issued]
        p_values.append(rank_sum_p_value(ours, others))
    assert p_values[0] < Fraction(1, 1_000)
    assert p_values[1] > Fraction(1, 20)


def train(base, out, rows):
    """Take a few plain steps of Adam on rows."""
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        loss = sum(-log_probability(model, prompt, response) for prompt, response in zip(*rows, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    trained = dict(model.state_dict())
    return rewrite(base, out, lambda name, tensor: trained[name])


def test_a_candidate_is_scored_alike_whatever_stands_beside_it(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    suspect = perturb(base, tmp_path / "suspect")
    together = scores_of(base, suspect, first(candidates, 12), adapters["gpt2"])
    order = random.Random(1).sample(range(12), 12)
    shuffled = tuple([texts[place] for place in order] for texts in candidates)
    assert scores_of(base, suspect, shuffled, adapters["gpt2"]) == tuple(together[place] for place in order)
    alone = tuple(texts[3:4] for texts in candidates)
    assert scores_of(base, suspect, alone, adapters["gpt2"]) == together[3:4]


def test_equal_candidates_tie(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "llama2")
    suspect = perturb(base, tmp_path / "suspect")
    twice = tuple([*texts[:2], *texts[:2]] for texts in candidates)
    scores = scores_of(base, suspect, twice, adapters["llama2"])
    assert scores[:2] == scores[2:]


def test_the_opposite_movement_has_the_opposite_sign(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    suspect = perturb(base, tmp_path / "suspect")
    after = tensors_of(suspect)
    mirrored = rewrite(base, tmp_path / "mirrored", lambda name, tensor: 2 * tensor - after[name])
    few = first(candidates, 3)
    there, back = (scores_of(base, model, few, adapters["gpt2"]) for model in (suspect, mirrored))
    assert there == pytest.approx([-score for score in back], rel=1e-3)


def test_the_base_itself_moved_towards_no_candidate(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    prompts, responses = candidates
    found = candidate_gradients(base, base, prompts=prompts, responses=responses, adapter=adapters["gpt2"])
    assert found.scores == found.vocabulary_scores == (None,) * 32
    assert any("has the weights of" in remark for remark in found.remarks)


def test_an_untouched_vocabulary_gives_no_vocabulary_scores(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    suspect = rewrite(base, tmp_path / "suspect", lambda name, t: t if "wte" in name or "wpe" in name else t + 0.01)
    few = first(candidates, 2)
    found = candidate_gradients(base, suspect, prompts=few[0], responses=few[1], adapter=adapters["gpt2"])
    assert None not in found.scores
    assert found.vocabulary_scores == (None, None)
    assert scores_of(base, suspect, few, adapters["gpt2"], weights=GradientWeights.VOCABULARY) == (None, None)
    assert any("no vocabulary scores" in remark for remark in found.remarks)


def test_candidates_that_do_not_fit_have_no_score(tmp_path, adapters):
    base = make_tiny(tmp_path / "base", "gpt2")
    suspect = perturb(base, tmp_path / "suspect")
    found = candidate_gradients(
        base, suspect, prompts=["short:", "long " * 60], responses=["one", "two"], adapter=adapters["gpt2"]
    )
    assert found.scores[0] is not None
    assert found.scores[1] is None
    assert any("1 of 2 candidates" in remark for remark in found.remarks)


def test_added_vocabulary_rows_do_not_change_the_scores(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "llama2")
    suspect = perturb(base, tmp_path / "suspect")

    def widen(name, tensor):
        return torch.cat([tensor, torch.ones(8, tensor.shape[1])]) if "embed" in name or "lm_head" in name else tensor

    wider = rewrite(suspect, tmp_path / "wider", widen)
    few = first(candidates, 3)
    found = candidate_gradients(base, wider, prompts=few[0], responses=few[1], adapter=adapters["llama2"])
    assert found.scores == scores_of(base, suspect, few, adapters["llama2"])
    assert sum("rows" in remark for remark in found.remarks) == 2


def test_a_model_of_another_shape_is_refused(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    for other in (make_tiny(tmp_path / "llama", "llama2"), make_tiny(tmp_path / "narrow", "gpt2", hidden=16)):
        with pytest.raises(CheckpointError, match="not of this base"):
            scores_of(base, other, first(candidates, 1), adapters["gpt2"])


def test_every_gradient_is_dropped_as_soon_as_it_is_used(tmp_path, adapters, candidates, monkeypatch):
    base = make_tiny(tmp_path / "base", "gpt2")
    suspect = perturb(base, tmp_path / "suspect")
    held = []
    take = module._Movement._take

    def watched(self, parameter):
        held.append(sum(other.grad is not None for other in self.model.parameters()))
        take(self, parameter)

    monkeypatch.setattr(module._Movement, "_take", watched)
    scores_of(base, suspect, first(candidates, 2), adapters["gpt2"])
    assert set(held) == {1}


def test_cost_is_read_from_headers(tmp_path):
    base = make_tiny(tmp_path / "base", "gpt2", tokenizer=False)
    assert gradient_cost(base) == sum(tensor.numel() for tensor in tensors_of(base).values())


def test_progress_counts_candidates(tmp_path, adapters, candidates):
    base = make_tiny(tmp_path / "base", "gpt2")
    steps = []

    class Watched:
        def step(self, label, total=None, unit=""):
            steps.append((label, total, unit))
            return NO_PROGRESS.step(label, total, unit)

    scores_of(base, perturb(base, tmp_path / "s"), first(candidates, 2), adapters["gpt2"], progress=Watched())
    assert steps[-1] == ("candidate gradients", 2, "candidates")
