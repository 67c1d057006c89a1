"""What an audit of an endpoint will send and cost, said and checked before the first question."""

from collections.abc import Callable, Sequence

from fpvec_audit.domain.audit_plan import questions
from fpvec_audit.errors import BackendError
from fpvec_audit.services.examination import Case, rendered
from fpvec_audit.services.subjects import Bench, Subject


def announce_spending(
    cases: Sequence[Case], subject: Subject, bench: Bench, *, announce: Callable[[str], None]
) -> None:
    """Say what the remaining questions will cost at most, and refuse what exceeds the budget.

    Raises:
        BackendError: more requests are needed than are allowed; nothing was sent.
    """
    if subject.suspect.directory is not None:
        return
    from fpvec_audit.backends.api_estimate import estimate

    settings = bench.settings.endpoint
    texts = [text for case in cases for text in _unanswered(case, subject)]
    chat = subject.rendering.template == "endpoint"
    expected = estimate(
        texts,
        cases[0].plan.max_new_tokens,
        settings.price_in,
        settings.price_out,
        system_prompt=bench.settings.system_prompt if chat else "",
    )
    if settings.max_requests is not None and expected.requests > settings.max_requests:
        raise BackendError(
            f"{expected.requests} requests are needed, {settings.max_requests} are allowed; nothing was sent",
            advice="raise --max-requests, or use --stop-early or a smaller key set",
        )
    cost = "" if expected.cost is None else f", {expected.cost} at the given prices"
    announce(
        f"{subject.suspect.location} gets at most {expected.requests} requests: {expected.prompt_tokens} tokens sent, "
        f"{expected.completion_tokens} generated{cost}, retries not counted"
    )


def _unanswered(case: Case, subject: Subject) -> list[str]:
    prompts = rendered(case, subject.rendering)
    return [
        prompts[index]
        for index, repeat in questions(case.plan, case.begin)
        if (index, repeat) not in case.keeper.answered
    ]
