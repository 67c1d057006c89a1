"""Which shares of marks a transcript is given: those that can be told rightly, and a sentence about all others."""

import shutil
from types import SimpleNamespace

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.records import ModelRole
from fpvec_audit.progress import NO_PROGRESS
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.described_weights import described_weights
from fpvec_audit.services.likelihoods import BaseModel
from fpvec_audit.services.measured_weights import keep_measured
from fpvec_audit.services.models import register_model
from tests.marked import make_family
from tests.tiny import make_tiny, perturb

MARKS = 3


@pytest.fixture
def family(registry, tmp_path):
    """A family of three marks over a base, and how to measure a suspect of it."""
    catalog = load_catalog()
    base = make_tiny(tmp_path / "base", "gpt2")
    digest = register_model(base, role=ModelRole.BASE, registry=registry, catalog=catalog).record.id
    key_set = make_family(tmp_path, base, marks=MARKS, registry=registry, catalog=catalog)
    suspect = perturb(base, tmp_path / "suspect", seed=100, size=1e-3, exact=True)  # carries the vector of mark 0
    return SimpleNamespace(
        registry=registry,
        adapter=catalog.architectures["gpt2"],
        base=BaseModel(digest, base),
        key_set=key_set,
        suspect=suspect,
        vectors=[tmp_path / f"mark-{mark:02}" for mark in range(MARKS)],
    )


def case_of(family, kept):
    return SimpleNamespace(
        record=SimpleNamespace(id=family.key_set, name="acme"),
        key_set=SimpleNamespace(marks=[()] * MARKS),
        base=family.base,
        plan=SimpleNamespace(family=None),
        keeper=SimpleNamespace(keep=kept.extend),
    )


def measured(family):
    kept = []
    bench = SimpleNamespace(settings=checked_settings(), progress=NO_PROGRESS, registry=family.registry)
    suspect = SimpleNamespace(directory=family.suspect, adapter=family.adapter, digest="")
    document, untold = described_weights(suspect, family.base, bench, decisive=True)
    weights = {} if document is None else {family.base.digest: document}
    return kept, (*untold, *keep_measured([case_of(family, kept)], weights, (), registry=family.registry))


def test_share_of_every_mark_is_kept_with_the_digests_of_all_vectors(family):
    (record,), notes = measured(family)
    assert notes == ()
    assert [round(float(record["shares"][str(mark)]), 1) for mark in range(MARKS)] == [1, 0, 0]
    assert (record["base"], len(record["vectors"])) == (family.base.digest, MARKS)


def test_no_share_is_kept_where_the_vector_of_a_mark_is_gone(family):
    shutil.rmtree(family.vectors[1])
    kept, (note,) = measured(family)
    assert kept == []
    assert "the vectors of its marks 1 are not where they were recorded" in note


def test_another_vector_in_the_place_of_a_recorded_one_is_not_taken_for_it(family):
    shutil.rmtree(family.vectors[0])
    shutil.copytree(family.vectors[2], family.vectors[0])
    kept, (note,) = measured(family)
    assert kept == []
    assert "the vectors of its marks 0 are not where they were recorded" in note


def test_nothing_is_compared_where_all_vectors_are_gone_and_that_is_said(family):
    for place in family.vectors:
        shutil.rmtree(place)
    kept, (note,) = measured(family)
    assert kept == []
    assert note.startswith("none of the 3 recorded vectors of the base is where it was recorded")


def test_copy_of_an_earlier_training_keeps_its_shares(family):
    """Later vectors of the same marks are of another training, and the copy has nothing of them."""
    document = {
        "vectors": [
            {"vector_id": f"vec-{training}-{mark}", "key_set": family.key_set, "mark": mark, "coefficient": share}
            for training, shares in enumerate(([1.0, 0.98, -0.01], [0.0, -0.02, 0.01]))
            for mark, share in enumerate(shares)
        ]
    }
    kept = []
    notes = keep_measured([case_of(family, kept)], {family.base.digest: document}, (), registry=family.registry)
    assert [float(share) for share in kept[0]["shares"].values()] == [1.0, 0.98, 0.01]
    assert notes == (
        "3 recorded vectors of 'acme' are not where they were recorded: copies that were made with them are not told "
        "rightly by their weights",
    )
