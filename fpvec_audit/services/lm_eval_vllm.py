"""One of our vLLM engines as a model of lm-eval.

Importing this module imports lm-eval, whose class has to be inherited from; import it where it is used.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, maybe_truncate, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from fpvec_audit.backends.vllm import VllmBackend
from fpvec_audit.errors import EvaluationError

MOST_NEW_TOKENS = 256
"""Tokens of an answer where a task names no limit; lm-eval's own default."""

TokenRequest = tuple[Any, list[int], list[int]]


class VllmModel(TemplateLM):  # type: ignore[misc]
    """Answers lm-eval's requests greedily.

    Args:
        backend: engine with the model; stays the caller's to close.
    """

    def __init__(self, backend: VllmBackend) -> None:
        super().__init__()
        self._backend = backend
        self.tokenizer = backend.tokenizer
        self.max_length = backend.longest
        self.max_gen_toks = MOST_NEW_TOKENS

    @property
    def eot_token_id(self) -> int:
        """Id of end-of-text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Id that stands before a text without context, as in lm-eval's class for transformers."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """Name under which lm-eval caches rendered prompts."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text; a beginning-of-sequence token that it has already is not doubled."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation in the model's chat template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each text, in windows where it is longer than the context."""
        windows: list[TokenRequest] = []
        owners = []
        for owner, request in enumerate(requests):
            parts = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 2,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, parts):
                windows.append((None, context, continuation))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the greedy answer to each prompt, cut at the first stop sequence."""
        groups: dict[int, list[tuple[int, list[int], list[str]]]] = defaultdict(list)
        for place, request in enumerate(requests):
            prompt, given = request.args
            settings = normalize_gen_kwargs(dict(given), default_max_gen_toks=self.max_gen_toks)
            if settings.get("do_sample"):
                raise EvaluationError("the task samples its answers", advice="use --backend transformers for it")
            stops = handle_stop_sequences(settings.get("until"), self.tokenizer.decode(self.eot_token_id))
            ids, longest = maybe_truncate(
                self.tok_encode(prompt), max_gen_toks=settings["max_gen_toks"], max_model_len=self.max_length
            )
            groups[longest].append((place, ids, stops))
        answers = [""] * len(requests)
        for longest, members in groups.items():
            texts = self._backend.complete_ids([ids for _, ids, _ in members], max_new_tokens=longest)
            for (place, _, stops), text in zip(members, texts, strict=True):
                answers[place] = postprocess_generated_text(text, stops, None)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        room = self.max_length - 1  # the engine generates one token
        texts, starts = [], []
        for _, context, continuation in requests:
            ids = (context + continuation)[-room:]
            texts.append(ids)
            starts.append(max(1, len(ids) - len(continuation)))
        scored = self._backend.ranked_log_probabilities(texts, starts)
        found = [(math.fsum(value for value, _ in tokens), all(rank == 1 for _, rank in tokens)) for tokens in scored]
        for total, _ in found:
            if math.isnan(total):
                raise EvaluationError("the log-probabilities are NaN", advice="the weights are broken")
        return found
