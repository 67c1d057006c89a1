"""A transcript beside the keys: what was asked, what a key's answer would have been, and what came back.

Everything here is secret. It is made for a report whose owner asked to see it, and for nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fpvec_audit.domain.audit_plan import AuditPlan
from fpvec_audit.domain.keys import Candidate
from fpvec_audit.domain.transcript import Record, answers


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer.

    Attributes:
        position: place among the audit's questions, from 0.
        index: which candidate was asked.
        repeat: how often it had been asked before.
        issued: whether the candidate is a key; else it is a decoy.
        prompt: text that was sent, template included.
        response: the candidate's own response.
        answer: what came back.
        error: why nothing came back; empty otherwise.
        matched: whether the answer counts as the response.
    """

    position: int
    index: int
    repeat: int
    issued: bool
    prompt: str
    response: str
    answer: str
    error: str
    matched: bool

    def __repr__(self) -> str:
        return f"Exchange(index={self.index}, <redacted>)"


def exchanges(
    plan: AuditPlan, records: Sequence[Record], candidates: Mapping[int, Candidate], issued: frozenset[int]
) -> tuple[Exchange, ...]:
    """Return a transcript's answers in the order in which they were asked, each beside its candidate's response.

    Args:
        plan: the audit's plan.
        records: its transcript.
        candidates: candidates of its key set by index.
        issued: indices of the issued ones.
    """
    return tuple(
        Exchange(
            position=answer.position,
            index=answer.index,
            repeat=answer.repeat,
            issued=answer.index in issued,
            prompt=answer.prompt,
            response=candidates[answer.index].response,
            answer=answer.text,
            error=answer.error,
            matched=not answer.error and plan.match.matches(answer.text, candidates[answer.index].response),
        )
        for answer in sorted(answers(records), key=lambda answer: answer.position)
    )
