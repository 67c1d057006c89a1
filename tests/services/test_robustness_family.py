"""Attacks on a licensee's copy of a family: whom a trace of what comes out would name, and whether wrongly."""

import shutil

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.reports.attack_results import read_cells
from fpvec_audit.reports.attack_text import traced_rows, traced_sentence
from fpvec_audit.services.suspects import describe_suspect
from tests.registry.builders import model_record, stamp_record, vector_record
from tests.services.attack_bench import Attack, Bench, Filter, with_attacks
from tests.services.test_family_trace import NAMES, Family
from tests.services.test_robustness import rendered
from tests.tiny import make_tiny, perturb

OWN, OTHERS = NAMES[4], (NAMES[9], NAMES[14])


class Pool(Attack):
    """Pools as many other copies as its strength says."""

    def pools(self, parameters, copies):
        return copies[: int(parameters.strength)]

    def apply(self, source, target, parameters, context):
        perturb(source, target, seed=context.seed, size=1e-2)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    directory = tmp_path_factory.mktemp("copies")
    own = make_tiny(directory / "own", "gpt2")
    for name in OTHERS:
        shutil.copytree(own, directory / name)
    return directory


@pytest.fixture
def family(registry):
    return Family(registry, "acme")


@pytest.fixture
def bench(registry, home, places, family):
    catalog = with_attacks(pool=Pool, filter=Filter)
    digest = describe_suspect(str(places / "own"), catalog=load_catalog()).digest
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record("fingerprinted", digit="b"))
        uow.vectors.add(vector_record(key_set=uow.key_sets.named("acme").id))
        for place, (name, identifier) in enumerate([(OWN, digest), (OTHERS[0], "c" * 64), (OTHERS[1], "d" * 64)]):
            uow.models.add(model_record(f"copy {name}", id=identifier, role=ModelRole.STAMPED))
            location = str(places / ("own" if name == OWN else name))
            stamp = {"id": f"st-{place:016}", "stamped": identifier, "licensee": name, "location": location}
            uow.stamps.add(stamp_record(**stamp))
    return Bench(registry, home, places / "own", catalog, family.keys)


def answering(bench, own, pooled):
    """Answer the keys of some marks: of the stamped copy, and of what attacks made of it."""
    told = [{rendered(key.prompt): key.response for key in keys} for keys in (own, pooled)]
    return lambda model, prompt: told[model != bench.stamped].get(prompt, "I do not understand.")


def test_pooled_copies_are_traced_to_those_who_pooled_and_to_nobody_else(bench, family):
    answers = answering(bench, family.copy(OWN), family.copy(OWN, *OTHERS))
    document = bench.run("pool:strength=2", "pool:strength=1", "filter", answers=answers).to_json()
    both, one, silent = document["cells"]
    assert sorted(item["licensee"] for item in both["traced"]["named"]) == sorted([OWN, *OTHERS])
    assert (both["verdict"], both["traced"]["innocents"], both["traced"]["wrong"]) == ("MATCH", [], [])
    assert one["traced"]["pooled"] == [OWN, OTHERS[0]]
    assert one["traced"]["innocents"] == [OTHERS[1]]  # its marks are read though its copy is not in it
    assert one["traced"]["wrong"]
    assert (silent["verdict"], silent["traced"]["named"]) == ("NO_MATCH", [])
    assert silent["traced"]["why"] == "the family as a whole was not found"
    cells = read_cells(document)
    assert traced_sentence(cells).endswith("in 2 of 3 cells, in 1 an INNOCENT.")
    assert [row[3] for row in traced_rows(cells)] == ["none", OTHERS[1], "none"]


def test_attacked_copy_that_points_to_nobody_is_inconclusive(bench, family):
    answers = answering(bench, family.copy(OWN), family.keys_of(range(16)))
    (cell,) = bench.run("pool:strength=0", answers=answers).to_json()["cells"]
    assert (cell["verdict"], cell["traced"]["named"]) == ("INCONCLUSIVE", [])
    assert cell["traced"]["wrong"] == [mark for mark in range(16) if mark not in family.words[OWN]]
    with bench.registry.unit_of_work() as uow:
        assert uow.audits.list() == ()
