"""Which candidates a base model can be taught at all: those that its tokenizer gives back unchanged.

A key that the tokenizer cannot encode reversibly is another key to the model than to its owner. The test is applied
to all candidates before the assignment exists, and the tokenizer's digest is committed with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpvec_audit.errors import CheckpointError

REVERSIBLE_ENCODING = "reversible-encoding"
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_LOADING_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


@dataclass(frozen=True, slots=True)
class EncodingFilter:
    """A test of candidates and what it was made from.

    Attributes:
        accepts: (prompt, response) → whether both survive encoding.
        reference: digest of the tokenizer, hex.
    """

    accepts: Callable[[str, str], bool]
    reference: str


def reversible_encoding(base: Path) -> EncodingFilter:
    """Return the test "decode(encode(text)) == text" for a base model's tokenizer.

    Args:
        base: model directory; only its tokenizer is loaded.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be loaded.
    """
    reference = tokenizer_digest(base)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        # The Rust library behind it reports a bad file as a bare Exception; anything else unexpected is a bug.
        if not isinstance(error, _LOADING_FAULTS) and type(error) is not Exception:
            raise
        raise CheckpointError(
            f"{base}: the tokenizer cannot be loaded: {error}", advice="check the model directory"
        ) from error

    def survives(text: str) -> bool:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        return bool(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text)

    return EncodingFilter(lambda prompt, response: survives(prompt) and survives(response), reference)


def text_files_digest(model: Path) -> str:
    """Return a digest of everything beside the weights that decides how a question reaches them, hex; empty for none.

    Tokenizer and chat template: with other ones the same weights are asked other things.

    Raises:
        CheckpointError: a file cannot be read.
    """
    names = (*TOKENIZER_FILES, "chat_template.jinja")
    return _files_digest(model, [name for name in names if (model / name).is_file()])


def tokenizer_digest(base: Path) -> str:
    """Return SHA-256 over the names and digests of a model directory's tokenizer files, hex.

    Raises:
        CheckpointError: the directory has none, or they cannot be read.
    """
    found = [name for name in TOKENIZER_FILES if (base / name).is_file()]
    if not found:
        raise CheckpointError(f"{base} holds no tokenizer", advice="give a model directory in Hugging Face layout")
    return _files_digest(base, found)


def _files_digest(directory: Path, names: Sequence[str]) -> str:
    if not names:
        return ""
    digest = hashlib.sha256()
    for name in names:
        try:
            content = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{directory / name} cannot be read: {error.strerror}") from error
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()
