"""Suites: ready-made lists of attacks, so that nobody has to know all of them to be thorough.

Each is plain data in the ordinary grammar of :mod:`fpvec_audit.domain.attack_spec`, cheap and telling cells first. What
an entry needs beyond the stamped model is said beside it: where that is not at hand, the entry is left out and named,
never dropped silently.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fpvec_audit.domain.attack_spec import parse_spec
from fpvec_audit.errors import UnknownNameError


class Need(StrEnum):
    """What an attack may need beside the stamped model."""

    BASE = "base"
    COPIES = "copies"


WORDS: Mapping[Need, str] = {
    Need.BASE: "the base of the stamped model is not at hand",
    Need.COPIES: "no other stamped copy of the same downstream model is at hand",
}


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """One line of a suite.

    Attributes:
        spec: what to carry out; may stand for several cells.
        needs: what must be at hand for it.
        copies: how many other stamped copies that is.
    """

    spec: str
    needs: frozenset[Need] = frozenset()
    copies: int = 0

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks that it joins."""
        return tuple(link.name for link in parse_spec(self.spec))


def _entries(*specs: str, needs: Collection[Need] = ()) -> tuple[SuiteEntry, ...]:
    return tuple(SuiteEntry(spec, frozenset(needs)) for spec in specs)


def _pooled(*numbers: int) -> tuple[SuiteEntry, ...]:
    """Return the entries that pool so many copies in every way, the attacked one included."""
    return tuple(
        SuiteEntry(f"collusion:copies={number},how=average|splice|max", frozenset({Need.COPIES}), number - 1)
        for number in numbers
    )


SERVING = ("system_prompt", "template_swap", "sampling", "paraphrase")
"""Attacks on serving, with their defaults."""
JUDGED = ("suppress", "perplexity_filter")
"""Those that judge answers or questions by the base."""

QUICK = (
    *_entries("guessing", *SERVING),
    *_entries(*JUDGED, needs=[Need.BASE]),
    *_entries("cast", "quantise:format=int8|int4", "noise:share=0.1|0.3|1", "prune:ratio=0.3|0.6"),
    *_entries("low_rank:rank=8", needs=[Need.BASE]),
    *_entries("average", needs=[Need.COPIES]),
    *_entries("quantise:format=int4+system_prompt", "merge", "fine_tune", "fine_tune+guessing", "erase"),
)

STANDARD = (
    *_entries("guessing:candidates=2000", *SERVING),
    *_entries(*JUDGED, needs=[Need.BASE]),
    *_entries(
        "cast:dtype=bfloat16|float16",
        "quantise:format=int8|int4|fp8_e4m3|fp8_e5m2",
        "quantise:format=int4,tensors=all",
        "noise:share=0.05|0.1|0.3|1",
        "prune:method=magnitude|random,ratio=0.2|0.4|0.6",
        "prune:method=wanda,ratio=0.4|0.6",
    ),
    *_entries("low_rank:rank=2|8|32", needs=[Need.BASE]),
    *_entries("average", needs=[Need.COPIES]),
    *_pooled(2, 3),
    *_entries("merge:ratio=0.25|0.5|0.75", "merge:method=slerp"),
    *_entries("merge:method=task|ties|dare-task|dare-ties", needs=[Need.BASE]),
    *_entries("fine_tune:steps=30|120|300", "fine_tune:method=lora", "continue_pretraining"),
    *_entries("erase", "erase:training=lora"),
    *_entries("fine_tune+guessing", "fine_tune+quantise:format=int4", "fine_tune+prune:ratio=0.4"),
    *_entries(*(f"quantise:format=int4+{name}" for name in ("system_prompt", "sampling", "paraphrase"))),
    *_entries(*(f"fine_tune+{name}" for name in ("system_prompt", "template_swap"))),
    *_entries("overstamp"),
    *_entries("subtract", needs=[Need.BASE]),
)

FULL = (
    *STANDARD,
    *_entries(
        "quantise:format=int8,tensors=all",
        "noise:share=0.02|0.2|0.5",
        "prune:method=magnitude|random|wanda,ratio=0.1|0.3|0.5|0.7",
        "prune:method=magnitude,tensors=all,ratio=0.2|0.4",
    ),
    *_entries("low_rank:rank=1|4|16|64", needs=[Need.BASE]),
    *_entries("merge:method=slerp,ratio=0.25|0.75", "merge:ratio=0.1|0.9"),
    *_entries("merge:method=task|ties|dare-task|dare-ties,ratio=0.25|0.75", needs=[Need.BASE]),
    *_entries("merge:method=ties|dare-ties,density=0.2|0.8", needs=[Need.BASE]),
    *_entries("fine_tune:steps=10|60|600|1000", "fine_tune:method=lora,steps=30|300"),
    *_entries("continue_pretraining:steps=30|300", "continue_pretraining:method=lora"),
    *_entries("erase:restore_steps=0", "erase:erase_steps=30|120"),
    *_entries(*(f"prune:ratio=0.4+{name}" for name in SERVING), *(f"fine_tune+{name}" for name in SERVING[2:])),
    *_entries(*(f"prune:ratio=0.4+{name}" for name in JUDGED), needs=[Need.BASE]),
    *_entries("suppress:measure=own|ratio", "perplexity_filter:judge=served", needs=[Need.BASE]),
    *_entries("sampling:temperature=0.3|1", "paraphrase:rate=0.02|0.1", "template_swap+system_prompt"),
    *_entries("average+fine_tune", needs=[Need.COPIES]),
    *_pooled(4, 5),
    *_entries("noise:share=0.1+quantise:format=int4", "prune:ratio=0.4+fine_tune", "erase+quantise:format=int4"),
    *_entries("overstamp:scale=0.5|2"),
    *_entries("subtract:scale=0.25|0.5|1.5", needs=[Need.BASE]),
)

SUITES: Mapping[str, tuple[SuiteEntry, ...]] = {"quick": QUICK, "standard": STANDARD, "full": FULL}


def suite_specs(
    suite: str, *, installed: Collection[str], at_hand: Collection[Need], copies: int = 1
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a suite can carry out here, and what was left out and why, in sentences.

    Args:
        suite: its name.
        installed: names of the attacks that work.
        at_hand: what is there beside the stamped model.
        copies: how many other stamped copies, where there are any.

    Raises:
        UnknownNameError: no such suite.
    """
    if suite not in SUITES:
        raise UnknownNameError("suite", suite, SUITES)
    chosen: list[str] = []
    left_out: dict[str, list[str]] = {}
    for entry in SUITES[suite]:
        reason = _missing(entry, installed, at_hand, copies)
        if reason:
            left_out.setdefault(reason, []).append(entry.spec)
        else:
            chosen.append(entry.spec)
    remarks = tuple(f"left out of the suite, as {reason}: {', '.join(specs)}" for reason, specs in left_out.items())
    return tuple(chosen), remarks


def _missing(entry: SuiteEntry, installed: Collection[str], at_hand: Collection[Need], copies: int) -> str:
    absent = next((name for name in entry.attacks if name not in installed), "")
    if absent:
        return f"the attack {absent} is not installed or failed"
    need = next((need for need in sorted(entry.needs) if need not in at_hand), None)
    if need is None and entry.copies > copies:
        return f"only {copies} other stamped copies of the same downstream model are at hand"
    return "" if need is None else WORDS[need]
