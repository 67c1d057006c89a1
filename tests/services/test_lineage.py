from dataclasses import replace

import pytest

from fpvec_audit.domain.records import ModelRecord, ModelRole, StampRecord, VectorRecord
from fpvec_audit.errors import VectorError
from fpvec_audit.services.lineage import ancestry, other_copies, refuse_carrier, stems_from
from tests.conftest import FIXED_TIME

VECTOR = VectorRecord(
    id="vec-" + "1" * 16,
    digest="1" * 64,
    family="fam-1",
    mark=0,
    key_set=None,
    base="base",
    fingerprinted="fingerprinted",
    architecture="gpt2",
    location="/vector",
    inexact_elements=0,
    norm=1.0,
    created_at=FIXED_TIME,
)


@pytest.fixture
def uow(registry):
    """A unit of work with base, fingerprinted model, vector, a downstream line and a stranger."""
    with registry.unit_of_work() as unit:
        for name, role, parent in (
            ("base", ModelRole.BASE, None),
            ("fingerprinted", ModelRole.FINGERPRINTED, "base"),
            ("chat", ModelRole.DOWNSTREAM, "base"),
            ("chat-2", ModelRole.DOWNSTREAM, "chat"),
            ("stray", ModelRole.DOWNSTREAM, None),
            ("other", ModelRole.BASE, None),
            ("other-chat", ModelRole.DOWNSTREAM, "other"),
        ):
            unit.models.add(ModelRecord(name, name, role, "gpt2", f"/{name}", parent, 1, FIXED_TIME))
        unit.vectors.add(VECTOR)
        yield unit


def stamped(uow, downstream, result):
    uow.models.add(ModelRecord(result, result, ModelRole.STAMPED, "gpt2", "/x", downstream, 1, FIXED_TIME))
    uow.stamps.add(StampRecord("st-1", downstream, result, ((VECTOR.id, 1.0),), "", "/x", 1.0, 1.0, {}, FIXED_TIME))


def test_ancestry_goes_up_to_the_base_and_is_empty_for_a_stranger(uow):
    assert [model.id for model in ancestry(uow, "chat-2")] == ["chat-2", "chat", "base"]
    assert ancestry(uow, "unheard-of") == ()


@pytest.mark.parametrize("model", ["base", "chat", "chat-2"])
def test_base_and_its_descendants_stem_from_it(uow, model):
    assert stems_from(uow, model, VECTOR)


@pytest.mark.parametrize("model", ["stray", "unheard-of"])
def test_unknown_origin_is_not_a_refusal(uow, model):
    assert not stems_from(uow, model, VECTOR)


@pytest.mark.parametrize("model", ["other", "other-chat"])
def test_another_base_is_refused_by_name(uow, model):
    with pytest.raises(VectorError, match=f"{model} stems from the base other"):
        stems_from(uow, model, VECTOR)


def test_stamped_model_its_descendants_and_the_fingerprinted_model_carry_the_vector(uow):
    stamped(uow, "chat", "stamped")
    uow.models.add(ModelRecord("tuned", "tuned", ModelRole.DOWNSTREAM, "gpt2", "/t", "stamped", 1, FIXED_TIME))
    for model in ("stamped", "tuned", "fingerprinted"):
        with pytest.raises(VectorError, match=r"carries vec-|fingerprinted model of"):
            refuse_carrier(uow, model, VECTOR)
    for model in ("base", "chat", "chat-2", "other-chat", "unheard-of"):
        refuse_carrier(uow, model, VECTOR)


def test_another_form_of_the_same_fingerprint_counts_another_fingerprint_does_not(uow):
    stamped(uow, "chat", "stamped")
    with pytest.raises(VectorError, match="carries"):
        refuse_carrier(uow, "stamped", replace(VECTOR, id="vec-" + "2" * 16))
    refuse_carrier(uow, "stamped", replace(VECTOR, fingerprinted="another"))


def test_other_copies_are_those_of_the_same_downstream_that_are_still_there(uow, tmp_path):
    places = {name: tmp_path / name for name in ("own", "second", "gone", "elsewhere")}
    for number, (name, place) in enumerate(places.items()):
        downstream = "chat-2" if name == "elsewhere" else "chat"
        if name != "gone":
            place.mkdir()
            (place / "config.json").touch()
        uow.models.add(ModelRecord(name, name, ModelRole.STAMPED, "gpt2", str(place), downstream, 1, FIXED_TIME))
        stamp = StampRecord(
            f"st-{number}", downstream, name, ((VECTOR.id, 1.0),), "", str(place), 1.0, 1.0, {}, FIXED_TIME
        )
        uow.stamps.add(stamp)
    assert other_copies(uow, "own") == (places["second"],)
    assert other_copies(uow, "elsewhere") == ()
    assert other_copies(uow, "chat") == ()
