"""What two models make of the same text, token by token: perplexity, and how far their distributions are apart.

Accuracy counts answers; this sees every probability. Both models are in memory at once and read the same batches with
transformers, whatever engine answers the tasks: engines for serving do not tell whole distributions.
"""

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpvec_audit.domain.harm_report import TextHarm
from fpvec_audit.errors import EvaluationError
from fpvec_audit.progress import NO_PROGRESS, Progress
from fpvec_audit.services.paired_bootstrap import ratio_interval

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 512
"""Tokens of a document that are read, at most."""


def compare_text(
    before: Path,
    after: Path,
    documents: Sequence[str],
    *,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> TextHarm:
    """Measure both models on documents; memory for both is needed.

    Args:
        before: checkpoint directory of the first model; its tokenizer is used.
        after: checkpoint directory of the second.
        documents: texts, of two tokens at least each.
        device: torch device.
        progress: where to report.

    Raises:
        EvaluationError: a model cannot be loaded, the vocabularies differ in size, or a probability is NaN.
    """
    import numpy
    import torch

    tokenizer = _tokenizer(before)
    first, second = _load(before, device), _load(after, device)
    longest = min(LONGEST, getattr(first.config.get_text_config(), "max_position_embeddings", None) or LONGEST)
    rows = []
    with progress.step("perplexity and divergence", len(documents), "documents") as step, torch.inference_mode():
        for text in documents:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest).input_ids.to(device)
            if ids.shape[1] > 1:
                rows.append(_measure(first, second, ids))
            step.advance()
    if not rows:
        raise EvaluationError("no document has two tokens", advice="give longer texts")
    # (documents, 5): tokens, negative log-likelihoods before and after, divergences, agreements; sums over tokens
    table = numpy.array(rows, float)
    if not numpy.isfinite(table).all():
        raise EvaluationError("the log-probabilities of the text are not finite", advice="the weights are broken")
    tokens, nll_before, nll_after, divergence, agreement = table.sum(axis=0)
    return TextHarm(
        documents=len(rows),
        tokens=int(tokens),
        before=exp(nll_before / tokens),
        after=exp(nll_after / tokens),
        ratio_interval=ratio_interval(
            list(table[:, 2] - table[:, 1]), list(table[:, 0]), lambda surplus, count: numpy.exp(surplus / count)
        ),
        divergence=divergence / tokens,
        divergence_interval=ratio_interval(
            list(table[:, 3]), list(table[:, 0]), lambda divergences, count: divergences / count
        ),
        agreement=agreement / tokens,
    )


def _measure(first: Any, second: Any, ids: "Tensor") -> list[float]:
    """Return sums over the tokens of one document; ids (1, tokens)."""
    logits_before, logits_after = first(input_ids=ids).logits[0, :-1], second(input_ids=ids).logits[0, :-1]
    if logits_before.shape != logits_after.shape:
        raise EvaluationError(
            f"the models tell {logits_before.shape[-1]} and {logits_after.shape[-1]} probabilities a token",
            advice="compare models of one vocabulary",
        )
    # (tokens − 1, vocabulary), float32 whatever the weights are
    one, two = logits_before.float().log_softmax(-1), logits_after.float().log_softmax(-1)
    following = ids[0, 1:, None]
    return [
        float(len(following)),
        -float(one.gather(1, following).double().sum()),
        -float(two.gather(1, following).double().sum()),
        float((one.exp() * (one - two)).double().sum()),
        float((one.argmax(-1) == two.argmax(-1)).sum()),
    ]


def _tokenizer(directory: Path) -> Any:
    from fpvec_audit.backends.prompts import load_tokenizer

    return load_tokenizer(directory)


def _load(directory: Path, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    from fpvec_audit.backends.prompts import first_line, loading_failures
    from fpvec_audit.services.lm_eval_models import quiet_libraries

    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(
                str(directory), dtype="auto", trust_remote_code=False, use_safetensors=True, local_files_only=True
            )
        return model.to(device).eval()
    except loading_failures() as error:
        raise EvaluationError(
            f"{directory} cannot be loaded beside the other model: {first_line(error)}",
            advice="use a device with memory for both, or leave the text out with --no-text",
        ) from error
