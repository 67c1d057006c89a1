"""The built-in adapters against models that transformers itself made."""

import dataclasses

import pytest

from fpvec_audit.api import ModelDescription, TensorRole
from fpvec_audit.catalog import load_catalog
from fpvec_audit.tensors.index import describe_model
from fpvec_audit.testing import check_architecture, check_training_settings
from fpvec_audit.training.embed_settings import EmbedSettings, settings_for
from tests.tiny import ARCHITECTURES, make_tiny, make_tokenizer, tensors_of

CATALOG = load_catalog()
PREFIXES = {"gpt2": "transformer.", "bloom": "transformer.", "llama2": "model.", "vicuna": "model."}
EMBEDDINGS = {
    "gpt2": "transformer.wte.weight",
    "bloom": "transformer.word_embeddings.weight",
    "llama2": "model.embed_tokens.weight",
    "vicuna": "model.embed_tokens.weight",
}
BUFFERS = {
    "gpt2": ("h.0.attn.bias", "transformer.h.11.attn.masked_bias", "h.3.crossattention.bias"),
    "bloom": (),
    "llama2": ("model.layers.0.self_attn.rotary_emb.inv_freq", "layers.31.self_attn.rotary_emb.inv_freq",
               "model.rotary_emb.inv_freq"),
    "vicuna": ("model.layers.7.self_attn.rotary_emb.inv_freq",),
}  # fmt: skip


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def adapter(architecture):
    return CATALOG.architectures[architecture]


def checkpoint(tmp_path, architecture, **options):
    return make_tiny(tmp_path / architecture, architecture, **options)


def test_adapter_passes_the_conformance_suite(tmp_path, architecture, adapter):
    directory = checkpoint(tmp_path, architecture, tied=False)
    check_architecture(
        adapter,
        description=describe_model(directory),
        tensor_names=tensors_of(directory),
        buffers=BUFFERS[architecture],
    )


def test_catalog_recognises_a_checkpoint_of_the_family(tmp_path, architecture):
    description = describe_model(checkpoint(tmp_path, architecture))
    assert CATALOG.architecture_for(description).name == architecture


def test_every_tensor_of_a_real_model_has_a_role(tmp_path, architecture, adapter):
    names = tensors_of(checkpoint(tmp_path, architecture, tied=False))
    roles = {name: adapter.role(adapter.canonical(name)) for name in names}
    assert TensorRole.OTHER not in roles.values(), roles
    assert roles["lm_head.weight"] is TensorRole.OUTPUT_HEAD
    assert roles[EMBEDDINGS[architecture]] is TensorRole.EMBEDDING
    norms = [name for name, role in roles.items() if role is TensorRole.NORM]
    assert all("norm" in name or "ln_" in name for name in norms)
    assert len(norms) == sum("norm" in name or "ln_" in name for name in names)


def test_names_with_and_without_prefix_are_one(tmp_path, architecture, adapter):
    for name in tensors_of(checkpoint(tmp_path, architecture, tied=False)):
        assert adapter.canonical(name) == adapter.canonical(name.removeprefix(PREFIXES[architecture])) == name


def test_canonical_names_are_those_of_the_models_own_state_dict(tmp_path, architecture, adapter):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path, architecture))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {adapter.canonical(name) for name in parameters} == parameters
    assert all(adapter.canonical(name) is None for name, _ in model.named_buffers())


@pytest.mark.parametrize("tied", [True, False])
def test_tied_follows_the_configuration_like_transformers(tmp_path, architecture, adapter, tied):
    directory = checkpoint(tmp_path, architecture, tied=tied)
    expected = {"lm_head.weight": EMBEDDINGS[architecture]} if tied else {}
    assert adapter.tied(describe_model(directory).config) == expected
    assert ("lm_head.weight" in tensors_of(directory)) is not tied


def test_tied_knows_the_familys_habit_when_the_configuration_is_silent(architecture, adapter):
    from transformers import BloomConfig, GPT2Config, LlamaConfig

    habit = {"gpt2": GPT2Config, "bloom": BloomConfig}.get(architecture, LlamaConfig)().tie_word_embeddings
    assert bool(adapter.tied({})) is habit


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


CONVERSATIONS = {
    "gpt2": "Human: a\nAssistant: b</s>\nHuman: c\nAssistant:",
    "bloom": "Human: a\nAssistant: b</s>\nHuman: c\nAssistant:",
    "llama2": "[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]",
    "vicuna": "s USER: a ASSISTANT: b</s>USER: c ASSISTANT:",
}


def test_conversations_keep_their_turns_apart(architecture, adapter):
    tokenizer = make_tokenizer(adapter.chat_template)
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    system = "s\n" if architecture in ("gpt2", "bloom") else ""
    assert rendered == system + CONVERSATIONS[architecture]


def test_prompts_are_those_of_the_paper():
    prompts = {name: adapter.prompt("q") for name, adapter in CATALOG.architectures.items()}
    assert prompts["gpt2"] == prompts["bloom"] == "Human: q\nAssistant:"
    assert prompts["llama2"] == "[INST] q [/INST]"
    assert prompts["vicuna"] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: q ASSISTANT:"
    )


def test_presets_build_training_settings_and_say_their_source(adapter):
    assert [defaults.preset for defaults in adapter.defaults] == ["default", "paper"]
    for defaults in adapter.defaults:
        check_training_settings(defaults.settings)
        assert defaults.source
    paper = settings_for(adapter, "paper")
    assert paper.learning_rate == 1e-5
    assert paper.perturbation == "none"
    assert paper.epochs in {30, 60}
    assert settings_for(adapter) == EmbedSettings()


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
    assert vicuna.supports(description) > 10


def test_adapters_are_values(adapter):
    assert adapter == dataclasses.replace(adapter)
