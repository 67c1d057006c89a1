"""How the tensors of an architecture are named, as data that adapters are composed of.

The same weights are stored under several spellings: with and without the prefix of the wrapping language model, with
and without buffers that are no parameters. A :class:`TensorNaming` maps all of them to one canonical spelling – that of
``transformers``' causal language model – so that checkpoints are compared and added by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fpvec_audit.domain.ports import TensorRole


@dataclass(frozen=True, slots=True)
class TensorNaming:
    """Names and roles of an architecture's tensors.

    Attributes:
        prefix: what the causal language model puts before the tensors of its body ("transformer.").
        body: first name components inside the body; names that start with one of them get the prefix.
        roles: regular expression on the canonical name → role; the first that is found anywhere decides.
        buffers: regular expression on the whole canonical name of buffers that are no parameters; empty for none.
    """

    prefix: str
    body: frozenset[str]
    roles: Mapping[str, TensorRole]
    buffers: str = ""

    def canonical(self, tensor_name: str) -> str | None:
        """Return the canonical name of a tensor as stored, or None for a buffer."""
        root = tensor_name.partition(".")[0]
        name = self.prefix + tensor_name if root in self.body else tensor_name
        if self.buffers and re.fullmatch(self.buffers, name):
            return None
        return name

    def role(self, tensor_name: str) -> TensorRole:
        """Return the role of a tensor, given its canonical name; OTHER for a name that is not known."""
        for pattern, role in self.roles.items():
            if re.search(pattern, tensor_name):
                return role
        return TensorRole.OTHER
