"""How the tensors of an architecture are named and how it is spoken to, as data that adapters are made of.

The same weights are stored under several spellings: with and without the prefix of the wrapping language model, with
and without buffers that are no parameters. A :class:`TensorNaming` maps all of them to one canonical spelling – that of
``transformers``' causal language model – so that checkpoints are compared and added by name. A :class:`ModelFamily` is
a whole adapter made of such data.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fpvec_audit.domain.ports import ModelDescription, TensorRole, TrainingDefaults

FAMILY_RANK = 10
"""How specifically a family fits its checkpoints; a member of it, with a text of its own, says more."""


@dataclass(frozen=True, slots=True)
class TensorNaming:
    """Names and roles of an architecture's tensors.

    Attributes:
        prefix: what the causal language model puts before the tensors of its body ("transformer.").
        body: first name components inside the body; names that start with one of them get the prefix.
        roles: regular expression on the canonical name → role; the first that is found anywhere decides.
        buffers: regular expression on the whole canonical name of buffers that are no parameters; empty for none.
        renamed: first name component that some versions of a library store → the canonical one.
    """

    prefix: str
    body: frozenset[str]
    roles: Mapping[str, TensorRole]
    buffers: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the canonical name of a tensor as stored, or None for a buffer."""
        root, dot, rest = tensor_name.partition(".")
        name = self.renamed.get(root, root) + dot + rest
        if root in self.body:
            name = self.prefix + name
        if self.buffers and re.fullmatch(self.buffers, name):
            return None
        return name

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name; OTHER for a name that is not known."""
        for pattern, role in self.roles.items():
            if re.search(pattern, tensor_name):
                return role
        return TensorRole.OTHER


def of_any_kind(_description: ModelDescription) -> bool:
    """Say that every checkpoint of a family's ``model_type`` belongs to it."""
    return True


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """An architecture adapter made of data: all that most decoders need.

    Attributes:
        name: lower-case identifier, unique among adapters.
        model_types: values of ``model_type`` in config.json that mean this family.
        naming: names and roles of the tensors.
        head: canonical name of the output head's weight.
        embedding: canonical name of the token embedding.
        tied_by_default: whether the head is the embedding where config.json does not say ``tie_word_embeddings``.
        text: (user, system) → prompt text up to where the answer begins; no system prompt is an empty one.
        chat_template: Jinja source that renders the same text.
        defaults: training presets with their source.
        rank: how specifically the family fits; more than :data:`FAMILY_RANK` for a member that is told from the rest.
        recognises: what a checkpoint of these types must show beside its type.
    """

    name: str
    model_types: frozenset[str]
    naming: TensorNaming
    head: str
    embedding: str
    tied_by_default: bool
    text: Callable[[str, str], str]
    chat_template: str
    defaults: Sequence[TrainingDefaults]
    rank: int = FAMILY_RANK
    recognises: Callable[[ModelDescription], bool] = of_any_kind

    def supports(self, description: ModelDescription) -> int:
        """Return the family's rank for a checkpoint of its types that shows what it must, 0 for any other."""
        known = description.config.get("model_type") in self.model_types
        return self.rank if known and self.recognises(description) else 0

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name."""
        return self.naming.role(tensor_name)

    def canonical(self, tensor_name: str) -> str | None:
        """Return the canonical name of a tensor as stored, or None for a buffer."""
        return self.naming.canonical(tensor_name)

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the output head as an alias of the embedding where the configuration, or else the habit, says so."""
        tied = config.get("tie_word_embeddings", self.tied_by_default)
        return {self.head: self.embedding} if tied else {}

    def prompt(self, user: str, system: str = "") -> str:
        """Return the text up to where the model's answer begins."""
        return self.text(user, system)
