"""How large a family must be: the code that is planned is one that the family will really get."""

import pytest

from fpvec_audit.errors import UsageError
from fpvec_audit.services.family_codes import Wanted, add_licensees
from fpvec_audit.services.family_plan import plan_family
from fpvec_audit.services.keys import issue_key_set


@pytest.mark.parametrize(
    ("licensees", "colluders", "code", "borne"),
    [(20, 2, "plane:4", 3), (21, 2, "rs:5,2,4", 3), (100, 2, "rs:5,3,5", 2), (20, 1, "random:3/6", 1)],
)
def test_planned_family_bears_what_was_asked_and_a_copy_of_it_is_enough_for_a_match(
    registry, licensees, colluders, code, borne
):
    plan = plan_family(licensees, colluders=colluders)
    assert (plan.code.text, plan.colluders) == (code, borne)
    issue_key_set("acme", registry=registry, specification=plan.specification)
    wanted = Wanted(plan.code.text, licensees, colluders)
    summary = add_licensees(["Globex"], "acme", registry=registry, wanted=wanted).summary
    assert summary.keys_of_a_copy >= summary.keys_needed
    assert not any("answers alone" in warning for warning in summary.warnings)


def test_more_marks_than_are_wanted_are_refused_with_how_many_it_takes():
    with pytest.raises(UsageError, match=r"26 licensees, 2 of whom may pool their copies, take 25 marks \(plane:5"):
        plan_family(26, colluders=2, most_marks=20)
