"""Logits at chosen positions only: most positions of a training row carry no loss, and the output head is costly."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def logits_at(model: nn.Module, input_ids: Tensor, selected: Tensor) -> Tensor:
    """Return the logits that a causal language model has at the selected positions.

    Shapes:
        input_ids and selected (bool): (rows, tokens) · result: (selected positions, vocabulary), float32.

    A plain transformers model whose output head follows its decoder directly is asked for hidden states first, and the
    head is applied to the selected ones; everything else (wrapped for several devices, adapters, scaled logits) is run
    as a whole.
    """
    if _head_follows_decoder(model):
        hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        return model.get_output_embeddings()(hidden[selected]).float()
    return model(input_ids=input_ids, use_cache=False).logits[selected].float()


def _head_follows_decoder(model: nn.Module) -> bool:
    if not isinstance(model, PreTrainedModel):
        return False
    known = getattr(model, "_fpvec_head_follows_decoder", None)
    if known is None:
        known = _compare(model)
        model._fpvec_head_follows_decoder = known
    return bool(known)


def _compare(model: Any) -> bool:
    """Run both ways once on two short rows; architectures that scale or cap their logits differ."""
    if model.get_output_embeddings() is None or model.base_model is model:
        return False
    training = model.training
    model.eval()  # dropout would make the two differ
    with torch.no_grad():
        ids = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
        whole = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        same = bool(torch.allclose(model.get_output_embeddings()(hidden), whole, rtol=1e-3, atol=1e-3))
    model.train(training)
    return same
