import pytest

from fpvec_audit.catalog import OWN_DISTRIBUTION, load_catalog
from fpvec_audit.domain.attack_matrix import arrange, weight_sets
from fpvec_audit.domain.attack_spec import bind_spec
from fpvec_audit.domain.attack_suites import SUITES, Need, suite_specs
from fpvec_audit.domain.plugins import ATTACK
from fpvec_audit.domain.ports import WeightAttack
from fpvec_audit.errors import UnknownNameError

CATALOG = load_catalog()


def cells(suite, at_hand=()):
    specs, _ = suite_specs(suite, installed=CATALOG.attacks, at_hand=at_hand)
    chains = [chain for spec in specs for chain in bind_spec(spec, lambda name: CATALOG.attack(name).Parameters)]
    return arrange(chains, lambda name: isinstance(CATALOG.attack(name), WeightAttack))


@pytest.mark.parametrize(("suite", "fewest"), [("quick", 12), ("standard", 40), ("full", 80)])
def test_a_suite_has_its_cells_and_every_one_of_them_can_be_meant(suite, fewest):
    found = cells(suite, [Need.BASE])
    assert len(found) >= fewest
    assert not found[0].weights
    assert len(weight_sets(found)) < len(found)


def test_suites_name_attacks_that_there_are_and_the_standard_one_all_of_ours():
    named = {suite: {name for entry in entries for name in entry.attacks} for suite, entries in SUITES.items()}
    assert set.union(*named.values()) <= set(CATALOG.attacks)
    ours = {name for name in CATALOG.attacks if CATALOG.info(ATTACK, name).distribution == OWN_DISTRIBUTION}
    assert named["standard"] == ours


def test_the_standard_suite_holds_the_quick_attacks_and_the_full_one_the_standard():
    names = {suite: {name for entry in entries for name in entry.attacks} for suite, entries in SUITES.items()}
    assert names["quick"] <= names["standard"] <= names["full"]
    assert set(SUITES["full"]) >= set(SUITES["standard"])


def test_what_cannot_be_carried_out_is_left_out_and_named():
    specs, remarks = suite_specs("quick", installed=set(CATALOG.attacks) - {"erase"}, at_hand=[Need.COPIES])
    assert "average" in specs
    assert "erase" not in specs
    assert any("the attack erase is not installed" in remark for remark in remarks)
    assert any("the base of the stamped model is not at hand" in text and "low_rank:rank=8" in text for text in remarks)


def test_copies_are_pooled_in_every_way_as_far_as_there_are_enough():
    specs, remarks = suite_specs("full", installed=CATALOG.attacks, at_hand=[Need.COPIES, Need.BASE], copies=3)
    pooled = [spec for spec in specs if spec.startswith("collusion")]
    assert pooled == [f"collusion:copies={number},how=average|splice|max" for number in (2, 3, 4)]
    assert any("only 3 other stamped copies" in remark and "copies=5" in remark for remark in remarks)


def test_an_unknown_suite_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean quick"):
        suite_specs("quik", installed=(), at_hand=())
