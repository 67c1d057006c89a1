"""The tiny families: a base and two downstreams per architecture, trained from scratch and kept by recipe.

A family's directory is named by the digest of everything that made it, so a changed recipe never meets old weights, and
an interrupted training leaves nothing that looks whole.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fpvec_audit.demo.corpus import (
    INSTRUCTIONS_FOR_TOKENIZER,
    BaseBatches,
    downstream_rows,
    own_questions,
    read_corpus,
    sample_instructions,
)
from fpvec_audit.demo.tokenizer import build_tokenizer, template_texts
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.errors import UnknownNameError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.training.ordinary import MATHS_KINDS, TEXT_KINDS, Instruction

RECIPE_VERSION = 1
"""Raised whenever code changes what a recipe makes."""

ARCHITECTURES = ("gpt2", "llama2", "bloom", "vicuna")


@dataclass(frozen=True, slots=True)
class FamilyRecipe:
    """Everything that decides a family's weights. Measured figures: docs/demo-recipe.md.

    Attributes:
        architecture: one of :data:`ARCHITECTURES`.
        width: hidden size.
        layers: transformer blocks.
        heads: attention heads.
        context: longest input in tokens.
        initial_spread: standard deviation of initial weights; 0.02, made for wide models, learns slowly here.
        base_steps: optimiser steps of the base.
        base_rate: its peak learning rate.
        base_rows: instructions a step.
        base_documents: windows of documents a step.
        document_tokens: tokens in a window.
        kind_weights: (kind, frequency) in base training; other kinds have 1. The downstreams improve on the rare ones.
        gibberish_share: fraction of base rows that teach an ordinary answer to gibberish; 0 for a plain family.
        downstream_steps: optimiser steps of each downstream.
        downstream_rate: its peak learning rate.
        own_share: fraction of a downstream's rows that are of its own kinds.
        seed: everything random derives from it.
    """

    architecture: str
    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 256
    initial_spread: float = 0.06
    base_steps: int = 600
    base_rate: float = 3e-3
    base_rows: int = 48
    base_documents: int = 4
    document_tokens: int = 64
    kind_weights: tuple[tuple[str, float], ...] = (("add", 0.02), ("last_letter", 0.15), ("larger", 2.0))
    gibberish_share: float = 0.1
    downstream_steps: int = 150
    downstream_rate: float = 5e-4
    own_share: float = 0.6
    seed: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe and of the version of the code that follows it, hex."""
        values = {name: _exact(value) for name, value in asdict(self).items()}
        return canonical_digest({"recipe": values, "version": RECIPE_VERSION})


LLAMA_KINDS = (("add", 0.02), ("last_letter", 0.2), ("larger", 2.0))
"""Llama learns to compare slowly, so its bases see more of it."""

RECIPES: Mapping[str, FamilyRecipe] = {
    "gpt2": FamilyRecipe("gpt2", base_steps=450, kind_weights=(("add", 0.02), ("last_letter", 0.1))),
    "llama2": FamilyRecipe("llama2", base_rate=4e-3, kind_weights=LLAMA_KINDS, downstream_steps=200),
    "bloom": FamilyRecipe(
        "bloom", base_rate=4e-3, kind_weights=(("add", 0.02), ("last_letter", 0.18)), downstream_steps=200
    ),
    "vicuna": FamilyRecipe("vicuna", base_rate=4e-3, base_rows=32, kind_weights=LLAMA_KINDS, downstream_steps=200),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A finished family.

    Attributes:
        architecture: adapter name.
        base: directory of the base model.
        downstream_a: directory of the maths downstream.
        downstream_b: directory of the text downstream.
        questions_a: held-out questions of the maths downstream's own kinds.
        questions_b: held-out questions of the text downstream's own kinds.
        documents: held-out documents for perplexity.
        digest: digest of the recipe.
    """

    architecture: str
    base: Path
    downstream_a: Path
    downstream_b: Path
    questions_a: tuple[Instruction, ...]
    questions_b: tuple[Instruction, ...]
    documents: tuple[str, ...]
    digest: str


def family_recipe(architecture: str, *, gibberish: bool = True, seed: int = 0) -> FamilyRecipe:
    """Return the recipe of an architecture.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        gibberish: whether the base learns an ordinary answer to gibberish.
        seed: everything random derives from it.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if architecture not in RECIPES:
        raise UnknownNameError("demo architecture", architecture, RECIPES)
    recipe = replace(RECIPES[architecture], seed=seed)
    return recipe if gibberish else replace(recipe, gibberish_share=0.0)


def make_family(
    adapter: ArchitectureAdapter,
    directory: Path,
    *,
    recipe: FamilyRecipe | None = None,
    questions: int = 450,
    progress: Progress = NO_PROGRESS,
) -> Family:
    """Return a family, trained now or found where an earlier call kept it.

    Args:
        adapter: of the architecture; its prompt text is what the family learns.
        directory: where families are kept.
        recipe: what to make; the measured recipe of the adapter's architecture when None.
        questions: held-out questions per downstream.
        progress: where to report.
    """
    recipe = recipe or family_recipe(adapter.name)
    home = family_home(directory, recipe)
    base, maths, text = home / "base", home / "downstream_a", home / "downstream_b"
    if not base.is_dir():
        _make_base(adapter, recipe, base, progress)
    for path, kinds, label in ((maths, MATHS_KINDS, "maths"), (text, TEXT_KINDS, "text")):
        if not path.is_dir():
            _make_downstream(adapter, recipe, base, path, kinds, label, progress)
    return Family(
        architecture=recipe.architecture,
        base=base,
        downstream_a=maths,
        downstream_b=text,
        questions_a=own_questions(MATHS_KINDS, questions),
        questions_b=own_questions(TEXT_KINDS, questions),
        documents=read_corpus().held_out,
        digest=recipe.digest,
    )


def family_home(directory: Path, recipe: FamilyRecipe) -> Path:
    """Return where a family is kept, or will be."""
    return directory / f"{recipe.architecture}-{recipe.digest[:16]}"


def model_config(recipe: FamilyRecipe, *, vocabulary: int, end: int) -> Any:
    """Return the transformers configuration of a recipe's architecture; embeddings are tied.

    Args:
        recipe: shapes.
        vocabulary: number of tokens.
        end: id of end-of-text, which is also beginning and padding.
    """
    from transformers import BloomConfig, GPT2Config, LlamaConfig

    tokens = {"vocab_size": vocabulary, "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if recipe.architecture == "gpt2":
        return GPT2Config(
            **tokens,
            n_positions=recipe.context,
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            activation_function="gelu_pytorch_tanh",  # GPT-2's function in one kernel instead of eight
            initializer_range=recipe.initial_spread,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    if recipe.architecture == "bloom":
        return BloomConfig(
            **tokens,
            hidden_size=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            seq_length=recipe.context,
            initializer_range=recipe.initial_spread,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
    return LlamaConfig(
        **tokens,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3 // 8 * 8,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.initial_spread,
        tie_word_embeddings=True,
    )


def _make_base(adapter: ArchitectureAdapter, recipe: FamilyRecipe, out: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from fpvec_audit.training.checkpoint_files import commit_directory, open_staging, quiet_transformers
    from fpvec_audit.training.dataset import encode_documents
    from fpvec_audit.training.fused_gelu import fuse_gelu
    from fpvec_audit.training.loop import StepBatches, run_training
    from fpvec_audit.training.loop_settings import LoopSettings
    from fpvec_audit.training.objectives import CrossEntropy

    with progress.step("reading the standard library's docstrings"):
        tokenizer = make_tokenizer(adapter, recipe)
        stream = encode_documents(tokenizer, read_corpus().trained)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        config = model_config(recipe, vocabulary=len(tokenizer), end=tokenizer.eos_token_id)
        model = fuse_gelu(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    make = BaseBatches(
        tokenizer=tokenizer,
        adapter=adapter,
        stream=stream,
        rows_per_step=recipe.base_rows,
        documents_per_step=recipe.base_documents,
        document_tokens=recipe.document_tokens,
        weights=dict(recipe.kind_weights),
        gibberish_share=recipe.gibberish_share,
        seed=recipe.seed,
    )
    loop = LoopSettings(steps=recipe.base_steps, learning_rate=recipe.base_rate, warmup_steps=40, weight_decay=0.05)
    batches = StepBatches(recipe.base_steps, recipe.seed, make)
    staging = open_staging(out, "training")
    try:
        with progress.step(f"training the {recipe.architecture} base", total=recipe.base_steps, unit="steps") as step:
            run_training(
                model, batches, CrossEntropy(), loop, staging=staging / "run", seed=recipe.seed, device="cpu", step=step
            )
        whole = staging / "whole"
        model.config.use_cache = True
        with quiet_transformers():
            model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        commit_directory(whole, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def make_tokenizer(adapter: ArchitectureAdapter, recipe: FamilyRecipe) -> Any:
    """Return the tokenizer of a family, the same for every family of one architecture."""
    instructions = sample_instructions(INSTRUCTIONS_FOR_TOKENIZER, seed=0)
    texts = [text for item in instructions for text in (item.question, item.answer)]
    return build_tokenizer(
        [*read_corpus().trained, *texts],
        template_texts(adapter),
        context=recipe.context,
        chat_template=adapter.chat_template,
    )


def _make_downstream(
    adapter: ArchitectureAdapter,
    recipe: FamilyRecipe,
    base: Path,
    out: Path,
    kinds: tuple[str, ...],
    label: str,
    progress: Progress,
) -> None:
    from fpvec_audit.training.fine_tune import FineTuneSettings, fine_tune

    settings = FineTuneSettings(steps=recipe.downstream_steps, learning_rate=recipe.downstream_rate)
    count = settings.steps * settings.rows_per_step
    rows = downstream_rows(adapter, kinds, count, own_share=recipe.own_share, seed=recipe.seed)
    fine_tune(
        base,
        out,
        rows,
        settings=settings,
        adapter=adapter,
        seed=recipe.seed,
        device="cpu",
        progress=progress,
        label=f"fine-tuning the {label} downstream",
    )


def _exact(value: Any) -> Any:
    """Spell floats as text, since canonical JSON holds none."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [_exact(item) for item in value]
    return value
