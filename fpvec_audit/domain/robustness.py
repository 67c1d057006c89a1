"""How attacks ended: one cell per attack that was run, and the counting of false triggers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpvec_audit.domain.audit import MatchRule
from fpvec_audit.domain.frontier import Frontier, Priced, find_frontier, utility_loss
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
class TracedCopy:
    """Whom a trace of an attacked copy of a family names, held against whose copies are in it.

    Attributes:
        named: licensee → rules that name it, joined by "+".
        pooled: licensees whose copies are in it, the attacked one's first of all.
        present: marks that are PRESENT.
        wrong: those of them that no copy in it carries.
        why: why nobody is named; empty where somebody is.
    """

    named: Mapping[str, str]
    pooled: tuple[str, ...]
    present: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    why: str = ""

    @property
    def innocents(self) -> tuple[str, ...]:
        """Who is named without having had a part in it."""
        return tuple(name for name in self.named if name not in self.pooled)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "named": [{"licensee": name, "rule": rule} for name, rule in self.named.items()],
            "innocents": list(self.innocents),
            "pooled": list(self.pooled),
            "present": list(self.present),
            "wrong": list(self.wrong),
            "why": self.why,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TracedCopy":
        """Rebuild it from :meth:`to_json`."""
        named = {item["licensee"]: item["rule"] for item in value["named"]}
        return cls(named, tuple(value["pooled"]), tuple(value["present"]), tuple(value["wrong"]), value["why"])


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
        weights: how much of the known vectors the copy seems to carry, as an audit tells it; None where not told.
        digest: canonical digest of the attacked weights, hex; empty where they were not read.
        traced: whom a trace would name, of a family whose words mean licensees; else None.
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
    weights: Mapping[str, Any] | None = None
    digest: str = ""
    traced: TracedCopy | None = None

    @property
    def utility_loss(self) -> Mapping[str, float]:
        """Measure → what the attack cost (:func:`~fpvec_audit.domain.frontier.utility_loss`), where it is known."""
        before, after = self.utility_before or {}, self.utility_after or {}
        losses = {measure: utility_loss(measure, before, after) for measure in before}
        return {measure: loss for measure, loss in losses.items() if loss is not None}


@dataclass(frozen=True, slots=True)
class AttackCell:
    """One row of a robustness report.

    Attributes:
        number: from 1, in the order asked for.
        name: names of the attacks that it joins.
        parameters: parameter → JSON value; of joined attacks under ``chain`` in order.
        kind: ``weight``, ``query`` or ``weight+query``.
        state: ``succeeded`` or ``failed``.
        seconds: how long it took.
        outcome: what was measured; empty where it failed.
        problem: why it failed, or what could not be measured; empty otherwise.
        run_id: id of the attack run in the registry.
    """

    number: int
    name: str
    parameters: Mapping[str, Any]
    kind: str
    state: JobState
    seconds: float
    outcome: AttackOutcome
    problem: str = ""
    run_id: str = ""

    @property
    def priced(self) -> Priced | None:
        """The cell as the frontier sees it; None for guesses and for what failed."""
        outcome = self.outcome
        if outcome.fsr_before is None or outcome.fsr_after is None:
            return None
        return Priced(
            self.number,
            self.name,
            outcome.fsr_after,
            outcome.verdict or "",
            outcome.utility_before or {},
            outcome.utility_after or {},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the command-line contract; no prompt and no response is in it."""
        outcome = self.outcome
        return {
            "name": self.name,
            "kind": self.kind,
            "parameters": dict(self.parameters),
            "state": self.state.value,
            "fsr_before": outcome.fsr_before,
            "fsr_after": outcome.fsr_after,
            "interval": None if outcome.interval is None else list(outcome.interval),
            "p_value": outcome.p_value,
            "tests": [dict(test) for test in outcome.tests],
            "utility_before": None if outcome.utility_before is None else dict(outcome.utility_before),
            "utility_after": None if outcome.utility_after is None else dict(outcome.utility_after),
            "utility_loss": dict(outcome.utility_loss),
            "verdict": outcome.verdict,
            "weights": None if outcome.weights is None else dict(outcome.weights),
            "attacked_digest": outcome.digest or None,
            "traced": None if outcome.traced is None else outcome.traced.to_json(),
            "groups": [group.to_json() for group in outcome.groups],
            "queries": outcome.queries,
            "seconds": self.seconds,
            "problem": self.problem,
            "attack_run_id": self.run_id,
        }

    @classmethod
    def from_json(cls, number: int, value: Mapping[str, Any]) -> "AttackCell":
        """Rebuild a cell from :meth:`to_json`, as the registry keeps it.

        Args:
            number: its place in this run, from 1.
            value: the document.
        """
        interval = value["interval"]
        groups = tuple(ProbeGroup(group["kind"], group["asked"], group["triggered"]) for group in value["groups"])
        outcome = AttackOutcome(
            fsr_before=value["fsr_before"],
            fsr_after=value["fsr_after"],
            interval=None if interval is None else (interval[0], interval[1]),
            p_value=value["p_value"],
            tests=tuple(value["tests"]),
            verdict=value["verdict"],
            utility_before=value["utility_before"],
            utility_after=value["utility_after"],
            groups=groups,
            queries=value["queries"],
            weights=value.get("weights"),
            digest=value.get("attacked_digest") or "",
            traced=None if value.get("traced") is None else TracedCopy.from_json(value["traced"]),
        )
        return cls(
            number=number,
            name=value["name"],
            parameters=value["parameters"],
            kind=value["kind"],
            state=JobState(value["state"]),
            seconds=value["seconds"],
            outcome=outcome,
            problem=value["problem"],
            run_id=value["attack_run_id"],
        )


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """All cells of a run.

    Attributes:
        stamped: directory of the attacked model.
        stamped_digest: its model id.
        key_set: id.
        seed: seed of everything random in the attacks.
        cells: one per attack, in the order asked for.
        suite: name of the suite; empty without one.
        matrix_id: what ties the cells of a run and of its resumptions together.
        warnings: what was left out of the suite, and what limits the results, in sentences.
        resumed: how many cells were taken from an interrupted run.
        engine_starts: engines that were started for attacked copies and for the stamped model.
        seconds: how long the run took, without what it took over.
    """

    stamped: str
    stamped_digest: str
    key_set: str
    seed: int
    cells: tuple[AttackCell, ...]
    suite: str = ""
    matrix_id: str = ""
    warnings: tuple[str, ...] = ()
    resumed: int = 0
    engine_starts: int = 0
    seconds: float = 0.0

    @property
    def all_failed(self) -> bool:
        """Whether not a single cell succeeded."""
        return all(cell.state is JobState.FAILED for cell in self.cells)

    @property
    def frontier(self) -> Frontier:
        """What silence costs."""
        return find_frontier([priced for cell in self.cells if (priced := cell.priced) is not None])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of the command-line contract."""
        return {
            "stamped": self.stamped,
            "stamped_digest": self.stamped_digest,
            "key_set": self.key_set,
            "seed": self.seed,
            "suite": self.suite or None,
            "matrix_id": self.matrix_id or None,
            "frontier": self.frontier.to_json(),
            "cells": [cell.to_json() for cell in self.cells],
            "warnings": list(self.warnings),
            "resumed": self.resumed,
            "engine_starts": self.engine_starts,
            "seconds": self.seconds,
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
