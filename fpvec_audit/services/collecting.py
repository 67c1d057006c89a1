"""The blind half of an audit: ask what the plans say, in the order that chance gave, and hand over what comes back.

Nothing here knows a response or which candidates are issued; questions, order, batches and retries cannot depend on
it. Whoever keeps the answers may end the interview where the plan says that it may stop early.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from fpvec_audit.domain.audit_plan import FIRST_TOKEN, AuditPlan, Begin, questions, sampling_seed
from fpvec_audit.domain.ports import Completion, InferenceBackend, Sampling, StreamingBackend
from fpvec_audit.domain.transcript import Answer, decimal_text
from fpvec_audit.errors import BackendError
from fpvec_audit.progress import NO_PROGRESS, Progress

PROMPTS_AT_ONCE = 256
"""Questions that a local engine gets in one call; it makes its own batches of them."""
ENDPOINT_AT_ONCE = 32
"""Questions that are marked as burnt and sent before any more are."""
SEQUENTIAL_AT_ONCE = 4
"""Questions between two looks at whether an audit may stop: fewer burn fewer keys, more keep an engine busy."""


FIRST_TOKENS = 20
"""Likeliest first tokens that an endpoint is asked for: the most that common ones tell."""


@dataclass(frozen=True, slots=True)
class Interview:
    """One plan to carry out.

    Attributes:
        plan: what was committed.
        begin: what chance decided afterwards.
        prompts: text to send per candidate of the population.
        answered: (candidate, repeat) that were answered before an interruption.
    """

    plan: AuditPlan
    begin: Begin
    prompts: Mapping[int, str] = field(repr=False)
    answered: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """A question of an interview.

    Attributes:
        interview: place of the interview among those carried out together.
        index: candidate.
        repeat: how often it was asked before.
        position: place among the interview's questions.
    """

    interview: int
    index: int
    repeat: int
    position: int


def collect(
    interviews: Sequence[Interview],
    backend: InferenceBackend,
    *,
    keep: Callable[[int, Sequence[Answer]], bool],
    burn: Callable[[Sequence[Question]], None] = lambda _questions: None,
    at_once: int = PROMPTS_AT_ONCE,
    label: str = "ask",
    progress: Progress = NO_PROGRESS,
) -> None:
    """Ask all questions that are not yet answered; the same text is asked once for all who want it.

    Args:
        interviews: plans that agree in how answers are drawn.
        backend: the suspect.
        keep: takes the answers of one interview as they arrive; returns whether to stop.
        burn: told of questions before they are sent.
        at_once: how many are sent before the next are chosen.
        label: what the progress is called.
        progress: where to report.

    Raises:
        BackendError: the engine failed, or answered another number of prompts than it was asked.
    """
    wanted = _unanswered(interviews)
    texts = list(wanted)
    with progress.step(label, len(texts), "prompts") as step:
        for chunk in _chunks(texts, at_once):
            burn([question for text in chunk for question in wanted[text]])
            sampling = _sampling(interviews[0], wanted[chunk[0]][0])
            stop = False
            with contextlib.closing(_batches(backend, [prompt for prompt, _ in chunk], sampling)) as batches:
                for batch in batches:
                    stop |= _hand_over(batch, chunk, wanted, keep)
                    step.advance(len(batch))
            if stop:
                return


def _chunks(texts: Sequence[tuple[str, int]], at_once: int) -> Iterator[list[tuple[str, int]]]:
    """Divide questions; what is asked again goes separately, so that sampled answers have another seed."""
    for _, same_repeat in groupby(texts, key=lambda text: text[1]):
        rest = list(same_repeat)
        for start in range(0, len(rest), at_once):
            yield rest[start : start + at_once]


def _unanswered(interviews: Sequence[Interview]) -> dict[tuple[str, int], list[Question]]:
    """Return who wants to know what, by text and repeat, in the order of the plans."""
    wanted: dict[tuple[str, int], list[Question]] = {}
    for place, interview in enumerate(interviews):
        for position, (index, repeat) in enumerate(questions(interview.plan, interview.begin)):
            if (index, repeat) not in interview.answered:
                text = interview.prompts[index]
                wanted.setdefault((text, repeat), []).append(Question(place, index, repeat, position))
    return wanted


def _sampling(interview: Interview, first: Question) -> Sampling:
    plan = interview.plan
    temperature = float(plan.temperature)
    statistic = plan.likelihood["statistic"] if plan.likelihood else ""
    return Sampling(
        max_new_tokens=plan.max_new_tokens,
        temperature=temperature,
        top_p=float(plan.top_p),
        seed=None if temperature == 0 else (sampling_seed(interview.begin) + first.repeat) % 2**31,
        first_tokens=FIRST_TOKENS if statistic == FIRST_TOKEN else 0,
    )


def _batches(
    backend: InferenceBackend, prompts: Sequence[str], sampling: Sampling
) -> Generator[list[tuple[int, Completion]], None, None]:
    """Yield answers with their places: one by one from an engine that can, else all at once."""
    if isinstance(backend, StreamingBackend):
        seen = 0
        with contextlib.closing(backend.complete_as_they_come(prompts, sampling)) as completions:
            for place, completion in completions:
                seen += 1
                yield [(place, completion)]
    else:
        answered = backend.complete(prompts, sampling)
        seen = len(answered)
        if seen == len(prompts):
            yield list(enumerate(answered))
    if seen != len(prompts):
        raise BackendError(
            f"{backend.description.engine} answered {seen} of {len(prompts)} prompts",
            advice="audit again; if it stays, use another --backend",
        )


def _hand_over(
    batch: Sequence[tuple[int, Completion]],
    chunk: Sequence[tuple[str, int]],
    wanted: Mapping[tuple[str, int], Sequence[Question]],
    keep: Callable[[int, Sequence[Answer]], bool],
) -> bool:
    by_interview: dict[int, list[Answer]] = {}
    for place, completion in batch:
        for question in wanted[chunk[place]]:
            by_interview.setdefault(question.interview, []).append(_answer(question, chunk[place][0], completion))
    stop = False
    for interview, answers in by_interview.items():
        stop |= keep(interview, answers)
    return stop


def _answer(question: Question, prompt: str, completion: Completion) -> Answer:
    error = completion.error or ("error" if completion.finish_reason == "error" else "")
    return Answer(
        index=question.index,
        prompt=prompt,
        text="" if error else completion.text,
        error=error,
        position=question.position,
        repeat=question.repeat,
        finish=completion.finish_reason,
        first={token: decimal_text(value) for token, value in sorted(completion.first_tokens.items())},
    )
