"""The story of licensees on models that know nothing: every stage happens, and nobody innocent is named."""

from dataclasses import replace
from functools import partial
from io import StringIO

import pytest
from rich.console import Console

from fpvec_audit.catalog import load_catalog
from fpvec_audit.cli import demo_licensee_pages
from fpvec_audit.demo import licensees
from fpvec_audit.demo.copies import INNOCENT, LEAKED, POOLED, TUNED
from fpvec_audit.demo.corpus import own_questions
from fpvec_audit.demo.family import Family, family_recipe
from fpvec_audit.demo.licensees import LicenseeStory
from fpvec_audit.demo.story import DemoOptions
from fpvec_audit.domain.audit_plan import EXACT
from fpvec_audit.domain.family import FamilyReport, MarkStanding, WeightCost
from fpvec_audit.errors import TrainingError, UsageError
from fpvec_audit.services.audit_settings import AuditSettings
from fpvec_audit.services.code_words import code_words
from fpvec_audit.training.family_measurement import FamilyMeasurement
from fpvec_audit.training.ordinary import MATHS_KINDS
from tests.tiny import make_tiny, perturb

HURRIED = {"steps": "24", "warmup_steps": "0", "most_active": "3", "perturbation": "none", "negative_pool": "4",
           "ordinary_per_step": "2", "documents_per_step": "0", "keys_per_step": "4", "other_renderings_per_step": "0",
           "absent_per_step": "2", "negatives_per_step": "2", "steps_per_turn": "1"}  # fmt: skip


def measured(short=()):
    """Stands for a measurement: all marks answer all their keys but some."""
    standings = tuple(MarkStanding(mark, 6, 1.0, 0.0 if mark in short else 1.0, 1.0) for mark in range(3))
    return lambda *_: FamilyReport("joint", 2, 0.8, standings, (WeightCost(2, 1, 0.01, 0.02, 1.01, 1.02, 1.0),))


@pytest.fixture
def hurried(monkeypatch, tmp_path):
    """Let models be random and hardly trained, and trainings come out as a test says."""
    base = make_tiny(tmp_path / "base", "gpt2")
    downstreams = [perturb(base, tmp_path / name, seed=seed) for seed, name in enumerate(("maths", "text"), start=1)]
    questions = own_questions(MATHS_KINDS, 4)
    family = Family("gpt2", base, *downstreams, questions, questions, ("A few words.", "And some more."), "")
    monkeypatch.setattr(licensees, "make_family", lambda *_, **__: family)
    monkeypatch.setattr(licensees, "family_recipe", lambda _: replace(family_recipe("gpt2"), downstream_steps=1))
    monkeypatch.setattr(licensees, "FingerprintOptions", partial(licensees.FingerprintOptions, overrides=HURRIED))
    monkeypatch.setattr(licensees, "COLLUDERS", 1)  # three marks are enough then
    exact = {"answers": licensees.SETTINGS["answers"], "weights": AuditSettings(tests=(EXACT,))}
    monkeypatch.setattr(licensees, "SETTINGS", exact)  # likelihoods of models that know nothing take long to rank
    monkeypatch.setattr(FamilyMeasurement, "report", measured())
    return monkeypatch


def story(registry, home, count, told=None):
    return LicenseeStory(
        DemoOptions("gpt2", home / "models", backend="transformers"), count, registry=registry, catalog=load_catalog(),
        tell=lambda stage, document: None if told is None else told.append((stage, document)),
    )  # fmt: skip


def test_story_is_told_shown_and_gone_on_with(registry, home, hurried):
    told = []
    hurried.setattr(FamilyMeasurement, "report", measured(short=(1,)))
    hurried.setattr(licensees, "MOST_TRAININGS", 1)
    with pytest.raises(TrainingError, match="mark 1 of licensees-gpt2-1 did not learn"):
        story(registry, home, 3).run()
    hurried.setattr(FamilyMeasurement, "report", measured())
    hurried.setattr(licensees, "MOST_TRAININGS", 2)
    document = story(registry, home, 3, told).run()
    assert (document["key_set"], document["marks"][-7:]) == ("licensees-gpt2-1", "marks-2")
    assert [stage for stage, _ in told] == list(demo_licensee_pages.RENDER)
    assert (document["code"]["code"], document["code"]["issued"]) == ("random:2/3", 3)
    assert [(trace["suspect"], trace["told_by"]) for trace in document["traces"]] == [
        *((name, way) for name in (LEAKED, TUNED, POOLED) for way in ("answers", "weights")),
        (INNOCENT, "weights"),
    ]
    assert not any(trace["innocent_named"] for trace in document["traces"])
    assert not any(trace["trace"]["carriers"] for trace in document["traces"] if trace["told_by"] == "answers")
    with registry.unit_of_work() as uow:
        words = code_words(uow, document["key_set"], list(document["copies"]), purpose="test")
    (leaked,) = [trace for trace in document["traces"] if (trace["suspect"], trace["told_by"]) == (LEAKED, "weights")]
    shares = {mark["mark"]: mark["coefficient"] for mark in leaked["trace"]["marks"]}
    assert {mark for mark, share in shares.items() if share > 0.5} == {*words[leaked["made_by"][0]]}
    shown = StringIO()
    console = Console(file=shown, width=160)
    for stage, part in told:
        demo_licensee_pages.RENDER[stage](part, console)
    demo_licensee_pages.render_ending(document, console, home=home)
    assert "fpvec trace" in shown.getvalue()
    assert "6 stamped models" in shown.getvalue()


@pytest.mark.parametrize(("count", "words"), [(1, "2 of them pool"), (26, "take 25 marks")])
def test_numbers_that_a_demo_cannot_serve_are_refused(registry, home, count, words):
    with pytest.raises(UsageError, match=words):
        story(registry, home, count).run()
