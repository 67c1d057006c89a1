"""The suspect in this process, run by transformers: slower than vLLM, and works wherever torch does.

Numbers are those of the checkpoint (float32 where it names none), on every device; code that a checkpoint brings along
is never run, pickled weights are never read.

Answers are always the argmax of something: of the logits, or, where they are drawn, of the logits with noise from a
generator of each prompt's own (the Gumbel-max trick), so that a draw does not depend on what else is in its batch.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.backends.prompts import (
    EncodedPair,
    SuspectFiles,
    draw_seeds,
    first_line,
    likelihood,
    loading_failures,
    read_suspect_files,
)
from fpvec_audit.domain.ports import BackendDescription, Completion, Likelihood, Sampling
from fpvec_audit.errors import BackendError

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SIZE = 64


class TransformersBackend:
    """A suspect loaded by transformers; batches are padded on the left.

    Args:
        model: checkpoint directory.
        device: torch device; ``auto`` is CUDA where there is one.
        batch_size: prompts answered at once.
        remarks: further settings to record, such as why this engine answers.

    Raises:
        CheckpointError: the directory cannot be read.
        BackendError: the weights cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        batch_size: int = BATCH_SIZE,
        remarks: Mapping[str, str] | None = None,
    ) -> None:
        import torch
        import transformers

        self._files = read_suspect_files(model)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = _load(self._files, device)
        self._batch_size = batch_size
        self._description = BackendDescription(
            kind="transformers",
            model=str(model),
            engine="transformers",
            version=transformers.__version__,
            deterministic=device == "cpu",
            settings={
                "device": device,
                "dtype": self._files.dtype,
                # The same call gives the same bits on a processor; how prompts share batches changes the last ones.
                "mode": "repeatable" if device == "cpu" else "plain",
                "torch": torch.__version__,
            }
            | dict(remarks or {}),
        )

    @property
    def description(self) -> BackendDescription:
        """Which engine answers."""
        return self._description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt, in order and in the same number.

        A drawn answer depends on the seed, the prompt and how many equal prompts stand before it in this call, up to
        rounding, which depends on the batch.

        Raises:
            BackendError: the engine is closed or failed, or a prompt does not fit.
        """
        self._require_open()
        encoded = self._files.encode(prompts, sampling)
        seeds = _seeds(encoded, sampling)
        answers: dict[int, Completion] = {}
        for places in self._batches([len(ids) for ids in encoded]):
            completions = self._complete_batch(
                [encoded[place] for place in places], sampling, seeds=[seeds[place] for place in places]
            )
            answers.update(zip(places, completions, strict=True))
        return [answers[place] for place in range(len(prompts))]

    def log_likelihoods(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[Likelihood | None]:
        """Return how likely each response is right after the prompt beside it, in order and in the same number.

        Log-probabilities are taken in float32, whatever the suspect's dtype, over the whole vocabulary. None where
        no token begins within the response, or where a log-probability is not finite.

        Raises:
            BackendError: the engine is closed or failed, or a pair does not fit.
        """
        self._require_open()
        pairs = self._files.encode_pairs(prompts, responses)
        answers: dict[int, Likelihood | None] = {}
        for places in self._batches([len(pair.ids) for pair in pairs]):
            batch = [pairs[place] for place in places]
            with self._failing("to tell likelihoods"):
                answers.update(zip(places, map(likelihood, self._response_values(batch)), strict=True))
        return [answers[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _require_open(self) -> None:
        if self._model is None:
            raise BackendError(f"{self._files.directory}: the engine is closed")

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the places of prompts that share a batch: those of like length, so that little of it is padding."""
        order = sorted(range(len(lengths)), key=lambda place: lengths[place])
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError, ValueError) as error:
            raise BackendError(
                f"{self._files.directory}: transformers failed {what}: {first_line(error)}",
                advice="with too little memory, use a machine with more or the vllm backend",
            ) from error

    def _complete_batch(
        self, encoded: list[list[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        import torch
        from transformers import LogitsProcessorList

        width = max(map(len, encoded))
        device = self._model.device
        # (batch, width), int64; padding on the left, so that every prompt ends where its answer begins
        padded = torch.tensor([[self._files.padding_id] * (width - len(ids)) + ids for ids in encoded], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded], device=device)
        likeliest = _LikeliestFirst(sampling.first_tokens)
        draw = [_Draw(sampling, seeds)] if sampling.temperature > 0 else []
        with self._failing("to answer"), torch.inference_mode():
            output = self._model.generate(
                input_ids=padded,
                attention_mask=mask,
                generation_config=self._generation(sampling),
                logits_processor=LogitsProcessorList([likeliest, *draw]),
            )
        told = likeliest.told or [[]] * len(encoded)
        rows = output[:, width:].tolist()
        return [self._completion(row, first) for row, first in zip(rows, told, strict=True)]

    def _completion(self, generated: list[int], first: Sequence[tuple[int, float]]) -> Completion:
        stop = set(self._files.stop_ids)
        end = next((place for place, token in enumerate(generated) if token in stop), None)
        return Completion(
            self._files.decode(generated[:end]),
            "length" if end is None else "stop",
            first_tokens=self._files.first_tokens(first),
        )

    def _generation(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(self._files.stop_ids) or None,
            pad_token_id=self._files.padding_id,
        )

    def _response_values(self, pairs: Sequence[EncodedPair]) -> list[list[float]]:
        """Return the log-probabilities of each response's tokens."""
        import torch

        width = max(len(pair.ids) for pair in pairs)
        device = self._model.device
        # (batch, width), int64; padding on the right, where no real token of a causal model looks
        ids = torch.tensor([pair.ids + [self._files.padding_id] * (width - len(pair.ids)) for pair in pairs])
        mask = torch.tensor([[1] * len(pair.ids) + [0] * (width - len(pair.ids)) for pair in pairs])
        # position t predicts token t + 1; the last prompt token predicts the first of the response
        spans = [range(len(pair.prompt) - 1, len(pair.ids) - 1) for pair in pairs]
        positions = sorted({at for span in spans for at in span})
        if not positions:
            return [[] for _ in pairs]
        with torch.inference_mode():
            logits = self._logits(ids.to(device), mask.to(device), torch.tensor(positions, device=device))
        row_of = {at: row for row, at in enumerate(positions)}
        values = []
        for pair, span, of_pair in zip(pairs, spans, logits, strict=True):
            # (response, vocabulary) → (response,), float32
            chosen = of_pair[[row_of[at] for at in span]].float().log_softmax(-1)
            values.append([float(row[token]) for row, token in zip(chosen, pair.response, strict=True)])
        return values

    def _logits(self, ids: "Tensor", mask: "Tensor", positions: "Tensor") -> "Tensor":
        """Return the logits at some positions, (batch, positions, vocabulary); the head skips others where it can."""
        sparing = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        keep = {"logits_to_keep": positions} if sparing else {}
        output = self._model(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
        logits: Tensor = output if sparing else output[:, positions]
        return logits


class _LikeliestFirst:
    """Notes the likeliest tokens of the first position while ``generate`` runs; changes nothing.

    Args:
        count: how many to note.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.told: list[list[tuple[int, float]]] = []

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        if self._count and not self.told:
            best = scores.float().log_softmax(-1).topk(min(self._count, scores.shape[-1]))
            self.told = [
                list(zip(tokens, values, strict=True))
                for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        return scores


class _Draw:
    """Turns the argmax of ``generate`` into a draw: adds Gumbel noise to tempered logits within the nucleus.

    Args:
        sampling: temperature above 0, and nucleus mass.
        seeds: one for each prompt of the batch.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        import torch
        from transformers import TopPLogitsWarper

        self._temperature = sampling.temperature
        self._nucleus: Any = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        import torch

        tempered = scores / self._temperature
        if self._nucleus is not None:
            tempered = self._nucleus(input_ids, tempered)
        # (batch, vocabulary); drawn on the processor, so that a seed means the same on every device
        waits = [torch.empty(scores.shape[-1]).exponential_(generator=generator) for generator in self._generators]
        drawn: Tensor = tempered - torch.stack(waits).to(scores.device).log()
        return drawn


def _seeds(encoded: Sequence[Sequence[int]], sampling: Sampling) -> list[int]:
    import torch

    if sampling.temperature <= 0:
        return [0] * len(encoded)
    seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
    return draw_seeds(seed, encoded)


def _load(files: SuspectFiles, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    try:
        with _without_bars():
            model = AutoModelForCausalLM.from_pretrained(
                str(files.directory),
                dtype=getattr(torch, files.dtype, torch.float32),
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
            )
        model = model.to(device).eval()
    except loading_failures() as error:
        raise BackendError(
            f"{files.directory} cannot be loaded by transformers: {first_line(error)}",
            advice="check the checkpoint; `fpvec doctor` says what works here",
        ) from error
    # A suspect's own penalties and sampling defaults must not leak into a greedy answer.
    model.generation_config = GenerationConfig(pad_token_id=files.padding_id)
    return model


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
