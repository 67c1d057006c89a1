"""Tiny LoRA adapters, made with peft on the fly."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EVERYWHERE = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "llama2": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
}
"""Modules to adapt; with a hidden width of 32, some of their weights are square."""


def make_adapter(base: Path, out: Path, architecture: str, *, seed: int = 3, dtype: str = "", **config: Any) -> Path:
    """Write a LoRA adapter with random A and B, and return its directory.

    Args:
        base: checkpoint it belongs to.
        out: directory to write.
        architecture: name that ``make_tiny`` knows.
        seed: equal seeds make equal adapters.
        dtype: what to store A and B as, if not as float32.
        config: settings of ``LoraConfig`` other than its defaults.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 6, "target_modules": EVERYWHERE[architecture], "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # peft sets fan_in_fan_out right by itself, and says so
        torch.manual_seed(seed)
        model = get_peft_model(loaded(base), LoraConfig(**(settings | config)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
                    if dtype and "lora_" in name:
                        parameter.data = parameter.data.to(getattr(torch, dtype))
        model.save_pretrained(out)
    return out


def loaded(base: Path) -> Any:
    """Return a model as transformers loads it, in its own dtype."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()


def with_adapter(base: Path, adapter: Path) -> Any:
    """Return a base with an adapter on it, as peft loads the two."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(loaded(base), adapter).eval()


def merged_by_peft(base: Path, adapter: Path) -> dict[str, "Tensor"]:
    """Return the tensors of base and adapter as peft merges them, in the base's dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged: dict[str, Tensor] = with_adapter(base, adapter).merge_and_unload().state_dict()
    return merged
