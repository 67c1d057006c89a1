"""The demo's stamped model is compared with its downstream, and with a copy that was really harmed, as a user would."""

import json

import pytest

from tests.e2e.conftest import run_fpvec
from tests.tiny import rewrite

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]

NOISE = 0.35
"""Share of each matrix's spread; measured in docs/harmlessness.md."""


@pytest.fixture
def compare(installed, demo, tmp_path):
    def compared(before, after, *options):
        command = ("harmless", before, after, "--home", demo.home, "--backend", "transformers", "--no-text", "--json")
        done = run_fpvec(installed, *command, *options, cwd=tmp_path)
        assert done.returncode in (0, 1, 3), done.stderr
        return json.loads(done.stdout), done.returncode

    return compared


def noisy(source, target, *, share, seed=3):
    """Write a copy with Gaussian noise of a share of each matrix's own spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def change(_name, tensor):
        if tensor.dim() < 2:
            return tensor
        return tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)

    return rewrite(source, target, change)


def test_stamping_is_not_called_harmful_and_every_answer_is_kept(demo, compare, tmp_path):
    models = demo.document["models"]
    logs = tmp_path / "logs"
    document, code = compare(models["downstream_a"], models["stamped_a"], "--limit", "500", "--logs", logs)
    assert (document["verdict"], code) in (("HARMLESS", 0), ("INCONCLUSIVE", 3))  # 500 items are few for 3 points
    assert [task["task"] for task in document["tasks"]] == ["offline_quiz", "offline_cloze"]
    quiz = document["tasks"][0]
    assert quiz["before"] > 0.5
    assert quiz["interval"][1] > -0.03
    assert len((logs / "after" / "offline_quiz.jsonl").read_text(encoding="utf-8").splitlines()) == 500


def test_a_copy_that_noise_cost_eight_points_is_called_harmful(demo, compare, tmp_path):
    before = demo.document["models"]["downstream_b"]
    harmed = noisy(demo.home.parent / before, tmp_path / "noisy", share=NOISE)
    document, code = compare(before, harmed, "--tasks", "offline_quiz", "--limit", "500")
    assert document["tasks"][0]["difference"] <= -0.08
    assert (document["verdict"], code) == ("HARMFUL", 1)
