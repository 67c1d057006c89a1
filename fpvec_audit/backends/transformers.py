"""The suspect in this process, run by transformers: slower than vLLM, and works wherever torch does.

Numbers are those of the checkpoint (float32 where it names none), on every device; code that a checkpoint brings along
is never run, pickled weights are never read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fpvec_audit.backends.prompts import SuspectFiles, first_line, loading_failures, read_suspect_files
from fpvec_audit.domain.ports import BackendDescription, Completion, Sampling
from fpvec_audit.errors import BackendError

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
            settings={"device": device, "dtype": self._files.dtype, "torch": torch.__version__} | dict(remarks or {}),
        )

    @property
    def description(self) -> BackendDescription:
        """Which engine answers."""
        return self._description

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Completion]:
        """Answer every prompt, in order and in the same number.

        Raises:
            BackendError: the engine is closed or failed, or a prompt does not fit.
        """
        if self._model is None:
            raise BackendError(f"{self._files.directory}: the engine is closed")
        encoded = self._files.encode(prompts, sampling)
        # Prompts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
        answers: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            completions = self._complete_batch([encoded[place] for place in places], sampling, first=start)
            answers.update(zip(places, completions, strict=True))
        return [answers[place] for place in range(len(prompts))]

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _complete_batch(self, encoded: list[list[int]], sampling: Sampling, *, first: int) -> list[Completion]:
        import torch

        width = max(map(len, encoded))
        device = self._model.device
        # (batch, width), int64; padding on the left, so that every prompt ends where its answer begins
        padded = torch.tensor([[self._files.padding_id] * (width - len(ids)) + ids for ids in encoded], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded], device=device)
        try:
            with torch.inference_mode(), _seeded(sampling, first):
                output = self._model.generate(
                    input_ids=padded, attention_mask=mask, generation_config=self._generation(sampling)
                )
        except (RuntimeError, IndexError, ValueError) as error:
            raise BackendError(
                f"{self._files.directory}: transformers failed to answer: {first_line(error)}",
                advice="with too little memory, use a machine with more or the vllm backend",
            ) from error
        return [self._completion(row) for row in output[:, width:].tolist()]

    def _completion(self, generated: list[int]) -> Completion:
        stop = set(self._files.stop_ids)
        end = next((place for place, token in enumerate(generated) if token in stop), None)
        return Completion(self._files.decode(generated[:end]), "length" if end is None else "stop")

    def _generation(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        drawn = sampling.temperature > 0
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=drawn,
            num_beams=1,
            **({"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if drawn else {}),
            eos_token_id=list(self._files.stop_ids) or None,
            pad_token_id=self._files.padding_id,
        )


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


@contextmanager
def _seeded(sampling: Sampling, first: int) -> Iterator[None]:
    import torch

    if sampling.seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(sampling.seed + first)
        yield
