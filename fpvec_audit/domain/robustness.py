"""How attacks ended: one cell per attack that was run, and the counting of false triggers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.attack_spec import AttackChain
from fpvec_audit.domain.audit import MatchRule
from fpvec_audit.domain.records import JobState
from fpvec_audit.domain.statistics import clopper_pearson


@dataclass(frozen=True, slots=True)
class ProbeGroup:
    """Guesses of one kind.

    Attributes:
        kind: what was asked ("unissued candidate").
        asked: how many.
        triggered: how many drew an issued response.
    """

    kind: str
    asked: int
    triggered: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "kind": self.kind,
            "asked": self.asked,
            "triggered": self.triggered,
            "rate": self.triggered / self.asked,
            "interval": list(clopper_pearson(self.triggered, self.asked)),
        }


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """What was measured after an attack.

    Attributes:
        fsr_before: fingerprint success rate before, fraction in [0, 1]; None for guesses.
        fsr_after: afterwards; for guesses the false-trigger rate of what a stranger could ask.
        interval: 95 % Clopper–Pearson interval of ``fsr_after``.
        p_value: the exact test's p-value afterwards; None for guesses.
        tests: the audit's tests as JSON objects.
        verdict: the audit's verdict; None for guesses.
        utility_before: measure → value on the stamped model.
        utility_after: the same on the attacked one; what the attack cost.
        groups: guesses by kind.
        queries: how many questions were asked.
    """

    fsr_before: float | None = None
    fsr_after: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    tests: tuple[Mapping[str, Any], ...] = ()
    verdict: str | None = None
    utility_before: Mapping[str, float] | None = None
    utility_after: Mapping[str, float] | None = None
    groups: tuple[ProbeGroup, ...] = ()
    queries: int = 0


@dataclass(frozen=True, slots=True)
class AttackCell:
    """One row of a robustness report.

    Attributes:
        chain: what was carried out.
        kind: ``weight``, ``query`` or ``weight+query``.
        state: ``succeeded`` or ``failed``.
        seconds: how long it took.
        outcome: what was measured; empty where it failed.
        problem: why it failed; empty otherwise.
        run_id: id of the attack run in the registry.
    """

    chain: AttackChain
    kind: str
    state: JobState
    seconds: float
    outcome: AttackOutcome
    problem: str = ""
    run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the command-line contract; no prompt and no response is in it."""
        outcome = self.outcome
        return {
            "name": self.chain.name,
            "kind": self.kind,
            "parameters": dict(self.chain.parameters),
            "state": self.state.value,
            "fsr_before": outcome.fsr_before,
            "fsr_after": outcome.fsr_after,
            "interval": None if outcome.interval is None else list(outcome.interval),
            "p_value": outcome.p_value,
            "tests": [dict(test) for test in outcome.tests],
            "utility_before": None if outcome.utility_before is None else dict(outcome.utility_before),
            "utility_after": None if outcome.utility_after is None else dict(outcome.utility_after),
            "verdict": outcome.verdict,
            "groups": [group.to_json() for group in outcome.groups],
            "queries": outcome.queries,
            "seconds": self.seconds,
            "problem": self.problem,
            "attack_run_id": self.run_id,
        }


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """All cells of a run.

    Attributes:
        stamped: directory of the attacked model.
        stamped_digest: its model id.
        key_set: id.
        seed: seed of everything random in the attacks.
        cells: one per attack, in the order asked for.
    """

    stamped: str
    stamped_digest: str
    key_set: str
    seed: int
    cells: tuple[AttackCell, ...]

    @property
    def all_failed(self) -> bool:
        """Whether not a single cell succeeded."""
        return all(cell.state is JobState.FAILED for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of the command-line contract."""
        return {
            "stamped": self.stamped,
            "stamped_digest": self.stamped_digest,
            "key_set": self.key_set,
            "seed": self.seed,
            "cells": [cell.to_json() for cell in self.cells],
        }


def triggers(answer: str, responses: Sequence[str]) -> bool:
    """Return whether an answer gives any of the responses: a false trigger where the question was not issued."""
    return any(MatchRule.PREFIX.matches(answer, response) for response in responses)


def grouped(asked: Sequence[tuple[str, bool]]) -> tuple[ProbeGroup, ...]:
    """Count (kind, triggered) pairs per kind, kinds in the order of their first appearance."""
    kinds = dict.fromkeys(kind for kind, _ in asked)
    return tuple(
        ProbeGroup(kind, sum(other == kind for other, _ in asked), sum(hit for other, hit in asked if other == kind))
        for kind in kinds
    )
