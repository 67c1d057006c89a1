"""Tiny checkpoints with random weights, made on the fly, and raw safetensors files for what no library would write.

The models have two layers and about 40,000 parameters; the tokenizer knows bytes and three special tokens. Nothing
here draws from torch's global generator.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.testing import random_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = ("gpt2", "bloom", "llama2", "vicuna")
"""Those that tests of the core go through one by one; the conformance suite goes through all of :data:`FAMILIES`."""
FAMILIES = (
    *ARCHITECTURES,
    *("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt_neox", "opt", "phi", "phi3"),
)
MODEL_TYPES = {"llama2": "llama", "vicuna": "llama", "gemma3": "gemma3_text"}
"""What config.json calls a family, where that is not its name."""
EMBEDDINGS = {
    "gpt2": "transformer.wte.weight",
    "bloom": "transformer.word_embeddings.weight",
    "gpt_neox": "gpt_neox.embed_in.weight",
    "opt": "model.decoder.embed_tokens.weight",
}
"""Canonical name of a family's token embedding, where that is not Llama's."""
PREFIXES = ("transformer.", "gpt_neox.", "model.")
DTYPES = ("float32", "bfloat16", "float16")
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
VOCABULARY = 256 + len(SPECIAL_TOKENS) + 1  # one row to spare, as real checkpoints have
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
VICUNA_TEMPLATE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. {% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {{ message['content'] }} {% else %}"
    "ASSISTANT: {{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
INDEX = "model.safetensors.index.json"


def make_tiny(
    directory: Path,
    architecture: str,
    *,
    dtype: str = "float32",
    seed: int = 0,
    tied: bool | None = None,
    sharded: bool = False,
    prefix: bool = True,
    buffers: bool = False,
    stored_alias: bool = False,
    tokenizer: bool = True,
    chat_template: str | None = None,
    vocabulary: int = VOCABULARY,
    hidden: int = 32,
    heads: int = 1,
) -> Path:
    """Write a two-layer model with random weights and its tokenizer, and return the directory.

    Args:
        directory: where to; made if it does not exist.
        architecture: one of :data:`FAMILIES`, or ``gptj``, which no built-in adapter knows.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        seed: equal seeds make equal weights.
        tied: whether the output head is the embedding; the family's habit when None.
        sharded: write several shards and an index instead of one file.
        prefix: keep ``transformer.`` or ``model.`` before names, as transformers does; the hub's GPT-2 and Bloom drop
            it.
        buffers: store GPT-2's causal masks too, as the hub's GPT-2 does; other families have none.
        stored_alias: store a tied head a second time, under its own name, as some checkpoints do.
        tokenizer: save the byte tokenizer beside the weights.
        chat_template: Jinja source saved with the tokenizer; the v1.1 text for ``vicuna`` when None.
        vocabulary: number of embedding rows, at least the tokenizer's 259.
        hidden: width.
        heads: attention heads; one of 32 is what vLLM runs on a CPU.
    """
    config = make_config(architecture, tied=tied, vocabulary=vocabulary, hidden=hidden, heads=heads)
    random_checkpoint(directory, config, seed=seed, dtype=dtype, max_shard_size="40KB" if sharded else "1GB")
    if architecture == "vicuna":
        edit_json(directory / "config.json", _name_or_path="lmsys/vicuna-7b-v1.5")
        chat_template = VICUNA_TEMPLATE if chat_template is None else chat_template
    if not prefix or buffers or stored_alias:
        _restore_layout(directory, architecture, prefix=prefix, buffers=buffers, stored_alias=stored_alias)
    if tokenizer:
        make_tokenizer(chat_template).save_pretrained(directory)
    return directory


def make_config(
    architecture: str,
    *,
    tied: bool | None = None,
    vocabulary: int = VOCABULARY,
    hidden: int = 32,
    heads: int = 1,
) -> Any:
    """Return the configuration of a two-layer model; the arguments are those of :func:`make_tiny`."""
    from transformers import AutoConfig

    size = {"num_hidden_layers": 2, "hidden_size": hidden, "num_attention_heads": heads}
    own: dict[str, Any] = {"intermediate_size": 2 * hidden, "max_position_embeddings": 256}
    if architecture in ("gpt2", "gptj"):
        own = {"n_positions": 256}
    elif architecture == "bloom":
        own = {}
    elif architecture == "opt":
        own = {"ffn_dim": 2 * hidden, "word_embed_proj_dim": hidden, "max_position_embeddings": 256}
    elif architecture != "gpt_neox":
        own |= {"num_key_value_heads": heads}
    if architecture == "gptj":
        own |= {"rotary_dim": 8}
    if architecture.startswith(("gemma", "qwen3")):
        own |= {"head_dim": hidden // heads}
    common = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": vocabulary}
    ties = {} if tied is None else {"tie_word_embeddings": tied}
    return AutoConfig.for_model(MODEL_TYPES.get(architecture, architecture), **size, **own, **common, **ties)


def make_tokenizer(chat_template: str | None = None) -> Any:
    """Return a tokenizer of 256 bytes and three special tokens, made without any file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[1],
        pad_token=SPECIAL_TOKENS[2],
        chat_template=chat_template,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def tensors_of(directory: Path) -> dict[str, "Tensor"]:
    """Return every stored tensor of a checkpoint or vector directory, whatever its layout."""
    from safetensors.torch import load_file

    return {name: value for file in sorted(directory.glob("*.safetensors")) for name, value in load_file(file).items()}


def rewrite(source: Path, target: Path, change: Callable[[str, "Tensor"], "Tensor"]) -> Path:
    """Copy a checkpoint and change its tensors one by one; layout and other files stay as they are.

    Args:
        source: checkpoint directory.
        target: directory to write; must not exist.
        change: (stored name, tensor) → new tensor.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    for file in target.glob("*.safetensors"):
        changed = {name: change(name, tensor).contiguous() for name, tensor in load_file(file).items()}
        save_file(changed, file, metadata={"format": "pt"})
    return target


def perturb(source: Path, target: Path, *, seed: int = 1, size: float = 1e-2, exact: bool = False) -> Path:
    """Write a fine-tune of a checkpoint: every weight moved by a little random amount.

    The amount depends on the tensor's content alone, so that stored aliases stay alike and layouts do not matter.

    Args:
        source: checkpoint directory.
        target: directory to write; must not exist.
        seed: equal seeds make equal changes.
        size: standard deviation of the change.
        exact: round to weights that base plus a stored vector gives back bit for bit, as fingerprint training does.
    """
    import torch

    from fpvec_audit.tensors.representable import representable

    def change(name: str, tensor: "Tensor") -> "Tensor":
        if not tensor.dtype.is_floating_point or name.endswith(("attn.bias", "attn.masked_bias")):
            return tensor
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        generator = torch.Generator().manual_seed(hash_of(seed, content))
        moved = (tensor.float() + size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        return representable(tensor, moved) if exact else moved

    return rewrite(source, target, change)


def bare_name(name: str) -> str:
    """Return a stored tensor name without the prefix of the model's body."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def hash_of(seed: int, content: bytes) -> int:
    """Return a number that depends on a seed and some bytes."""
    return int.from_bytes(sha256(seed.to_bytes(8, "big") + content).digest()[:4], "big")


def write_raw(path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a safetensors file byte by byte, truthful or not.

    Args:
        path: file to write.
        header: JSON object, or the bytes that stand in its place.
        data: what follows the header.
        length: header length to claim; the true one when None.
    """
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((len(content) if length is None else length).to_bytes(8, "little") + content + data)
    return path


def write_checkpoint(
    directory: Path,
    tensors: Mapping[str, "Tensor"],
    *,
    config: Mapping[str, Any] | None = None,
    shards: int = 1,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write chosen tensors as a checkpoint: a config and one safetensors file, or shards dealt out in turn."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or {"model_type": "unheard-of"}))
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", metadata=dict(metadata or {"format": "pt"}))
        return directory
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: value for place, (name, value) in enumerate(tensors.items()) if place % shards == number}
        save_file(part, directory / file, metadata=dict(metadata or {"format": "pt"}))
        weight_map |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Change top-level entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def _restore_layout(directory: Path, architecture: str, *, prefix: bool, buffers: bool, stored_alias: bool) -> None:
    """Give a checkpoint saved by transformers the layout that the hub's older ones have."""
    import torch

    config = json.loads((directory / "config.json").read_text())
    tensors = tensors_of(directory)
    shards = len(list(directory.glob("*.safetensors")))
    for file in [*directory.glob("*.safetensors"), *directory.glob(INDEX)]:
        file.unlink()
    head = "embed_out.weight" if architecture == "gpt_neox" else "lm_head.weight"
    if stored_alias and head not in tensors:
        tensors[head] = tensors[EMBEDDINGS.get(architecture, "model.embed_tokens.weight")].clone()
    if buffers and architecture == "gpt2":
        mask = torch.tril(torch.ones(256, 256)).view(1, 1, 256, 256)
        for layer in range(2):
            tensors[f"transformer.h.{layer}.attn.bias"] = mask.clone()
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if not prefix:
        tensors = {bare_name(name): value for name, value in tensors.items()}
    write_checkpoint(directory, tensors, config=config, shards=shards)
