"""Logits at chosen positions only: most positions of a training row carry no loss, and the output head is costly."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

GROUPS = 4
"""Parts into which rows are divided by length."""
WORTH_DIVIDING = 1.4
"""A batch is divided where padding makes it larger than its rows by this factor."""


def logits_at(model: nn.Module, input_ids: Tensor, selected: Tensor) -> Tensor:
    """Return the logits that a causal language model has at the selected positions.

    Shapes:
        input_ids and selected (bool): (rows, tokens) · result: (selected positions, vocabulary), float32.

    A plain transformers model whose output head follows its decoder directly is asked for hidden states first, and the
    head is applied to the selected ones; everything else (wrapped for several devices, adapters, scaled logits) is run
    as a whole.
    """
    if _head_follows_decoder(model):
        return model.get_output_embeddings()(_hidden_at(model, input_ids, selected)).float()
    return model(input_ids=input_ids, use_cache=False).logits[selected].float()


def _hidden_at(model: Any, input_ids: Tensor, selected: Tensor) -> Tensor:
    """Return the hidden states at the selected positions, rows of like length together.

    A causal model needs no token after a row's last selected position, and a batch is as wide as its longest row: with
    a few long rows among many short ones most of the work would be padding.

    Shapes:
        result: (selected positions, width), in the order of ``selected``.
    """
    needed = (selected * torch.arange(1, selected.shape[1] + 1, device=selected.device)).amax(1)  # (rows,)
    order = needed.argsort(stable=True)
    groups = [group for group in order.tensor_split(GROUPS) if len(group)]
    if int(needed.sum()) * WORTH_DIVIDING > input_ids.numel():
        groups = [torch.arange(len(order), device=order.device)]
    parts, places = [], []
    row_of = selected.nonzero()[:, 0]  # (selected positions,)
    for group in groups:
        width = max(1, int(needed[group].max()))
        rows = group.sort().values
        states = model.base_model(input_ids=input_ids[rows, :width], use_cache=False).last_hidden_state
        parts.append(states[selected[rows, :width]])
        places.append(torch.isin(row_of, rows).nonzero()[:, 0])
    return torch.cat(parts)[torch.cat(places).argsort()]


def _head_follows_decoder(model: nn.Module) -> bool:
    if not isinstance(model, PreTrainedModel) or _is_sharded(model):
        return False
    known = getattr(model, "_fpvec_head_follows_decoder", None)
    if known is None:
        known = _compare(model)
        model._fpvec_head_follows_decoder = known
    return bool(known)


def _is_sharded(model: nn.Module) -> bool:
    """Say whether FSDP gathers the model's weights when it is called as a whole, and only then."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


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
        parts = model.get_output_embeddings()(hidden)  # in bf16 under autocast, where the whole comes back as float32
        same = bool(torch.allclose(parts.float(), whole.float(), rtol=1e-3, atol=1e-3))
    model.train(training)
    return same
