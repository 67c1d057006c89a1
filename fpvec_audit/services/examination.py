"""What an audit of one key set and a trace of many have in common: one suspect, one engine start, one interview.

The order of things is the proof. The key sets were committed and assigned before; the plans – everything that could
change the results – are recorded in the ledger before the first question; the nonce that orders the questions comes
after the plans; :func:`~fpvec_audit.services.collecting.collect` asks without knowing the assignment; only the scoring
of the finished transcript sees it. A local suspect burns nothing: the questions stay on this machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from fpvec_audit.domain.audit import Score, Verdict, decide, score
from fpvec_audit.domain.audit_plan import (
    FIRST_TOKEN,
    RESPONSE_MINUS_BASE,
    AuditPlan,
    Begin,
)
from fpvec_audit.domain.keys import KeySet
from fpvec_audit.domain.ports import LikelihoodBackend
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.domain.transcript import COMPLETE, END, STOPPED_EARLY, Answer
from fpvec_audit.domain.transcript import GRADIENT as GRADIENT_RECORD
from fpvec_audit.domain.transcript import LIKELIHOOD as LIKELIHOOD_RECORD
from fpvec_audit.errors import BackendError
from fpvec_audit.services.collecting import (
    ENDPOINT_AT_ONCE,
    PROMPTS_AT_ONCE,
    SEQUENTIAL_AT_ONCE,
    Interview,
    Question,
    collect,
)
from fpvec_audit.services.likelihoods import BaseModel, likelihood_contents, tell
from fpvec_audit.services.rendering import (
    Rendering,
)
from fpvec_audit.services.subjects import Bench, Subject
from fpvec_audit.services.transcripts import Transcript

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """One key set to ask a subject for.

    Attributes:
        record: the key set without secrets.
        key_set: its candidates and assignment.
        plan: what was committed.
        begin: what chance decided afterwards.
        keeper: its transcript.
        base: its base model, None where it is not at hand.
    """

    record: KeySetRecord
    key_set: KeySet = field(repr=False)
    plan: AuditPlan
    begin: Begin
    keeper: Transcript
    base: BaseModel | None

    @property
    def scored(self) -> Score:
        """What the transcript says."""
        return score(
            self.plan,
            self.begin,
            self.keeper.records,
            responses={candidate.index: candidate.response for candidate in self.key_set.candidates},
            issued=frozenset(self.key_set.issued_indices),
        )

    def verdict(self, scored: Score, *, controlled: bool) -> Verdict:
        """Return the verdict, given whether a positive control works."""
        return decide(
            scored,
            alpha=Fraction(self.plan.alpha),
            committed_profile=self.plan.committed_profile,
            positive_control=controlled,
            comparisons=self.plan.comparisons,
        )


def interview(cases: Sequence[Case], subject: Subject, bench: Bench) -> None:
    """Ask everything that is not yet answered, and keep it as it arrives."""
    endpoint = subject.suspect.directory is None
    plan = cases[0].plan

    def keep(place: int, answers: Sequence[Answer]) -> bool:
        case = cases[place]
        case.keeper.keep_answers(answers)
        return plan.sequential and case.verdict(case.scored, controlled=False) is Verdict.MATCH

    def burn(questions: Sequence[Question]) -> None:
        if endpoint:
            for place in {question.interview for question in questions}:
                cases[place].keeper.burn(item.index for item in questions if item.interview == place)

    interviews = [
        Interview(case.plan, case.begin, rendered(case, subject.rendering), case.keeper.answered) for case in cases
    ]
    if plan.sequential and cases[0].keeper.answered and keep(0, ()):
        return  # it was interrupted after it had enough
    try:
        collect(
            interviews,
            subject.backend,
            keep=keep,
            burn=burn,
            at_once=SEQUENTIAL_AT_ONCE if plan.sequential else ENDPOINT_AT_ONCE if endpoint else PROMPTS_AT_ONCE,
            label=f"ask {subject.suspect.shown}",
            progress=bench.progress,
        )
    except BackendError as error:
        kept = sum(len(case.keeper.answered) for case in cases)
        resume = "the same command with --resume goes on" if kept and not plan.trace else ""
        raise BackendError(
            f"{error.problem}; {kept} answers came before and are kept",
            advice="; ".join(part for part in (error.advice, resume) if part),
        ) from error


def rendered(case: Case, rendering: Rendering) -> dict[int, str]:
    """Return the text to send for every candidate of the population."""
    candidates = case.key_set.candidates
    return {index: rendering.render(candidates[index].prompt) for index in case.plan.population}


def tell_likelihoods(cases: Sequence[Case], subject: Subject, bench: Bench) -> None:
    """Keep how likely subject and bases find every response, where the plans register it."""
    wanted = [
        case for case in cases if case.plan.likelihood is not None and case.plan.likelihood["statistic"] != FIRST_TOKEN
    ]
    missing = {case.keeper.identifier: _missing(case, LIKELIHOOD_RECORD) for case in wanted}
    pairs = {
        case.keeper.identifier: _pairs(case, subject.rendering, missing[case.keeper.identifier]) for case in wanted
    }
    flat = [pair for case in wanted for pair in pairs[case.keeper.identifier]]
    if not flat:
        return
    if not isinstance(subject.backend, LikelihoodBackend):
        raise BackendError(f"{subject.suspect.location}: the engine tells no probabilities")
    told = iter(
        tell(
            subject.backend,
            [prompt for prompt, _ in flat],
            [response for _, response in flat],
            label=f"likelihoods of {subject.suspect.shown}",
            progress=bench.progress,
        )
    )
    for case in wanted:
        of_case = pairs[case.keeper.identifier]
        ours = [next(told) for _ in of_case]
        theirs = None
        if case.plan.likelihood is not None and case.plan.likelihood["statistic"] == RESPONSE_MINUS_BASE:
            assert case.base is not None
            theirs = bench.bases.likelihoods(
                case.base,
                [prompt for prompt, _ in of_case],
                [response for _, response in of_case],
                engines=bench.engines,
                progress=bench.progress,
            )
        case.keeper.keep(likelihood_contents(missing[case.keeper.identifier], ours, theirs))


def tell_gradients(case: Case, subject: Subject, bench: Bench) -> tuple[str, ...]:
    """Keep how far the subject's weights moved towards every response, where the plan registers it.

    Returns:
        What did not count, in sentences.
    """
    missing = _missing(case, GRADIENT_RECORD) if case.plan.gradient is not None else []
    if not missing:
        return ()
    from fpvec_audit.domain.transcript import decimal_text
    from fpvec_audit.training.candidate_gradients import candidate_gradients

    assert case.base is not None
    assert subject.suspect.directory is not None
    pairs = _pairs(case, subject.rendering, missing)
    found = candidate_gradients(
        case.base.directory,
        subject.suspect.directory,
        prompts=[prompt for prompt, _ in pairs],
        responses=[response for _, response in pairs],
        adapter=subject.suspect.adapter,
        device=bench.device,
        progress=bench.progress,
    )
    case.keeper.keep(
        [
            {
                "kind": GRADIENT_RECORD,
                "index": index,
                "score": decimal_text(whole),
                "vocabulary": decimal_text(words),
            }
            for index, whole, words in zip(missing, found.scores, found.vocabulary_scores, strict=True)
        ]
    )
    return found.remarks


def end_transcript(case: Case) -> None:
    """Close a transcript with the reason why nothing more was asked."""
    asked = len(case.keeper.answered) == len(case.plan.population) * case.plan.repeats
    case.keeper.keep([{"kind": END, "reason": COMPLETE if asked else STOPPED_EARLY}])


def _missing(case: Case, kind: str) -> list[int]:
    known = case.keeper.scored(kind)
    return [index for index in case.plan.population if index not in known]


def _pairs(case: Case, rendering: Rendering, indices: Sequence[int]) -> list[tuple[str, str]]:
    candidates = case.key_set.candidates
    return [(rendering.render(candidates[index].prompt), candidates[index].response) for index in indices]
