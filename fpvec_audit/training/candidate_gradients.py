"""Candidate gradients: did a suspect's weights move towards the answers of some candidates more than of others?

For candidate i, w_i = ⟨h(δ), ∇ log p(r_i | x_i; θ_base)⟩ / ‖∇ log p(r_i | x_i; θ_base)‖, where δ = θ_suspect − θ_base
and h cuts every tensor's δ at three of its standard deviations (about zero). Larger means that the suspect moved
towards the answer. The suspect is never run: its weights alone speak.

Guarded here: nothing in this module knows which candidates are issued, every candidate is treated alike whatever stands
beside it, and the score of a candidate does not depend on the others. So, under the hypothesis that the suspect is
independent of the assignment, a rank test over the scores is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fpvec_audit.domain.ports import ArchitectureAdapter
from fpvec_audit.domain.vector import VOCABULARY_ROLES
from fpvec_audit.errors import CheckpointError, TrainingError
from fpvec_audit.progress import NO_PROGRESS, Progress, Step
from fpvec_audit.tensors.difference import ModelDifference
from fpvec_audit.tensors.index import read_checkpoint
from fpvec_audit.training.dataset import EncodedRow, Row, encode_rows, pad_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

Scores = tuple[float | None, float | None]
"""w over all weights, w over those of the vocabulary."""
CLIP = 3
"""Standard deviations at which a tensor's differences are cut: a few large elements shall not decide."""
_SPAN = 1 << 22


@dataclass(frozen=True, slots=True)
class CandidateGradients:
    """How far a suspect moved towards the answer of every candidate.

    Attributes:
        scores: w_i per candidate over all weights, in the order given; None where there is none. In units of the
            weights.
        vocabulary_scores: the same over the embedding and the output head alone, where answers of one token leave
            their clearest mark.
        remarks: what did not count and why scores are missing, in sentences.
    """

    scores: tuple[float | None, ...]
    vocabulary_scores: tuple[float | None, ...]
    remarks: tuple[str, ...] = ()


class GradientWeights(StrEnum):
    """Which weights a test of candidate gradients looks at; settled in the plan, before the suspect is."""

    ALL = "all"
    VOCABULARY = "vocabulary"


def candidate_scores(
    base: Path,
    suspect: Path,
    *,
    prompts: Sequence[str],
    responses: Sequence[str],
    adapter: ArchitectureAdapter | None,
    weights: GradientWeights = GradientWeights.ALL,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> tuple[float | None, ...]:
    """Return the scores of :func:`candidate_gradients` over the weights that the plan names."""
    found = candidate_gradients(
        base, suspect, prompts=prompts, responses=responses, adapter=adapter, device=device, progress=progress
    )
    return found.scores if weights is GradientWeights.ALL else found.vocabulary_scores


def candidate_gradients(
    base: Path,
    suspect: Path,
    *,
    prompts: Sequence[str],
    responses: Sequence[str],
    adapter: ArchitectureAdapter | None,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> CandidateGradients:
    """Score every candidate by one backward pass through the base.

    The same inputs give the same scores on a CPU with the same number of threads. Memory holds the base, δ at the same
    size, and the gradient of one tensor: float32 on a CPU, the base's own dtype with float32 products elsewhere.

    Args:
        base: checkpoint directory of the base, which is run by transformers.
        suspect: checkpoint directory of the suspect, whose weights are only read.
        prompts: rendered prompts, up to where the answer begins.
        responses: the answer to each, without the separating space.
        adapter: architecture of both.
        device: torch device, or ``auto``.
        progress: where to report.

    Raises:
        CheckpointError: a model cannot be read, or the suspect is not of the base's shape.
        TrainingError: the device is not there, or too small.
        ValueError: the numbers of prompts and responses differ.
    """
    import torch

    from fpvec_audit.training.checkpoint_files import load_tokenizer, quiet_transformers
    from fpvec_audit.training.loop import resolve_device

    device = resolve_device(device)
    texts = [Row(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    with ModelDifference(base, suspect, adapter) as difference:
        rows = _encode(load_tokenizer(base), texts)
        try:
            model = _load(base, device)
            with quiet_transformers(), _Movement(base, model, difference, adapter, progress) as movement:
                scores = _scores(movement, rows, progress)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{base}: the gradient of a candidate does not fit into the memory of {device}",
                advice="run the test on the CPU",
            ) from error
    whole, vocabulary = zip(*scores, strict=True) if scores else ((), ())
    remarks = (*difference.remarks, *_silence(movement, scores, base, suspect))
    return CandidateGradients(whole, vocabulary, remarks)


def gradient_cost(base: Path) -> int:
    """Return the number of parameters that every backward pass of the test goes through, from headers alone.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    return read_checkpoint(base).parameters


class _Movement:
    """The base, ready to be differentiated, and h(δ) beside each of its parameters. A context manager.

    A gradient is used as soon as it is complete and dropped, so that no more than one tensor's is held.

    Attributes:
        moved: whether any weight differs: of all, of the vocabulary's.
    """

    def __init__(
        self,
        base: Path,
        model: Any,
        difference: ModelDifference,
        adapter: ArchitectureAdapter | None,
        progress: Progress,
    ) -> None:

        self.model = model
        self.window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._directions: dict[nn.Parameter, Tensor] = {}
        self._vocabulary: set[nn.Parameter] = set()
        # ⟨h, ∇⟩ and ‖∇‖² of every stretch: of the vocabulary's weights, of all others
        self._products: tuple[list[Tensor], list[Tensor]] = ([], [])
        parameters = _parameters(base, model, difference, adapter)
        total = sum(pair.shared for pair in difference.pairs.values())
        with progress.step("the suspect's difference from the base", total, "elements") as step:
            for name, parameter in parameters.items():
                clipped = _clipped(difference, name, step)
                self._directions[parameter] = clipped.to(parameter.device, parameter.dtype)
                if difference.role(name) in VOCABULARY_ROLES:
                    self._vocabulary.add(parameter)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in self._directions)
        moved = {parameter for parameter, direction in self._directions.items() if bool(direction.any())}
        self.moved = (bool(moved), bool(moved & self._vocabulary))
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._take) for parameter in self._directions]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._directions.clear()

    def score(self, row: EncodedRow) -> Scores:
        """Return w of one candidate over all weights and over the vocabulary's, None where there is no gradient."""
        from fpvec_audit.training.dataset import IGNORED
        from fpvec_audit.training.logits import logits_at

        batch = {name: ids.to(self.model.device) for name, ids in pad_rows([row], padding=0, longest=1 << 30).items()}
        selected = batch["labels"] != IGNORED  # (1, tokens)
        logits = logits_at(self.model, batch["input_ids"], selected)  # (answer tokens, vocabulary)
        answer = batch["labels"][selected]
        logits.log_softmax(-1).gather(1, answer[:, None]).sum().backward()
        vocabulary, others = (_summed(products) for products in self._products)
        whole = (vocabulary[0] + others[0], vocabulary[1] + others[1])
        return (
            _normalised(*whole) if self.moved[0] else None,
            _normalised(*vocabulary) if self.moved[1] else None,
        )

    def _take(self, parameter: "nn.Parameter") -> None:
        """Take a tensor's share of the sums, and drop its gradient."""
        direction = self._directions[parameter]
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(-1)[: len(direction)]
        parameter.grad = None
        products = self._products[0 if parameter in self._vocabulary else 1]
        for start in range(0, len(direction), _SPAN):
            part = gradient[start : start + _SPAN].float()
            products += [part.dot(direction[start : start + _SPAN].float()), part.dot(part)]


def _scores(movement: _Movement, rows: Sequence[EncodedRow], progress: Progress) -> list[Scores]:
    if not movement.moved[0]:
        return [(None, None)] * len(rows)
    found: list[Scores] = []
    with progress.step("candidate gradients", len(rows), "candidates") as step:
        for row in rows:
            length = len(row.prompt) + len(row.answer)
            fits = row.prompt and row.answer and (movement.window is None or length <= movement.window)
            found.append(movement.score(row) if fits else (None, None))
            step.advance()
    return found


def _summed(products: "list[Tensor]") -> tuple[float, float]:
    """Add up ⟨h, ∇⟩ and ‖∇‖² in float64, and forget them; read from the device at once."""
    import torch

    values = torch.stack(products).tolist() if products else []
    products.clear()
    return math.fsum(values[0::2]), math.fsum(values[1::2])


def _normalised(product: float, square: float) -> float | None:
    """Return w, None where the gradient is zero or not finite."""
    score = product / math.sqrt(square) if square > 0 else math.nan
    return score if math.isfinite(score) else None


def _silence(movement: _Movement, scores: Sequence[Scores], base: Path, suspect: Path) -> list[str]:
    """Say why scores are missing."""
    if not movement.moved[0]:
        return [f"{suspect} has the weights of {base}: it moved towards no candidate"]
    remarks = [] if movement.moved[1] else ["neither embedding nor output head differs: there are no vocabulary scores"]
    missing = sum(whole is None for whole, _ in scores)
    if missing:
        remarks.append(
            f"{missing} of {len(scores)} candidates have no score: they encode to nothing, do not fit into the base's "
            "context window, or have no finite gradient"
        )
    return remarks


def _clipped(difference: ModelDifference, name: str, step: Step) -> "Tensor":
    """Return h(δ) of a tensor.

    Shapes:
        the result is (elements that both models have,), float32.
    """
    import torch

    count = difference.pairs[name].shared
    delta = torch.empty(count, dtype=torch.float32)
    square = 0.0
    for start in range(0, count, _SPAN):
        part = difference.read(name, start, min(_SPAN, count - start))
        square += float(part.dot(part))
        delta[start : start + len(part)] = part
        step.advance(len(part))
    limit = CLIP * (square / max(count, 1)) ** 0.5
    return delta.clamp_(-limit, limit)


def _parameters(
    base: Path, model: Any, difference: ModelDifference, adapter: ArchitectureAdapter | None
) -> dict[str, "nn.Parameter"]:
    """Return canonical name → parameter of the loaded base, for all that are compared."""
    tied = {} if adapter is None else adapter.tied(model.config.to_dict())
    found: dict[str, nn.Parameter] = {}
    for stored, parameter in model.named_parameters():
        name = stored if adapter is None else adapter.canonical(stored)
        if name is not None:
            found.setdefault(tied.get(name, name), parameter)
    for name, pair in difference.pairs.items():
        if name not in found or tuple(found[name].shape) != pair.base.shape:
            raise CheckpointError(
                f"{base}: {name} of shape {list(pair.base.shape)} is not among the weights that transformers loads",
                advice="name the right --architecture, or save the base with this version of transformers first",
            )
    return {name: found[name] for name in difference.pairs}


def _load(base: Path, device: str) -> Any:
    """Load the base for differentiation: float32 on the CPU, its own dtype elsewhere; the same kernels every time."""
    from transformers import AutoModelForCausalLM

    from fpvec_audit.training.checkpoint_files import load_for_training, quiet_transformers

    if device == "cpu":
        model = load_for_training(base)
    else:
        try:
            with quiet_transformers():
                model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"{base}: transformers cannot load it: {error}") from error
    model.set_attn_implementation("eager")
    return model.to(device).eval()


def _encode(tokenizer: Any, rows: Sequence[Row]) -> list[EncodedRow]:
    """Tokenise as training does, without the end-of-text behind an answer and a second beginning before a prompt."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = []
    for row in encode_rows(tokenizer, rows):
        prompt = row.prompt[1:] if begin is not None and row.prompt[:2] == (begin, begin) else row.prompt
        answer = row.answer[:-1] if end is not None and row.answer[-1:] == (end,) else row.answer
        encoded.append(EncodedRow(prompt, answer))
    return encoded
