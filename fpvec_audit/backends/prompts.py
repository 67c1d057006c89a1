"""From text to token ids and back, once for every engine, so that no two engines read a prompt differently.

The rule, stated in ``services/rendering.py``: a rendered prompt is encoded with the special tokens that the suspect's
own tokenizer adds to a text, except that a beginning-of-sequence token is never doubled (templates may write their
own) and an end-of-sequence token is never left behind a prompt. Engines receive ids only. Answers are decoded here too,
special tokens left out. What makes engines comparable beyond that stands here too: where a response begins behind a
prompt, when a likelihood counts as missing, and which seed draws the answer to which prompt.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fpvec_audit.domain.ports import Likelihood, Sampling
from fpvec_audit.errors import BackendError, CheckpointError

WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""Where configurations keep the context window."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A prompt and a response right behind it, in token ids.

    Attributes:
        prompt: ids of what the response is conditioned on, at least one.
        response: ids whose likelihood is asked; empty where no token begins within the response.
    """

    prompt: list[int]
    response: list[int]

    @property
    def ids(self) -> list[int]:
        """Both, as the model reads them."""
        return [*self.prompt, *self.response]


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
        encoded = [
            self._without_end(self._without_second_begin(ids)) for ids in self.tokenizer(list(prompts))["input_ids"]
        ]
        for place, ids in enumerate(encoded):
            self._require_fit(place, len(ids), sampling.max_new_tokens)
        return encoded

    def encode_pairs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[EncodedPair]:
        """Return the token ids of each prompt with its response, as training puts them together.

        Prompt and response are joined by one space, encoded as one text, and divided again where the first token begins
        that lies behind the prompt's text. No end-of-sequence token is added: a response may go on.

        Raises:
            BackendError: a prompt is empty or does not fit into the context window with its response (and one token
                more, which an engine generates), or the tokenizer does not tell where its tokens stand in a text.
        """
        if not prompts:
            return []
        if not self.tokenizer.is_fast:
            raise BackendError(
                f"{self.directory}: the tokenizer does not tell where its tokens stand in a text, so likelihoods of "
                "responses are not to be had",
                advice="save it as a fast tokenizer (tokenizer.json)",
            )
        texts = [f"{prompt} {response}" for prompt, response in zip(prompts, responses, strict=True)]
        encoded = self.tokenizer(texts, return_offsets_mapping=True)
        pairs: list[EncodedPair] = []
        for prompt, ids, offsets in zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            edge = len(prompt)
            first = next((at for at, (start, stop) in enumerate(offsets) if start >= edge and stop > start), len(ids))
            pair = EncodedPair(self._without_second_begin(ids[:first]), self._without_end(ids[first:]))
            self._require_fit(len(pairs), len(pair.prompt), len(pair.response) + 1)
            pairs.append(pair)
        return pairs

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, special tokens left out."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def token_text(self, token: int) -> str:
        """Return the text of one token on its own, special tokens by their names."""
        text = self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def first_tokens(self, likeliest: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Return text → log-probability of an answer's likeliest first tokens.

        Of tokens that read alike, such as parts of one character, the likeliest stays.
        """
        told: dict[str, float] = {}
        for token, value in sorted(likeliest, key=lambda entry: (-entry[1], entry[0])):
            if math.isfinite(value):
                told.setdefault(self.token_text(token), value)
        return told

    def _require_fit(self, place: int, tokens: int, new_tokens: int) -> None:
        if not tokens:
            raise BackendError(f"{self.directory}: prompt {place} encodes to nothing")
        if self.window is not None and tokens + new_tokens > self.window:
            raise BackendError(
                f"{self.directory}: prompt {place} has {tokens} tokens, with {new_tokens} for the answer more than "
                f"the context window of {self.window}",
                advice="use the raw-greedy profile, a shorter system prompt or shorter keys",
            )

    def _without_second_begin(self, ids: list[int]) -> list[int]:
        begin = self.tokenizer.bos_token_id
        return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids

    def _without_end(self, ids: list[int]) -> list[int]:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return ids[:-1] if end is not None and end != begin and len(ids) > 1 and ids[-1] == end else ids


def likelihood(values: Sequence[float | None]) -> Likelihood | None:
    """Return the likelihood of a response from the log-probabilities of its tokens.

    None where there is no token, or where one of them is missing, impossible (minus infinity) or not a number.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or len(known) < len(values):
        return None
    return Likelihood(min(math.fsum(known), 0.0), len(known))  # a certain token's may be rounded to above zero


def draw_seeds(seed: int, encoded: Sequence[Sequence[int]]) -> list[int]:
    """Return the seed of each prompt's answer, each in [0, 2^63).

    It depends on the sampling's seed, the prompt's ids, and how many equal prompts stand before it in the same call –
    not on its place or on what else is asked. So the answers stay what they are when prompts are divided otherwise
    over calls, batches, or a run and its resumption.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for ids in encoded:
        key = tuple(ids)
        content = f"{seed}:{seen[key]}:{','.join(map(str, key))}"
        seeds.append(int.from_bytes(sha256(content.encode()).digest()[:8], "big") >> 1)
        seen[key] += 1
    return seeds


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
