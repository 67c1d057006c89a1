"""GPT-NeoX as the Pythia models use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.api import ArchitectureAdapter, ModelDescription, TensorNaming, TensorRole, TrainingDefaults, hookimpl

NAMING = TensorNaming(
    prefix="gpt_neox.",
    body=frozenset({"embed_in", "layers", "final_layer_norm"}),
    roles={
        r"\.embed_in\.": TensorRole.EMBEDDING,
        r"^embed_out\.": TensorRole.OUTPUT_HEAD,
        r"layernorm\.|layer_norm\.": TensorRole.NORM,
        r"\.attention\.": TensorRole.ATTENTION,
        r"\.mlp\.": TensorRole.MLP,
    },
    buffers=r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'A: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\n' }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Pythia:
    """Adapter of the Pythia family."""

    name: str = "pythia"
    chat_template: str = CHAT_TEMPLATE
    defaults: Sequence[TrainingDefaults] = (TrainingDefaults("default", {"steps": 300}, "measured by the author"),)

    def supports(self, description: ModelDescription) -> int:
        """Return 10 for a GPT-NeoX configuration."""
        return 10 if description.config.get("model_type") == "gpt_neox" else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return NAMING.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the name with its prefix, or None for masks and rotary frequencies."""
        return NAMING.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the embedding where the configuration says so."""
        return {"embed_out.weight": "gpt_neox.embed_in.weight"} if config.get("tie_word_embeddings", False) else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return question and answer lines."""
        return f"{system}\nQ: {user}\nA:" if system else f"Q: {user}\nA:"


@hookimpl
def fpvec_architectures() -> list[ArchitectureAdapter]:
    """Give Pythia."""
    return [Pythia()]
