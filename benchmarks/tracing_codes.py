"""Who is named when copies are pooled: simulated on marks, by the very functions that a trace uses.

A coalition draws its words from the licensees, an attack says which marks of theirs still show, and reading may miss
marks or see some that no copy carried. No model is involved: what a real average leaves of marks is measured elsewhere
(docs/marks.md). With a million licensees the words come from the same secret order, and are counted with numpy.

    python benchmarks/tracing_codes.py                 # simulates, writes tracing_codes.json and the page
    python benchmarks/tracing_codes.py --write-docs    # simulates nothing: tracing_codes.json → docs/marks.md
"""

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from os import getloadavg
from pathlib import Path
from typing import Any

import numpy as np

from fpvec_audit.domain.code_choice import chance_bound, shares_needed
from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.codes import RULE_A, Code, parse_code
from fpvec_audit.domain.mark_reading import MarkReading
from fpvec_audit.domain.marks import MarkState
from fpvec_audit.domain.naming import Naming, name_licensees
from fpvec_audit.domain.secret import KeySetSecret

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "tracing_codes.json"
DOCS = ROOT / "docs" / "marks.md"
BEGIN = "<!-- benchmarks/tracing_codes.py: begin; do not edit by hand -->"
END = "<!-- benchmarks/tracing_codes.py: end -->"

SECRET, COMMITMENT = KeySetSecret(bytes(range(32))), "5a" * 32
EPSILON = Fraction("1e-3")
MANY, MANY_MARKS = "random:10", 128
"""Words for a million: two pooled copies whose marks all show are told from innocents but with a chance of 1e-3."""
PRESENT_P, UNKNOWN_P = Fraction("1e-9"), Fraction(1)

Attack = Callable[[int, int, random.Random], bool]
"""Whether a mark still shows that n of c pooled copies carry, n ≥ 1."""
ATTACKS: dict[str, Attack] = {
    "average, answers": lambda carried, copies, chance: carried == copies,
    "average, weights": lambda carried, copies, chance: True,
    "splice": lambda carried, copies, chance: chance.random() < carried / copies,
    "maximum": lambda carried, copies, chance: True,
}
READINGS = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.005), (0.05, 0.005))
"""Chances that a mark which shows is missed, and that one is seen which no copy carried."""


@dataclass(frozen=True)
class Setting:
    """A family that copies are pooled from."""

    code: str
    marks: int
    licensees: int
    colluders: int
    coalitions: tuple[int, ...]


SETTINGS = (
    Setting("plane:4", 16, 20, 3, (1, 2, 3, 4)),
    Setting("rs:11,3,5", 55, 1000, 2, (1, 2, 3)),
    Setting("rs:7,4,7", 49, 1000, 2, (1, 2, 3)),
    Setting("rs:11,3,7", 77, 1000, 3, (1, 2, 3, 4)),
)


@dataclass
class Outcome:
    """What came of many coalitions."""

    code: str
    licensees: int
    colluders: int
    coalition: int
    attack: str
    missed: float
    false: float
    trials: int
    named: int = 0
    colluder_named: int = 0
    all_named: int = 0
    innocent_named: int = 0
    assumption_held: bool = True


def simulate(setting: Setting, trials: int, seed: int) -> Iterator[Outcome]:
    """Yield the outcomes of all attacks and readings on one family."""
    code = parse_code(setting.code, marks=setting.marks)
    words = WordBook(code, SECRET, COMMITMENT).words(range(setting.licensees))
    for copies in setting.coalitions:
        for attack in ATTACKS if copies > 1 else ("average, answers",):
            for missed, false in READINGS:
                chance = random.Random(f"{seed} {setting.code} {copies} {attack} {missed} {false}")
                yield _pooled(setting, code, words, copies, attack, missed, false, trials, chance)


def _pooled(
    setting: Setting,
    code: Code,
    words: Sequence[Sequence[int]],
    copies: int,
    attack: str,
    missed: float,
    false: float,
    trials: int,
    chance: random.Random,
) -> Outcome:
    outcome = Outcome(
        setting.code,
        setting.licensees,
        setting.colluders,
        copies,
        attack if copies > 1 else "one copy",
        missed,
        false,
        trials,
        assumption_held=not false and copies <= setting.colluders,
    )
    for _ in range(trials):
        coalition = chance.sample(range(len(words)), copies)
        seen = shown(code.marks, [words[number] for number in coalition], ATTACKS[attack], missed, false, chance)
        named = {item.number for item in told(seen, code, words, setting.colluders).named}
        outcome.named += bool(named)
        outcome.colluder_named += bool(named & set(coalition))
        outcome.all_named += named == set(coalition)
        outcome.innocent_named += bool(named - set(coalition))
    return outcome


def shown(
    marks: int,
    copies: Sequence[Sequence[int]],
    attack: Attack,
    missed: float,
    false: float,
    chance: random.Random,
) -> frozenset[int]:
    """Return the marks that are read as PRESENT."""
    carried = [sum(mark in copy for copy in copies) for mark in range(marks)]
    return frozenset(
        mark
        for mark, number in enumerate(carried)
        if (chance.random() >= missed and attack(number, len(copies), chance) if number else chance.random() < false)
    )


def told(seen: frozenset[int], code: Code, words: Sequence[Sequence[int]], colluders: int) -> Naming:
    """Name licensees by rule A as a trace does."""
    readings = [
        MarkReading(
            mark,
            MarkState.PRESENT if mark in seen else MarkState.UNKNOWN,
            0,
            0,
            {},
            PRESENT_P if mark in seen else UNKNOWN_P,
            PRESENT_P if mark in seen else UNKNOWN_P,
        )
        for mark in range(code.marks)
    ]
    return name_licensees(readings, code, words, rules=(RULE_A,), colluders=colluders, epsilon=EPSILON)


@dataclass
class ManyOutcome:
    """What came of coalitions among very many licensees, by rule B."""

    code: str
    licensees: int
    coalition: int
    attack: str
    epsilon: float
    trials: int
    bound: float
    """Mean over all trials of the bound at the threshold; 0 where no number of marks would name anybody."""
    named: int
    colluder_named: int
    innocent_named: int


def simulate_many(licensees: int, trials: int, seed: int) -> tuple[list[ManyOutcome], dict[str, Any]]:
    """Return outcomes of rule B among very many licensees; at a large ε too, where innocents must show up."""
    code = parse_code(MANY, marks=MANY_MARKS)
    book = WordBook(code, SECRET, COMMITMENT)
    started = time.perf_counter()
    words = np.array(book.words(range(licensees)), dtype=np.int16)
    facts = {
        "code": code.text,
        "licensees": licensees,
        "seconds_to_derive_all_words": time.perf_counter() - started,
    }
    outcomes = []
    for epsilon in (EPSILON, Fraction(1, 2)):
        for copies in (1, 2, 3):
            for attack in ATTACKS if copies > 1 else ("average, answers",):
                if attack != "maximum":  # of marks, the same as shares of weights
                    chance = random.Random(f"{seed} {copies} {attack} {epsilon}")
                    outcomes.append(_many(code, words, copies, attack, epsilon, trials, chance))
    facts["seconds_to_count_once"] = _seconds_to_count(words, code)
    return outcomes, facts


def _many(
    code: Code, words: Any, copies: int, attack: str, epsilon: Fraction, trials: int, chance: random.Random
) -> ManyOutcome:
    bounds: list[float] = []
    named = colluder = innocent = 0
    for _ in range(trials):
        coalition = chance.sample(range(len(words)), copies)
        seen = shown(code.marks, [words[number].tolist() for number in coalition], ATTACKS[attack], 0, 0, chance)
        needed = shares_needed(code, licensees=len(words), seen=len(seen), epsilon=epsilon)
        if needed is None:
            continue
        bounds.append(float(chance_bound(code, licensees=len(words), seen=len(seen), shared=needed)))
        found = set(np.flatnonzero(_shares(words, code, seen) >= needed).tolist())
        named += bool(found)
        colluder += bool(found & set(coalition))
        innocent += bool(found - set(coalition))
    label = attack if copies > 1 else "one copy"
    bound = sum(bounds) / trials
    return ManyOutcome(code.text, len(words), copies, label, float(epsilon), trials, bound, named, colluder, innocent)


def _shares(words: Any, code: Code, seen: frozenset[int]) -> Any:
    flags = np.zeros(code.marks, dtype=np.uint8)
    flags[sorted(seen)] = 1
    return flags[words].sum(axis=1)


def _seconds_to_count(words: Any, code: Code) -> float:
    started = time.perf_counter()
    _shares(words, code, frozenset(range(code.weight)))
    return time.perf_counter() - started


def main() -> None:
    """Run all of it and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write-docs", action="store_true", help="simulate nothing, write the page anew")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--many", type=int, default=1_000_000, help="licensees of the large family")
    parser.add_argument("--many-trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.write_docs:
        options.out.write_text(json.dumps(measured(options), indent=1) + "\n", encoding="utf-8")
    if options.out == RESULTS:
        write_docs(DOCS, json.loads(RESULTS.read_text(encoding="utf-8")))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document that tracing_codes.json holds."""
    started, outcomes = time.perf_counter(), []
    for setting in SETTINGS:
        outcomes += [asdict(outcome) for outcome in simulate(setting, options.trials, options.seed)]
        print(f"{setting.code}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    many, facts = simulate_many(options.many, options.many_trials, options.seed)
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "load_average": round(getloadavg()[0], 1),
        "seconds": round(time.perf_counter() - started, 1),
        "seed": options.seed,
        "outcomes": outcomes,
        "many": {**facts, "outcomes": [asdict(outcome) for outcome in many]},
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Return the tables of the page."""
    return "\n\n".join((_table_of_rule_a(document), _table_of_rule_b(document)))


def _table_of_rule_a(document: Mapping[str, Any]) -> str:
    rows: dict[tuple[Any, ...], dict[tuple[float, float], Mapping[str, Any]]] = {}
    for outcome in document["outcomes"]:
        if outcome["attack"] != "maximum":  # of marks, the same as an average told by weights
            place = tuple(outcome[name] for name in ("code", "licensees", "colluders", "coalition", "attack"))
            rows.setdefault(place, {})[outcome["missed"], outcome["false"]] = outcome
    trials = document["outcomes"][0]["trials"]
    lines = [
        f"Rule A, {trials} coalitions in each cell: percent in which a colluder was named / an innocent was.",
        "",
        "| code, licensees, c | pooled | how | all marks read | 5 % of marks missed | 0.5 % seen wrongly | both |",
        "|---|---|---|---|---|---|---|",
    ]
    for (code, licensees, colluders, coalition, attack), cells in rows.items():
        shown = [
            " / ".join(f"{100 * cells[reading][name] / trials:.3g}" for name in ("colluder_named", "innocent_named"))
            for reading in READINGS
        ]
        beyond = " (more than c)" if coalition > colluders else ""
        lines.append(f"| `{code}`, {licensees:,}, {colluders} | {coalition}{beyond} | {attack} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _table_of_rule_b(document: Mapping[str, Any]) -> str:
    many = document["many"]
    lines = [
        f"Rule B, `{many['code']}`, {many['licensees']:,} licensees, {many['outcomes'][0]['trials']} coalitions in "
        f"each row. Deriving all words took {many['seconds_to_derive_all_words']:.0f} s, counting what all share "
        f"{1000 * many['seconds_to_count_once']:.0f} ms.",
        "",
        "| ε | pooled | how | colluder named | innocent named | bound |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {outcome['epsilon']:g} | {outcome['coalition']} | {outcome['attack']} "
        f"| {100 * outcome['colluder_named'] / outcome['trials']:.3g} % "
        f"| {100 * outcome['innocent_named'] / outcome['trials']:.3g} % | {100 * outcome['bound']:.2g} % |"
        for outcome in many["outcomes"]
    ]
    return "\n".join(lines)


def write_docs(path: Path, document: Mapping[str, Any]) -> None:
    """Replace what stands between the marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no section between {BEGIN!r} and {END!r}: put both lines where it belongs")
    path.write_text(f"{before}{BEGIN}\n\n{markdown(document)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
