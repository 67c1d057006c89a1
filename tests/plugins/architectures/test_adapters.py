"""What each built-in adapter says of its family; the conformance suite over all is in test_conformance."""

import dataclasses
import re
from pathlib import Path

import pytest

from fpvec_audit.api import ModelDescription, TensorRole
from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.architecture import FAMILY_RANK
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.tensors.naming import named_parameters
from fpvec_audit.testing import check_training_settings
from fpvec_audit.training.embed_settings import EmbedSettings, settings_for
from fpvec_plugins.architectures.gpt2 import NEAR_MISSES
from tests.tiny import EMBEDDINGS, FAMILIES, MODEL_TYPES, bare_name, make_config, make_tiny, make_tokenizer, tensors_of

CATALOG = load_catalog()
ADAPTERS = {"gemma2": "gemma", "gemma3": "gemma"}
"""Tiny model → adapter, where the adapter has another name."""
HEADS = {"gpt_neox": "embed_out.weight"}
ROTARY = ("model.layers.0.self_attn.rotary_emb.inv_freq", "layers.31.self_attn.rotary_emb.inv_freq")
BUFFERS = {
    "gpt2": ("h.0.attn.bias", "transformer.h.11.attn.masked_bias", "h.3.crossattention.bias"),
    "llama2": (*ROTARY, "model.rotary_emb.inv_freq"),
    "vicuna": ROTARY,
    "mistral": ROTARY,
    "gemma2": ("model.embed_tokens.embed_scale",),
    "gemma3": ("model.rotary_emb.sliding_attention_inv_freq",),
    "gpt_neox": ("layers.0.attention.bias", "gpt_neox.layers.5.attention.masked_bias",
                 "gpt_neox.layers.11.attention.rotary_emb.inv_freq"),
}  # fmt: skip
"""What older checkpoints, or loaded models, hold beside parameters."""


DOCUMENT = Path(__file__).parents[3] / "docs" / "architectures.md"


def adapter_of(family):
    return CATALOG.architectures[ADAPTERS.get(family, family)]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=sorted({ADAPTERS.get(family, family) for family in FAMILIES}))
def adapter(request):
    return CATALOG.architectures[request.param]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a function that makes a checkpoint of a family, once."""
    place, made = tmp_path_factory.mktemp("families"), {}

    def make(family, **options):
        key = "-".join([family, *(f"{name}={value}" for name, value in sorted(options.items()))])
        if key not in made:
            made[key] = make_tiny(place / key, family, dtype="bfloat16", tokenizer=False, **options)
        return made[key]

    return make


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in BUFFERS for name in BUFFERS[family]])
def test_buffers_are_no_parameters(family, name):
    assert adapter_of(family).canonical(name) is None


def test_a_tied_head_counts_once_whether_it_is_stored_or_not(checkpoint, family):
    head, embedding = HEADS.get(family, "lm_head.weight"), EMBEDDINGS.get(family, "model.embed_tokens.weight")
    once, twice = checkpoint(family, tied=True), checkpoint(family, tied=True, stored_alias=True)
    assert head not in tensors_of(once)
    assert head in tensors_of(twice)
    names = [named_parameters(read_checkpoint(directory), adapter_of(family)) for directory in (once, twice)]
    assert names[0].parameters.keys() == names[1].parameters.keys()
    assert names[0].tied == names[1].tied == {head: embedding}


def test_tied_knows_the_familys_habit_when_the_configuration_is_silent(family):
    from transformers import AutoConfig

    habit = AutoConfig.for_model(MODEL_TYPES.get(family, family)).tie_word_embeddings
    assert bool(adapter_of(family).tied({})) is habit


def test_every_tensor_of_a_real_model_has_a_role(checkpoint, family):
    adapter = adapter_of(family)
    roles = {name: adapter.role(adapter.canonical(name)) for name in tensors_of(checkpoint(family, tied=False))}
    assert TensorRole.OTHER not in roles.values(), roles
    norms = {name for name, role in roles.items() if role is TensorRole.NORM}
    assert norms == {name for name in roles if "norm" in name or "ln_" in name}


def test_names_with_and_without_prefix_are_one(checkpoint, family):
    adapter = adapter_of(family)
    for name in tensors_of(checkpoint(family, tied=False)):
        assert adapter.canonical(name) == adapter.canonical(bare_name(name)) == name


def test_pythias_head_has_one_name_whatever_a_version_of_transformers_calls_it():
    assert CATALOG.architectures["gpt_neox"].canonical("lm_head.weight") == "embed_out.weight"


def test_projections_of_opt_350m_are_no_rows_of_a_vocabulary():
    assert CATALOG.architectures["opt"].role("model.decoder.project_in.weight") is TensorRole.OTHER


def test_exactly_the_right_adapter_claims_a_configuration(family):
    config = {**make_config(family).to_dict(), **({"_name_or_path": "vicuna-7b"} if family == "vicuna" else {})}
    description = ModelDescription(config)
    claiming = {name for name, adapter in CATALOG.architectures.items() if adapter.supports(description)}
    assert claiming == ({"llama2", "vicuna"} if family == "vicuna" else {adapter_of(family).name})
    assert CATALOG.architecture_for(description).name == adapter_of(family).name


@pytest.mark.parametrize(
    "model_type",
    ["mixtral", "ministral", "qwen2_moe", "qwen3_moe", "qwen3_next", "gemma3", "gemma3n_text", "phimoe",
     "gpt_neox_japanese", "gptj", "stablelm", "llama4_text", "openai-gpt"],
)  # fmt: skip
def test_relatives_with_other_tensors_are_claimed_by_none(model_type):
    description = ModelDescription({"model_type": model_type})
    assert not any(adapter.supports(description) for adapter in CATALOG.architectures.values())


def test_the_documentation_lists_every_adapter_with_its_types_and_habit():
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in DOCUMENT.read_text(encoding="utf-8").splitlines()]
    told = {
        row[0].strip(" `"): ({kind.split()[0] for kind in row[1].split(", ") if "by its" not in kind}, row[3].strip())
        for row in rows
        if len(row) == 5 and "`" in row[0]
    }
    assert told == {
        name: (set(adapter.model_types), "yes" if adapter.tied_by_default else "no")
        for name, adapter in CATALOG.architectures.items()
        if CATALOG.info("architecture", name).distribution == "fpvec-audit"
    }


def test_names_it_does_not_know_stay_as_they_are(adapter):
    assert adapter.canonical("score.weight") == "score.weight"
    assert adapter.role("score.weight") is TensorRole.OTHER


@pytest.mark.parametrize("system", ["", "Answer briefly."])
def test_a_real_tokenizer_renders_the_prompt(adapter, system):
    tokenizer = make_tokenizer(adapter.chat_template)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "Привет, what's 山川?"})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == adapter.prompt("Привет, what's 山川?", system)


PLAIN = "s\nHuman: a\nAssistant: b</s>\nHuman: c\nAssistant:"
CHATML = (
    "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
)
CONVERSATIONS = {
    **dict.fromkeys(("gpt2", "bloom", "gpt_neox", "opt"), PLAIN),
    **dict.fromkeys(("qwen2", "qwen3"), CHATML),
    "llama2": "[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]",
    "vicuna": "s USER: a ASSISTANT: b</s>USER: c ASSISTANT:",
    "mistral": "[INST] s\n\na [/INST] b</s>[INST] c [/INST]",
    "gemma": "<start_of_turn>user\ns\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n"
    "<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n",
    "phi": "s\nInstruct: a\nOutput: b\nInstruct: c\nOutput:",
    "phi3": "<|system|>\ns<|end|>\n<|user|>\na<|end|>\n<|assistant|>\nb<|end|>\n<|user|>\nc<|end|>\n<|assistant|>\n",
}


def test_conversations_keep_their_turns_apart(adapter):
    tokenizer = make_tokenizer(adapter.chat_template)
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == CONVERSATIONS[adapter.name]


def test_prompts_are_those_of_the_paper():
    prompts = {name: adapter.prompt("q") for name, adapter in CATALOG.architectures.items()}
    assert prompts["gpt2"] == prompts["bloom"] == "Human: q\nAssistant:"
    assert prompts["llama2"] == "[INST] q [/INST]"
    assert prompts["vicuna"] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: q ASSISTANT:"
    )


def test_qwen2_alone_has_a_system_sentence_of_its_own():
    prompts = {name: CATALOG.architectures[name].prompt("q") for name in ("qwen2", "qwen3")}
    question = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert prompts["qwen3"] == question
    assert prompts["qwen2"] == f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{question}"


def test_presets_build_training_settings_and_say_their_source(adapter):
    own = ["family"] if adapter.name in {"llama2", "vicuna"} else []
    assert [defaults.preset for defaults in adapter.defaults] == ["default", "paper", *own]
    tried = adapter.name in {"gpt2", "bloom", "llama2", "vicuna"}
    for defaults in adapter.defaults:
        check_training_settings(defaults.settings, preset=defaults.preset)
        assert ("assumption" in defaults.source) is not tried
    paper = settings_for(adapter, "paper")
    assert paper.learning_rate == 1e-5
    assert paper.perturbation == "none"
    assert paper.epochs in {30, 60}
    measured = {} if adapter.name != "gpt2" else NEAR_MISSES.settings
    assert settings_for(adapter) == EmbedSettings(**measured)


VICUNA_CHAT = "{{ ' USER: ' + message }} ASSISTANT:"


@pytest.mark.parametrize(
    ("config", "tokenizer", "name"),
    [
        ({}, {}, "llama2"),
        ({}, {"chat_template": VICUNA_CHAT}, "vicuna"),
        ({"_name_or_path": "lmsys/Vicuna-7b-v1.5"}, {}, "vicuna"),
        ({}, {"name_or_path": "vicuna-13b"}, "vicuna"),
        ({"_name_or_path": "meta-llama/Llama-2-7b"}, {"chat_template": "[INST]"}, "llama2"),
        ({}, {"chat_template": [{"name": "default", "template": VICUNA_CHAT}]}, "vicuna"),
    ],
)
def test_vicuna_is_told_from_llama_by_configuration_or_tokenizer(config, tokenizer, name):
    description = ModelDescription({"model_type": "llama", **config}, tokenizer, "vicuna-by-directory-name-only")
    assert CATALOG.architecture_for(description).name == name


def test_override_decides_between_llama_and_vicuna():
    description = ModelDescription({"model_type": "llama"})
    assert CATALOG.architecture_for(description, override="vicuna").name == "vicuna"


def test_vicunas_own_template_is_recognised_as_vicuna():
    vicuna = CATALOG.architectures["vicuna"]
    description = ModelDescription({"model_type": "llama"}, {"chat_template": vicuna.chat_template})
    assert vicuna.supports(description) > FAMILY_RANK


def test_adapters_are_values(adapter):
    assert adapter == dataclasses.replace(adapter)
