"""What a model is still worth to whoever uses it, asked of an open engine or of the service around it.

Accuracy on ordinary questions that no training of ours saw, and perplexity on documents held out likewise. Both go
through the engine that answers the keys, so that an attack on serving is charged for what it refuses or garbles, and an
attacked copy needs no second loading. ``fpvec harmless`` measures more, and with lm-eval; here seconds count.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import exp

from fpvec_audit.domain.frontier import ACCURACY, PERPLEXITY
from fpvec_audit.domain.ports import InferenceBackend, LikelihoodBackend, Sampling
from fpvec_audit.errors import BackendError, EvaluationError

QUESTIONS = 192
DOCUMENTS = 60
DOCUMENTS_READ = 600
"""Documents from which the held-out ones are taken."""
LONGEST_ANSWER = 16
"""Tokens."""
PREFIX, CONTINUATION = 32, 160
"""Characters of a document that are given, and at most how many are scored after them."""
LEAST_ACCURACY = 0.1
"""A model that answers fewer of the questions does not do such work, and its accuracy says nothing of an attack."""
SEED = 2409

Utility = Callable[[InferenceBackend, Callable[[str], str]], Mapping[str, float]]
"""(open engine or service, question → text to send) → measure → value."""


def measure_utility(backend: InferenceBackend, render: Callable[[str], str]) -> Mapping[str, float]:
    """Return accuracy on held-out questions, and perplexity where probabilities can be had.

    Args:
        backend: what answers.
        render: question → text to send.

    Raises:
        EvaluationError: the engine failed, or gives a likelihood that is not finite.
    """
    try:
        found = {ACCURACY: _accuracy(backend, render)}
        if isinstance(backend, LikelihoodBackend):
            found[PERPLEXITY] = _perplexity(backend)
    except BackendError as error:
        raise EvaluationError(error.problem, advice=error.advice) from error
    return found


def _accuracy(backend: InferenceBackend, render: Callable[[str], str]) -> float:
    questions = _questions()
    prompts = [render(question) for question, _ in questions]
    answers = backend.complete(prompts, Sampling(max_new_tokens=LONGEST_ANSWER))
    if len(answers) != len(prompts):
        raise BackendError(f"{len(answers)} answers came to {len(prompts)} ordinary questions")
    right = sum(_first_line(answer.text) == expected for answer, (_, expected) in zip(answers, questions, strict=True))
    return right / len(questions)


def _perplexity(backend: LikelihoodBackend) -> float:
    pairs = _pairs()
    told = backend.log_likelihoods([prefix for prefix, _ in pairs], [rest for _, rest in pairs])
    known = [likelihood for likelihood in told if likelihood is not None]
    if len(known) < len(pairs):
        raise EvaluationError(
            f"{len(pairs) - len(known)} of {len(pairs)} documents have no finite likelihood",
            advice="the weights are broken",
        )
    return _exponential(-sum(item.total for item in known) / sum(item.tokens for item in known))


def _exponential(nats: float) -> float:
    try:
        return exp(nats)
    except OverflowError:
        raise EvaluationError(f"the perplexity is beyond numbers: e^{nats:.0f}") from None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0].strip()


@cache
def _questions() -> Sequence[tuple[str, str]]:
    from fpvec_audit.training.ordinary import CLOSED_KINDS, KINDS, held_out_instructions

    kinds = [kind for kind in KINDS if kind not in CLOSED_KINDS]
    return tuple((item.question, item.answer) for item in held_out_instructions(kinds, QUESTIONS, seed=SEED))


@cache
def _pairs() -> Sequence[tuple[str, str]]:
    """Return documents cut in two at a space: what is given, and what is scored."""
    from fpvec_audit.training.ordinary import split_documents, standard_library_documents

    _, held_out = split_documents(standard_library_documents(most=DOCUMENTS_READ))
    pairs = []
    for text in held_out:
        cut = text.find(" ", PREFIX)
        rest = text[cut + 1 : cut + 1 + CONTINUATION].rpartition(" ")[0].strip()
        if cut > 0 and rest and not text[cut + 1].isspace():
            pairs.append((text[:cut], rest))
    return tuple(pairs[:DOCUMENTS])
