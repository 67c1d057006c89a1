"""From text to token ids and back, once for every engine, so that no two engines read a prompt differently.

The rule, stated in ``services/rendering.py``: a rendered prompt is encoded with the special tokens that the suspect's
own tokenizer adds to a text, except that a beginning-of-sequence token is never doubled (templates may write their
own) and an end-of-sequence token is never left behind a prompt. Engines receive ids only. Answers are decoded here too,
special tokens left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpvec_audit.domain.ports import Sampling
from fpvec_audit.errors import BackendError, CheckpointError

WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""Where configurations keep the context window."""


@dataclass(frozen=True, slots=True)
class SuspectFiles:
    """What an engine needs to know of a checkpoint before it loads the weights.

    Attributes:
        directory: the checkpoint.
        tokenizer: its tokenizer.
        config: its configuration, of the text part where it has several.
        stop_ids: token ids that end an answer: those of generation config, config and tokenizer together.
        window: most tokens of prompt and answer together; None where the configuration names no limit.
    """

    directory: Path
    tokenizer: Any
    config: Any
    stop_ids: tuple[int, ...]
    window: int | None

    @property
    def dtype(self) -> str:
        """Number format in which the suspect is run: the checkpoint's own, float32 where it names none."""
        return str(getattr(self.config, "dtype", None) or "float32").removeprefix("torch.")

    @property
    def padding_id(self) -> int:
        """Token id for padding; masked, so any id serves a tokenizer that has none."""
        padding = self.tokenizer.pad_token_id
        if padding is None:
            padding = self.stop_ids[0] if self.stop_ids else 0
        return int(padding)

    def encode(self, prompts: Sequence[str], sampling: Sampling) -> list[list[int]]:
        """Return the token ids of each prompt.

        Raises:
            BackendError: a prompt is empty, or does not fit into the context window with its answer.
        """
        if not prompts:
            return []
        encoded = [self._without_extra(ids) for ids in self.tokenizer(list(prompts))["input_ids"]]
        for place, ids in enumerate(encoded):
            if not ids:
                raise BackendError(f"{self.directory}: prompt {place} encodes to nothing")
            if self.window is not None and len(ids) + sampling.max_new_tokens > self.window:
                raise BackendError(
                    f"{self.directory}: prompt {place} has {len(ids)} tokens, with {sampling.max_new_tokens} for the "
                    f"answer more than the context window of {self.window}",
                    advice="use the raw-greedy profile, a shorter system prompt or shorter keys",
                )
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _without_extra(self, ids: list[int]) -> list[int]:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        if end is not None and end != begin and len(ids) > 1 and ids[-1] == end:
            ids = ids[:-1]
        return ids


def read_suspect_files(model: str | Path) -> SuspectFiles:
    """Read configuration and tokenizer of a checkpoint directory; its code is never run.

    Raises:
        CheckpointError: the directory is missing, holds no safetensors, needs code of its own, or cannot be read.
    """
    directory = Path(model)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is no directory", advice="give a checkpoint in Hugging Face layout")
    if not any(directory.glob("*.safetensors")):
        raise CheckpointError(
            f"{directory} holds no safetensors file",
            advice="convert it: load it with transformers in a sandbox and call save_pretrained",
        )
    config = _config(directory)
    tokenizer = load_tokenizer(directory)
    text_config = config.get_text_config()
    windows = [getattr(text_config, name, None) for name in WINDOW_NAMES]
    return SuspectFiles(
        directory=directory,
        tokenizer=tokenizer,
        config=text_config,
        stop_ids=_stop_ids(directory, text_config, tokenizer),
        window=next((window for window in windows if isinstance(window, int) and window > 0), None),
    )


def load_tokenizer(directory: Path) -> Any:
    """Return a checkpoint's tokenizer; its code is never run.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    _refuse_broken_tokenizer(directory / "tokenizer.json")
    try:
        return AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except loading_failures() as error:
        raise CheckpointError(
            f"{directory}: the tokenizer cannot be loaded: {first_line(error)}",
            advice="check tokenizer.json and tokenizer_config.json; code of its own (trust_remote_code) is never run",
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def loading_failures() -> tuple[type[Exception], ...]:
    """Return what transformers raises for files of strangers that it cannot use."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        *(OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError, AssertionError),
        StrictDataclassError,
        SafetensorError,
    )


def _refuse_broken_tokenizer(path: Path) -> None:
    """Read tokenizer.json once by itself: the library reports a broken one by a bare ``Exception``."""
    from tokenizers import Tokenizer

    if not path.is_file():
        return
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}", advice="restore the file") from error


def _config(directory: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except loading_failures() as error:
        raise CheckpointError(
            f"{directory}: config.json cannot be used: {first_line(error)}",
            advice="models that need code of their own (trust_remote_code) are not run; check config.json",
        ) from error


def _stop_ids(directory: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    import json

    sources: list[Any] = [getattr(config, "eos_token_id", None), tokenizer.eos_token_id]
    generation = directory / "generation_config.json"
    if generation.is_file():
        try:
            sources.insert(0, json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{generation} cannot be read: {error}") from error
    ids: list[int] = []
    for source in sources:
        for identifier in source if isinstance(source, list) else [source]:
            if isinstance(identifier, int) and identifier >= 0 and identifier not in ids:
                ids.append(identifier)
    return tuple(ids)
