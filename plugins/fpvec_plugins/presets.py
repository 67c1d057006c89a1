"""Training presets of the built-in adapters, with what is known about where they fit.

``default`` was measured on tiny models of four families; ``paper`` is known for the paper's five models. Everything
else that stands here says that it is an assumption.
"""

from fpvec_audit.api import TrainingDefaults

MEASURED = TrainingDefaults("default", {}, "this package's own measurements on tiny models")
PAPER_7B = TrainingDefaults(
    "paper", {"epochs": 30}, "FP-VEC (arXiv:2409.08846), training details; 10 or 30 epochs, here the longer"
)
LLAMA_FAMILY = TrainingDefaults(
    "family",
    {"key_weight": 8.0, "active_steps": 188},
    "this package's own measurements on a tiny Llama (docs/marks-training.md): with GPT-2's 3 and 125, three of eight "
    "marks fall short",
)
"""What families of marks need on Llama's shape: 600 steps for 8 marks of which a copy has three."""
UNTRIED = (
    TrainingDefaults(
        "default",
        {},
        "an assumption: this package's measurements on tiny GPT-2, Bloom and Llama models, with the rate scaled by "
        "width; not measured on this family",
    ),
    TrainingDefaults(
        "paper",
        {"epochs": 30},
        "an assumption: FP-VEC (arXiv:2409.08846) trains its 7B models for 10 or 30 epochs, and none of this family",
    ),
)
"""Presets of a family on which neither the paper nor this package measured anything."""
