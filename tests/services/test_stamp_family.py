"""Copies of a family: each licensee's own code word, and a carrier beside it."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.carrier import CarrierKey
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.errors import EvidenceError, KeySetError, RegistryError, UnknownNameError, UsageError, VectorError
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.services.carriers import CARRIER, COMMITTED, key_sets_with_carriers, read_carriers
from fpvec_audit.services.code_words import code_words
from fpvec_audit.services.family_codes import Wanted, add_licensees, retire_licensee
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.models import register_model
from fpvec_audit.services.opened_carriers import OpenedCarrier, open_carrier, read_opened_carrier
from fpvec_audit.services.stamp import stamp_models
from fpvec_audit.services.traced_carriers import OWN_ALONE, traced_carriers, verdict_with_carriers
from fpvec_audit.services.unstamp import unstamp_model
from tests.marked import make_family
from tests.tiny import make_tiny, perturb, rewrite, tensors_of

NAMES = ["Globex", "Initech", "Umbrella"]
STRENGTH = 0.2


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def tools(registry, catalog):
    return {"registry": registry, "catalog": catalog}


@pytest.fixture
def base(tmp_path, tools):
    path = make_tiny(tmp_path / "base", "gpt2", hidden=32)
    register_model(path, role=ModelRole.BASE, **tools)
    return path


@pytest.fixture
def family(tmp_path, base, tools):
    key_set = make_family(tmp_path, base, marks=4, **tools)
    add_licensees(NAMES, "acme", registry=tools["registry"], wanted=Wanted(code="random:2", colluders=1))
    return key_set


@pytest.fixture
def downstream(tmp_path, base, family, tools):
    path = perturb(base, tmp_path / "chat", seed=2, size=1e-2)
    register_model(path, parent="base", **tools)
    return path


def stamp(downstream, out, tools, names=NAMES, **options):
    return stamp_models(
        [downstream],
        vectors=(),
        licensees=names,
        out=out,
        **({"family": "acme", "carrier": STRENGTH} | options),
        **tools,
    )


def test_each_copy_has_the_vectors_of_its_licensees_word(tmp_path, tools, registry, family, downstream):
    results = stamp(downstream, tmp_path / "out", tools, carrier=None)
    with registry.unit_of_work() as uow:
        words = code_words(uow, "acme", NAMES, purpose="test")
    before = tensors_of(downstream)
    for result in results:
        taus = [tensors_of(tmp_path / f"mark-{mark:02}") for mark in words[result.licensee]]
        after = tensors_of(result.out)
        for name, tensor in before.items():
            expected = tensor if name not in taus[0] else tensor + (taus[0][name] + taus[1][name])
            assert torch.equal(after[name], expected)
        assert len(result.vectors) == 2
    assert [result.out.name for result in results] == [f"chat-{name}" for name in NAMES]
    assert [result.carrier for result in results] == [None] * 3
    again = stamp(downstream, tmp_path / "out", tools, carrier=None)
    assert [result.already for result in again] == [True] * 3
    assert [result.stamp_id for result in again] == [result.stamp_id for result in results]


def test_carriers_are_committed_to_before_they_are_added_and_found_again(tmp_path, tools, registry, family, downstream):
    results = stamp(downstream, tmp_path / "out", tools)
    with registry.unit_of_work() as uow:
        events = [entry.event for entry in uow.ledger.entries()]
        assert events.index("stamp.made") > max(place for place, event in enumerate(events) if event == COMMITTED)
        assert key_sets_with_carriers(uow) == (family,)
        stored = uow.stamps.get(results[0].stamp_id).policies["carrier"]
        assert stored["commitments"][1] != stored["commitments"][0]
        assert stored["strength"] == repr(STRENGTH)
        assert uow.ledger.verify() is None
    assert all(0 < result.carried_ratio < 1 for result in results)
    for result in results:
        found = read_carriers(result.out, key_set=family, **tools)
        assert (found.owner.present, [named.licensee for named in found.named]) == (True, [result.licensee])
        assert found.reference.role == "downstream"
        assert found.elements == found.shared
        document = json.loads(json.dumps(found.to_json()))
        assert document["verdict"] == "MATCH"
        assert document["named"][0]["rule"] == "carrier"
        assert document["candidates"] == 3
    clean = read_carriers(perturb(downstream, tmp_path / "other", seed=9), key_set=family, **tools)
    assert not clean.found
    assert clean.to_json()["verdict"] == "INCONCLUSIVE"


def test_average_of_two_copies_names_both_and_nobody_else(tmp_path, tools, family, downstream):
    first, second, _ = stamp(downstream, tmp_path / "out", tools)
    other = tensors_of(second.out)
    average = rewrite(first.out, tmp_path / "average", lambda name, tensor: (tensor + other[name]) / 2)
    found = read_carriers(average, key_set=family, **tools)
    assert {named.licensee for named in found.named} == {first.licensee, second.licensee}


def test_the_same_copy_has_the_same_bits_wherever_it_is_made(tmp_path, tools, family, downstream):
    first = stamp(downstream, tmp_path / "one", tools, NAMES[:1])
    second = stamp(downstream, tmp_path / "two", tools, NAMES[:1])
    assert first[0].digest == second[0].digest
    assert first[0].stamp_id == second[0].stamp_id


def test_a_second_copy_that_differs_is_refused(tmp_path, tools, family, downstream):
    (first,) = stamp(downstream, tmp_path / "one", tools, NAMES[:1])
    with pytest.raises(VectorError, match=f"'Globex' has another copy of .*chat already: {first.stamp_id}"):
        stamp(downstream, tmp_path / "two", tools, NAMES[:1], carrier=None)
    assert not (tmp_path / "two").exists()
    assert stamp(downstream, tmp_path / "two", tools, NAMES[:1], carrier=None, again=True)
    with pytest.raises(VectorError, match="carries marks of this family already"):
        stamp(first.out, tmp_path / "three", tools, NAMES[1:2])


def test_licensees_without_a_word_are_refused(tmp_path, tools, registry, family, downstream):
    with pytest.raises(UsageError, match="--licensee"):
        stamp(downstream, tmp_path / "out", tools, [])
    with pytest.raises(UnknownNameError):
        stamp(downstream, tmp_path / "out", tools, ["Nobody"])
    with registry.unit_of_work() as uow:
        globex, before = uow.licensees.ensure("Globex"), uow.ledger.head()
    for again in ("Globex", globex):
        with pytest.raises(UsageError, match="licensee 'Globex' is named more than once"):
            stamp(downstream, tmp_path / "out", tools, ["Initech", "Globex", again])
    with registry.unit_of_work() as uow:
        assert uow.ledger.head() == before, "no word was opened"
    issue_key_set("one", registry=registry, specification=KeySetSpecification(issued=4, decoys=8))
    with pytest.raises(UsageError, match="has one mark, so that every copy is alike"):
        stamp(downstream, tmp_path / "out", tools, family="one")
    retire_licensee("Initech", "acme", registry=registry, reason="went away")
    with pytest.raises(KeySetError, match="retired"):
        stamp(downstream, tmp_path / "out", tools)
    with pytest.raises(UnknownNameError):
        stamp_models([downstream], vectors=(), family="nothing", licensees=NAMES, out=tmp_path / "out", **tools)
    assert not (tmp_path / "out").exists()


def test_family_of_another_base_is_refused(tmp_path, tools, family):
    stranger = make_tiny(tmp_path / "stranger", "gpt2", hidden=32, seed=5)
    register_model(stranger, role=ModelRole.BASE, name="stranger", **tools)
    theirs = perturb(stranger, tmp_path / "theirs", seed=3)
    register_model(theirs, parent="stranger", **tools)
    with pytest.raises(VectorError, match="from another"):
        stamp(theirs, tmp_path / "out", tools)


def test_mark_without_a_vector_is_named(tmp_path, tools, family, downstream):
    for mark in range(4):
        (tmp_path / f"mark-{mark:02}").rename(tmp_path / f"gone-{mark}")
    with pytest.raises(VectorError, match=r"mark \d of acme has no vector here"):
        stamp(downstream, tmp_path / "out", tools)


def test_vectors_of_no_key_set_have_no_carriers(tmp_path, tools, base, downstream):
    from fpvec_audit.services.extract import extract_vector

    vector = extract_vector(base, perturb(base, tmp_path / "own", exact=True, seed=77), out=tmp_path / "v", **tools)
    with pytest.raises(UsageError, match="carry a key set"):
        stamp_models([downstream], vectors=[vector.vector_id], out=tmp_path / "out", carrier=0.05, **tools)


@pytest.mark.parametrize("strength", [0, -0.1, 0.6, float("nan")])
def test_strengths_that_are_none_are_refused(tmp_path, tools, family, downstream, strength):
    with pytest.raises(UsageError, match="no share"):
        stamp(downstream, tmp_path / "out", tools, carrier=strength)


def test_plain_stamps_of_a_key_set_may_have_carriers_too(tmp_path, tools, family, downstream):
    vector = str(tmp_path / "mark-00")
    (result,) = stamp_models([downstream], vectors=[vector], out=tmp_path / "out", carrier=STRENGTH, **tools)
    found = read_carriers(result.out, key_set=family, **tools)
    assert found.owner.present
    assert found.licensees == ()
    with pytest.raises(VectorError, match="carrier"):
        unstamp_model(result.out, stamp=result.stamp_id, out=tmp_path / "back", **tools)


def test_secret_that_is_not_the_committed_one_is_refused(tmp_path, tools, registry, family, downstream, monkeypatch):
    (result,) = stamp(downstream, tmp_path / "out", tools, NAMES[:1])
    from fpvec_audit.registry.vault import DatabaseVault

    monkeypatch.setattr(DatabaseVault, "unseal", lambda self, kind, subject, *, purpose: bytes(32))
    with pytest.raises(RegistryError, match="not the one that ledger entry"):
        read_carriers(result.out, key_set=family, **tools)


def test_downstream_that_was_changed_is_not_compared_with(tmp_path, tools, family, downstream):
    (result,) = stamp(downstream, tmp_path / "out", tools, NAMES[:1])
    changed = perturb(downstream, tmp_path / "changed", seed=4)
    for file in changed.glob("*.safetensors"):
        (downstream / file.name).write_bytes(file.read_bytes())
    found = read_carriers(result.out, key_set=family, **tools)
    assert found.reference.role == "base"
    assert any("not what was recorded any more" in remark for remark in found.remarks)


def test_models_to_compare_with_may_be_named_but_are_no_copies(tmp_path, tools, family, base, downstream):
    first, second = stamp(downstream, tmp_path / "out", tools, NAMES[:2])
    found = read_carriers(first.out, key_set=family, against=base, **tools)
    assert (found.reference.path, found.reference.role) == (base, "base")
    with pytest.raises(UsageError, match="is a stamped copy itself"):
        read_carriers(first.out, key_set=family, against=second.out, **tools)


def test_key_set_without_carriers_is_said(tmp_path, tools, family, downstream):
    with pytest.raises(UsageError, match="no copy"):
        read_carriers(downstream, key_set=family, **tools)


def test_carrier_secret_is_sealed_and_its_disclosures_recorded(tmp_path, tools, registry, family, downstream):
    (result,) = stamp(downstream, tmp_path / "out", tools, NAMES[:1])
    read_carriers(result.out, key_set=family, **tools)
    with registry.unit_of_work() as uow:
        told = [
            entry for entry in uow.ledger.about(family, events=("secret.revealed",)) if entry.content["kind"] == CARRIER
        ]
    assert [entry.content["purpose"] for entry in told] == [f"carriers of {result.out}"]


def test_traces_of_weights_read_carriers_too(tmp_path, tools, registry, catalog, family, downstream):
    (result,) = stamp(downstream, tmp_path / "out", tools, NAMES[:1])
    with registry.unit_of_work() as uow:
        record = uow.key_sets.get(family)
    settings = SimpleNamespace(alpha="1e-6", architecture=None, leave_out=())
    bench = SimpleNamespace(**tools, settings=settings, progress=NO_PROGRESS, timer=time.monotonic)
    found, notes = traced_carriers(SimpleNamespace(directory=result.out), [record], bench)
    assert [evidence.named_json[0]["licensee"] for evidence in found] == ["Globex"]
    assert verdict_with_carriers(Verdict.NO_MATCH, found) == (Verdict.MATCH, ())
    assert notes == ()
    assert traced_carriers(SimpleNamespace(directory=None), [record], bench) == ((), ())
    blind = SimpleNamespace(**{**vars(bench), "settings": SimpleNamespace(leave_out=("gradient",))})
    assert traced_carriers(SimpleNamespace(directory=result.out), [record], blind) == ((), ())
    alone = replace(found[0], licensees=())
    assert verdict_with_carriers(Verdict.NO_MATCH, [alone]) == (Verdict.INCONCLUSIVE, (OWN_ALONE,))
    other = make_tiny(tmp_path / "other", "gpt2", hidden=16)
    found, notes = traced_carriers(SimpleNamespace(directory=other), [record], bench)
    assert (found, len(notes)) == ((), 1)
    assert "were not read" in notes[0]


def test_carrier_that_its_owner_opens_is_measured_without_a_registry(tmp_path, tools, registry, family, downstream):
    copy, other, _ = stamp(downstream, tmp_path / "out", tools)
    file = tmp_path / "opened.carrier"
    opened = open_carrier(NAMES[0], file, key_set=family, registry=registry)
    with registry.unit_of_work() as uow:
        committed = {
            entry.content["licensee"]: entry.content for entry in uow.ledger.about(family, events=(COMMITTED,))
        }
        assert any("opened" in str(entry.content.get("purpose")) for entry in uow.ledger.entries())
    assert opened.key.commitment == committed[NAMES[0]]["commitment"]
    again = OpenedCarrier.load(file)
    readings = [
        read_opened_carrier(again, result.out, against=downstream, catalog=tools["catalog"]) for result in (copy, other)
    ]
    assert [reading.finding.present for reading in readings] == [True, False]
    assert "key" not in readings[0].to_json()
    assert readings[0].to_json()["z"] == read_carriers(copy.out, key_set=family, **tools).named[0].z
    assert file.stat().st_mode & 0o777 == 0o600  # who has the key can take the carrier off, or put it on
    with pytest.raises(UnknownNameError, match="Nobody"):
        open_carrier("Nobody", tmp_path / "no.carrier", key_set=family, registry=registry)
    file.write_bytes(file.read_bytes().replace(again.key.commitment.encode(), b"0" * 64))
    with pytest.raises(EvidenceError, match="not the one of the commitment"):
        OpenedCarrier.load(file)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, -1e-6, float("nan")])
def test_carriers_are_not_judged_at_a_level_that_is_none(tmp_path, tools, alpha):
    opened = OpenedCarrier("ks-0", NAMES[0], CarrierKey(bytes(32)))
    nothing = tmp_path / "not looked at"
    with pytest.raises(UsageError, match="is no significance level"):
        read_opened_carrier(opened, nothing, against=nothing, catalog=tools["catalog"], alpha=alpha)
    with pytest.raises(UsageError, match="is no significance level"):
        read_carriers(nothing, key_set="ks-0", alpha=alpha, **tools)
