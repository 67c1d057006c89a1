"""Lists: every filter, order and page, on both databases; and that an index serves each of them."""

from datetime import timedelta

import pytest

from fpvec_audit.domain.records import JobState, ModelRole
from fpvec_audit.domain.selection import EVERYTHING, Selection
from fpvec_audit.errors import AmbiguousNameError, UnknownNameError
from tests.registry.builders import (
    START,
    audit_record,
    key_set_record,
    model_record,
    secret,
    stamp_record,
    vector_record,
)

HOUR = timedelta(hours=1)


def model_id(number):
    return f"{number:02x}" * 32


@pytest.fixture
def stocked(registry):
    """Two bases with a copy each for Bob and Carol, key sets of two owners, vectors, stamps and audits."""
    with registry.unit_of_work() as uow:
        for number, name in enumerate(("one", "two")):
            base, made, down, copy = (model_id(16 * number + place) for place in (1, 2, 3, 4))
            uow.models.add(model_record(name, id=base, created_at=START + number * HOUR))
            uow.models.add(model_record(f"{name}-made", id=made, parent=base, role=ModelRole.FINGERPRINTED))
            uow.models.add(model_record(f"{name}-down", id=down, parent=base, role=ModelRole.DOWNSTREAM))
            uow.models.add(model_record(f"{name}-copy", id=copy, parent=down, role=ModelRole.STAMPED))
            keys = key_set_record(
                f"keys-{name}",
                seed=number,
                owner=("Acme", "Beta")[number],
                licensee=("Bob", "")[number],
                created_at=START + number * HOUR,
            )
            uow.key_sets.add(keys, secret(number))
            uow.key_sets.bind(keys.id, base)
            vector = vector_record(
                digit=str(number + 1), family=f"fam-{number}", key_set=keys.id, base=base, fingerprinted=made
            )
            uow.vectors.add(vector)
            for place, whom in enumerate(("Bob", "Carol")):
                uow.stamps.add(
                    stamp_record(
                        id=f"st-{number}{place}" + "e" * 14,
                        downstream=down,
                        stamped=copy,
                        vectors=((vector.id, 0.5), (vector.id, 1.0)),
                        licensee=whom,
                        created_at=START + (2 * number + place) * HOUR,
                    )
                )
            uow.audits.plan(audit_record(keys.id, id=f"au-{number}" + "f" * 15, created_at=START + number * HOUR))
        uow.audits.finish("au-0" + "f" * 15, verdict="MATCH", result={})
    return registry


def stamps(registry, **options):
    where = {name: options.pop(name) for name in list(options) if name in FILTERS}
    with registry.snapshot() as uow:
        return [stamp.id[3:5] for stamp in uow.stamps.select(Selection(where=where, **options))]


FILTERS = ("licensee", "base", "downstream", "key", "owner", "vector")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"licensee": "Bob"}, ["00", "10"]),
        ({"base": "two"}, ["10", "11"]),
        ({"base": model_id(1)[:6]}, ["00", "01"]),
        ({"downstream": "one-down"}, ["00", "01"]),
        ({"key": "keys-two"}, ["10", "11"]),
        ({"owner": "Acme"}, ["00", "01"]),
        ({"vector": "vec-2"}, ["10", "11"]),
        ({"owner": "Acme", "licensee": "Carol"}, ["01"]),
        ({"base": "one", "owner": "Beta"}, []),
        ({"vector": "vec-1", "owner": "Acme", "licensee": "Bob"}, ["00"]),
    ],
)
def test_stamps_are_filtered_by_what_they_are_and_whose(stocked, where, found):
    assert stamps(stocked, **where) == found
    assert stamps(stocked, **where, limit=5) == found


def test_dates_limit_a_list_from_here_until_before_there(stocked):
    assert stamps(stocked, since=START + HOUR) == ["01", "10", "11"]
    assert stamps(stocked, until=START + HOUR) == ["00"]
    assert stamps(stocked, since=START + HOUR, until=START + 2 * HOUR, licensee="Carol") == ["01"]


def test_order_is_reversed_with_a_minus(stocked):
    assert stamps(stocked) == ["00", "01", "10", "11"]
    assert stamps(stocked, sort="-created") == ["11", "10", "01", "00"]
    with stocked.snapshot() as uow:
        names = [model.name for model in uow.models.select(Selection(sort="-name", limit=3))]
    assert names == ["two-made", "two-down", "two-copy"]


@pytest.mark.parametrize("sort", ["created", "-created"])
@pytest.mark.parametrize("where", [{}, {"licensee": "Bob"}, {"owner": "Acme"}])
def test_pages_follow_each_other_without_gap_or_repetition(stocked, sort, where):
    whole = stamps(stocked, sort=sort, **where)
    with stocked.snapshot() as uow:
        found, after = [], None
        while page := uow.stamps.select(Selection(where=where, sort=sort, limit=1, after=after)):
            found.append(page[0].id[3:5])
            after = page[0].id
    assert found == whole


def test_what_is_recorded_at_one_moment_is_paged_by_id(registry):
    with registry.unit_of_work() as uow:
        for number in range(9):
            uow.models.add(model_record(f"m{number}", id=model_id(number)))
    with registry.snapshot() as uow:
        first = uow.models.select(Selection(limit=4))
        rest = uow.models.select(Selection(after=first[-1].id))
    assert [model.id for model in (*first, *rest)] == [model_id(number) for number in range(9)]


def test_unknown_fields_filters_and_names_suggest_the_nearest(stocked):
    with pytest.raises(UnknownNameError, match="did you mean created"):
        stamps(stocked, sort="craeted")
    with pytest.raises(UnknownNameError, match="did you mean Acme"):
        stamps(stocked, owner="Acne")
    with pytest.raises(UnknownNameError, match="did you mean Carol"):
        stamps(stocked, licensee="Carrol")
    with pytest.raises(UnknownNameError, match="unknown model 'thre'"):
        stamps(stocked, base="thre")
    with pytest.raises(AmbiguousNameError):
        stamps(stocked, after="st-0")
    with stocked.snapshot() as uow, pytest.raises(UnknownNameError, match="unknown filter 'colour'"):
        uow.stamps.select(Selection(where={"colour": "red"}))


def test_models_are_filtered_by_role_base_and_parent(stocked):
    def names(**where):
        with stocked.snapshot() as uow:
            return {model.name for model in uow.models.select(Selection(where=where, limit=50))}

    assert names(role="stamped") == {"one-copy", "two-copy"}
    assert names(base="one") == {"one-made", "one-down", "one-copy"}
    assert names(parent="one") == {"one-made", "one-down"}


def test_vectors_key_sets_audits_and_jobs_are_filtered(stocked):
    with stocked.unit_of_work() as uow:
        uow.jobs.start("stamp", {})
        uow.jobs.finish(uow.jobs.start("audit", {}).id, JobState.FAILED, {})
    with stocked.snapshot() as uow:
        chosen = lambda repository, **where: len(repository.select(Selection(where=where, limit=9)))  # noqa: E731
        for where in ({"base": "one"}, {"key": "keys-one"}, {"owner": "Acme"}, {"licensee": "Bob"}):
            assert [vector.id for vector in uow.vectors.select(Selection(where=where))] == ["vec-" + "1" * 16]
        for where in ({"owner": "Acme"}, {"licensee": "Bob"}, {"base": "one"}):
            assert [keys.name for keys in uow.key_sets.select(Selection(where=where))] == ["keys-one"]
            assert [audit.id[3] for audit in uow.audits.select(Selection(where=where))] == ["0"]
        assert chosen(uow.key_sets, state="retired") == 0
        assert chosen(uow.audits, verdict="MATCH") == chosen(uow.audits, verdict="", key="keys-two") == 1
        assert chosen(uow.jobs, state="failed") == chosen(uow.jobs, kind="audit") == 1
        assert chosen(uow.jobs, kind="audit", state="running") == 0
        assert len(uow.jobs.select(EVERYTHING)) == 2


def test_list_through_many_keys_is_walked_in_order(stocked, monkeypatch):
    monkeypatch.setattr("fpvec_audit.registry.repositories.listing.FEW_KEYS", 1)
    monkeypatch.setattr("fpvec_audit.registry.repositories.listing.FEW_ROWS", 1)
    assert stamps(stocked, vector="vec-1", limit=1) == ["00"]
    assert stamps(stocked, owner="Acme", sort="-created", limit=9) == ["01", "00"]


def test_parent_that_becomes_known_later_gives_all_descendants_its_base(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("base", id=model_id(1)))
        uow.models.add(model_record("down", id=model_id(2), role=ModelRole.SUSPECT))
        uow.models.add(model_record("copy", id=model_id(3), parent=model_id(2)))
        uow.models.add(model_record("down", id=model_id(2), parent=model_id(1)))
        found = uow.models.select(Selection(where={"base": "base"}))
    assert {model.name for model in found} == {"down", "copy"}


def test_models_that_are_said_to_be_made_of_each_other_are_no_trap(registry):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record("egg", id=model_id(1)))
        uow.models.add(model_record("hen", id=model_id(2), parent=model_id(1)))
        uow.models.add(model_record("egg", id=model_id(1), parent=model_id(2)))
        assert [model.name for model in uow.models.select(Selection(where={"base": "egg"}))] == ["hen"]


def test_free_name_is_the_next_number_and_is_found_quickly(registry):
    with registry.unit_of_work() as uow:
        for number in range(40):
            assert uow.models.free_name("copy") == ("copy" if number == 0 else f"copy-{number + 1}")
            uow.models.add(model_record(uow.models.free_name("copy"), id=f"{number:064x}"))
