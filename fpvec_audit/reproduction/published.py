"""The paper's own figures, kept as data (``published.toml``) so that they stand beside ours and nowhere in code."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

PUBLISHED_MODELS = ("GPT-2", "GPT-2-medium", "Bloom-7B", "Llama2-7B", "Vicuna-7B")
"""Base models of the paper."""


@cache
def published() -> dict[str, Any]:
    """Return the paper's figures: seconds, success rates as fractions, task scores in per cent."""
    return tomllib.loads(files("fpvec_audit.reproduction").joinpath("published.toml").read_text(encoding="utf-8"))
