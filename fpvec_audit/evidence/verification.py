"""What verifying a bundle found, as a value and as the document that scripts read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was recomputed.

    Attributes:
        name: what.
        ok: whether it fits.
        sentence: what was found.
    """

    name: str
    ok: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a bundle found.

    Attributes:
        valid: whether everything fits.
        verdict: recomputed verdict, empty for an invalid bundle.
        alpha: significance level that the owner's plan chose, as decimal text; empty for an invalid bundle.
        grade: recomputed grade, empty for an invalid bundle.
        signer: "pinned <key>" or "signer not pinned".
        order: "self-asserted" or "anchored by <key>"; empty for an invalid bundle.
        problems: what does not fit.
        checks: everything that was looked at.
        not_recomputed: what verifying leaves open.
        does_not_prove: what no reader should take from the verdict.
        accusation: who is named for the marks of a family, and on what condition, in a sentence; empty for a bundle
            that is not about copies of licensees, and for an invalid one.
        named: an object for each of them.
    """

    valid: bool
    verdict: str
    alpha: str
    grade: str
    signer: str
    order: str
    problems: tuple[str, ...]
    checks: tuple[Check, ...] = field(repr=False)
    not_recomputed: tuple[str, ...] = field(repr=False)
    does_not_prove: tuple[str, ...] = field(repr=False)
    accusation: str = ""
    named: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document that scripts read."""
        return {
            "valid": self.valid,
            "verdict": self.verdict,
            "alpha": self.alpha,
            "grade": self.grade,
            "signer": self.signer,
            "order": self.order,
            "accusation": self.accusation or None,
            "named": [dict(item) for item in self.named],
            "problems": list(self.problems),
            "checks": [{"name": check.name, "ok": check.ok, "sentence": check.sentence} for check in self.checks],
            "not_recomputed": list(self.not_recomputed),
            "does_not_prove": list(self.does_not_prove),
        }
