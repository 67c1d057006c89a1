"""The words and signs of a family in a trace, apart from how they are laid out."""

from collections.abc import Mapping, Sequence
from typing import Any

from fpvec_audit.domain.codes import RULE_A, RULE_B
from fpvec_audit.domain.mark_reading import LEAST_SHARE

PRESENT_CELL, UNKNOWN_CELL = "■", "·"
CELLS_IN_A_ROW = 64


def marks_of(document: Mapping[str, Any], family: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the marks of one of a trace's families, by number."""
    return [mark for mark in document["marks"] if mark["key_set"] == family["key_set"]]


def strips(marks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a cell for every mark, in rows."""
    cells = "".join(PRESENT_CELL if mark["state"] == "PRESENT" else UNKNOWN_CELL for mark in marks)
    return [cells[start : start + CELLS_IN_A_ROW] for start in range(0, len(cells), CELLS_IN_A_ROW)]


def family_sentence(family: Mapping[str, Any], marks: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found of a family, in a sentence."""
    found = "found" if family["found"] else "not found as a whole"
    code = f", code {family['code']} with {family['words']} words" if family["code"] else ""
    return f"{family['name']}: {found}; {len(family['present'])} of {len(marks)} marks PRESENT{code}"


def rule_text(licensee: Mapping[str, Any]) -> str:
    """Return by which rule a licensee is named, in words, or what the shared marks would bear."""
    if "A" in licensee["rules"]:
        return f"rule A, up to {licensee['colluders']} different words pooled"
    if "B" in licensee["rules"]:
        return "rule B, whatever was pooled"
    borne = licensee["colluders"]
    return f"not named; would be if at most {borne} pooled" if borne else "not named"


def standing_text(licensee: Mapping[str, Any]) -> str:
    """Return by which rule a licensee is named, in words, and whether its word is out of use."""
    return rule_text(licensee) + (", word retired" if licensee["state"] == "retired" else "")


def naming_conditions(family: Mapping[str, Any]) -> list[str]:
    """Return on what a family's names rest beside the test of the family as a whole, a sentence for each rule."""
    told = {
        RULE_A: f"Rule A names licensees of {family['name']} behind that. It names no innocent where copies with at "
        f"most {family['colluders']} different words were pooled and pooling invents no marks; that is an assumption, "
        "and no probability stands for it.",
        RULE_B: f"Rule B names licensees of {family['name']} behind that, whatever was pooled; the chance that it "
        f"names anybody innocent is at most {family['epsilon']}.",
    }
    return [told[rule] for rule in family["rules"]]


def told_by_text(mark: Mapping[str, Any]) -> str:
    """Return what tells that a mark is PRESENT, in words."""
    return " and ".join(mark.get("told_by") or ("answers",)) if mark["state"] == "PRESENT" else "–"


def own_copy(family: Mapping[str, Any]) -> str:
    """Return how well an own copy was read, empty for a stranger."""
    own = family.get("own_copy")
    if own is None:
        return ""
    carried = f"an own copy with {len(own['marks'])} marks of this family by the registry"
    return f"{carried}: {len(own['missed'])} missed, {len(own['wrong'])} read wrongly"


def proportions(marks: Sequence[Mapping[str, Any]]) -> str:
    """Return λ̂ of the marks whose vectors were compared with the suspect's weights, empty where none was."""
    told = [f"{mark['mark']}: {mark['coefficient']:.2f}" for mark in marks if mark["coefficient"] is not None]
    return f"share of each mark's vector in the weights, PRESENT from {LEAST_SHARE} – {', '.join(told)}" if told else ""
