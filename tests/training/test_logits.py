import pytest
import torch

import fpvec_audit.training.logits as logits
from fpvec_audit.training.checkpoint_files import load_for_training
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_for_training(make_tiny(tmp_path_factory.mktemp("model") / "base", "gpt2")).eval()


def selected_positions(lengths, width):
    selected = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        selected[row, max(0, length - 2) : length] = True
    return selected


@pytest.mark.parametrize("lengths", [(3, 20, 4, 3, 5, 4), (20,), (1, 20), (7, 7, 7, 7), (0, 20, 3)])
def test_rows_divided_by_length_give_the_logits_of_the_whole_batch(model, lengths, monkeypatch):
    ids = torch.randint(3, 50, (len(lengths), 20), generator=torch.Generator().manual_seed(1))
    selected = selected_positions(lengths, 20)
    whole = model(input_ids=ids, use_cache=False).logits[selected].float()
    monkeypatch.setattr(logits, "WORTH_DIVIDING", 0.0)
    torch.testing.assert_close(logits.logits_at(model, ids, selected), whole, rtol=1e-4, atol=1e-4)


def test_padding_is_not_computed_where_few_rows_are_long(model, monkeypatch):
    ids = torch.randint(3, 50, (8, 40), generator=torch.Generator().manual_seed(1))
    computed = []
    forward = type(model.base_model).forward

    def counting(self, input_ids, **options):
        computed.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model.base_model), "forward", counting)
    logits.logits_at(model, ids, selected_positions((40, 4, 4, 4, 4, 4, 4, 4), 40))
    assert sum(computed) < 0.6 * ids.numel()
