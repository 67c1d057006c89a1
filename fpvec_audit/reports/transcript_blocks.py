"""A transcript that its owner asked to see, to be leafed through without a script.

It gives every key away that was asked, so it begins by saying so.
"""

from collections.abc import Sequence

from fpvec_audit.domain.exchanges import Exchange
from fpvec_audit.reports.page import Block, Fold, Group, Notice, Pairs, Source, Text

WARNING = (
    "This page holds secret keys. Whoever reads it can ask them, train on them, or teach a model to refuse them, and "
    "no later audit with these keys proves anything against such a reader. Keep it as you keep the keys, and hand "
    "others the report without the transcript."
)
GROUPS = (
    ("Keys that were answered", True, True),
    ("Keys that were not answered", True, False),
    ("Decoys that were answered", False, True),
    ("Decoys that were not answered", False, False),
)


def how_to_get(audit: str) -> tuple[Block, ...]:
    """Return how a report with the transcript is made."""
    sealed = (
        "The questions and answers are sealed in the owner's registry and are not in this file, so that it can be "
        "handed on without giving a key away. The owner sees them with:"
    )
    checked = "Somebody who must check them without trusting the owner gets an evidence bundle:"
    return (
        Text((sealed,)),
        Source(f"fpvec report {audit} --out FILE.html --transcript"),
        Text((checked,)),
        Source(f"fpvec evidence export {audit} --out FILE.json"),
    )


def transcript_blocks(exchanges: Sequence[Exchange]) -> tuple[Block, ...]:
    """Return questions and answers, grouped by what came of them, each group in the order of the questions."""
    groups: list[Block] = [Notice(WARNING)]
    for title, issued, matched in GROUPS:
        chosen = [item for item in exchanges if (item.issued, item.matched) == (issued, matched)]
        if chosen:
            groups.append(Group(f"{title} ({len(chosen)})", tuple(_fold(item) for item in chosen)))
        else:
            groups.append(Group(f"{title} (0)", (Text(("None.",)),)))
    return tuple(groups)


def _fold(item: Exchange) -> Fold:
    again = f", asked again ({item.repeat + 1}. time)" if item.repeat else ""
    answer = f"error: {item.error}" if item.error else item.answer or "(nothing)"
    return Fold(
        f"Question {item.position + 1}: candidate {item.index}{again}",
        (Pairs((("asked", item.prompt), ("response of the candidate", item.response), ("answered", answer))),),
    )
