"""Which files a stamped base gets from the adapter's directory, beside or instead of its own.

* A downstream model that is a base and an adapter speaks with the adapter's tokenizer, if that has one: it may have
  further tokens or a chat template. With a vocabulary of its own, its tokenizer files take the place of all of the
  base's; without one, its files take the place of those of the same name, and its chat template that of the base's.
* An adapter that is kept lies in ``adapter``, its files as they are.
* Everything else – configuration, generation settings, model card – is the base's.
"""

from dataclasses import replace
from pathlib import Path

from fpvec_audit.domain.checkpoint import Checkpoint
from fpvec_audit.errors import CheckpointError
from fpvec_audit.tensors.adapter import PeftAdapter
from fpvec_audit.tensors.rewrite import CarriedFiles, other_files

KEPT = "adapter"
"""Directory of a kept adapter in the stamped model."""
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json",
)  # fmt: skip
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
TOKENIZER = (
    *VOCABULARIES, *TEMPLATES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "target.spm",
)  # fmt: skip
"""Names of tokenizer files and directories, as transformers saves them."""


def files_of_both(base: Checkpoint, adapter: PeftAdapter, *, keep: bool) -> CarriedFiles:
    """Return the files beside the tensors that a stamped base with an adapter has.

    Args:
        base: the model that is stamped.
        adapter: its adapter.
        keep: whether the adapter lies beside it in the end.

    Raises:
        CheckpointError: a link leads out of a directory, something is no regular file, or the base has a file where
            the adapter would lie.
    """
    found, own = other_files(base), other_files(adapter.files)
    home = adapter.path.resolve()
    at_top = {name: path for name, path in found.carried.items() if not path.absolute().resolve().is_relative_to(home)}
    carried = _with_tokenizer(at_top, {name: path for name, path in own.carried.items() if _top(name) in TOKENIZER})
    if not keep:
        return replace(found, carried=carried)
    taken = [name for name in carried if _top(name) == KEPT]
    if taken:
        raise CheckpointError(
            f"{base.path / taken[0]} lies where the adapter would: in {KEPT}",
            advice="remove it from the base, or stamp with --adapter merge",
        )
    weights = {file: adapter.path / file for file in adapter.files.files}
    kept = {f"{KEPT}/{name}": path for name, path in sorted({**own.carried, **weights}.items())}
    return CarriedFiles({**carried, **kept}, (*found.left_out, *(f"{KEPT}/{name}" for name in own.left_out)))


def _with_tokenizer(base: dict[str, Path], own: dict[str, Path]) -> dict[str, Path]:
    """Lay the adapter's tokenizer files over the base's files."""
    tops = {_top(name) for name in own}
    replaced: set[str] = set()
    if tops.intersection(VOCABULARIES):
        replaced = set(TOKENIZER)
    elif tops.intersection(TEMPLATES):
        replaced = set(TEMPLATES)
    return dict(sorted({**{name: path for name, path in base.items() if _top(name) not in replaced}, **own}.items()))


def _top(name: str) -> str:
    return name.split("/", 1)[0]
