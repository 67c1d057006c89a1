from dataclasses import dataclass

import pytest

from fpvec_audit.domain.attack_matrix import arrange, plan_digest, seconds_left, weight_sets
from fpvec_audit.domain.attack_spec import bind_spec


@dataclass(frozen=True)
class Settings:
    ratio: float = 0.5


def cells(*specs):
    chains = [chain for spec in specs for chain in bind_spec(spec, lambda _name: Settings)]
    return arrange(chains, lambda name: name.startswith("weigh"))


def test_a_chain_has_a_weight_part_and_a_query_part():
    (cell,) = cells("weigh:ratio=0.1+ask+weigh_more")
    assert [link.name for link in cell.weights] == ["weigh", "weigh_more"]
    assert [link.name for link in cell.queries] == ["ask"]
    assert cell.kind == "weight+query"
    assert [cell.kind for cell in cells("weigh", "ask")] == ["weight", "query"]


def test_what_is_asked_for_twice_is_one_cell():
    found = cells("weigh:ratio=0.5|0.1", "weigh", "ask")
    assert [(cell.number, cell.chain.text) for cell in found] == [(1, "weigh"), (2, "weigh:ratio=0.1"), (3, "ask")]


def test_cells_are_grouped_by_the_copy_they_want_the_stamped_model_first():
    found = weight_sets(cells("weigh+ask", "ask", "weigh:ratio=0.1", "weigh", "ask+weigh"))
    assert [[cell.number for cell in group.cells] for group in found] == [[2], [1, 4, 5], [3]]
    assert found[0].links == ()


def test_another_cell_order_or_setting_is_another_plan():
    one = plan_digest(cells("weigh", "ask"), {"seed": 0})
    assert one == plan_digest(cells("weigh:ratio=0.5", "ask"), {"seed": 0})
    assert len({one, plan_digest(cells("ask", "weigh"), {"seed": 0}), plan_digest(cells("weigh", "ask"), {})}) == 3


def test_time_to_go_follows_from_what_alike_cells_took():
    weight, query = ("a", "weight"), ("ask", "query")
    assert seconds_left([], [weight]) is None
    assert seconds_left([(*query, 1.0)], [query, weight]) is None
    finished = [(*weight, 2.0), (*weight, 4.0), ("b", "weight", 30.0)]
    assert seconds_left(finished, [weight, weight, ("new", "weight")]) == pytest.approx(3 + 3 + 12)
    assert seconds_left(finished, []) == 0
