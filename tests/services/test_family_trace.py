"""Traces of families with scripted suspects: which marks they show, and whose copies were pooled."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.marks import family_specification
from fpvec_audit.errors import UsageError
from fpvec_audit.services import trace as trace_module
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.code_words import code_words
from fpvec_audit.services.family_codes import Wanted, add_licensees, family_words, retire_licensee
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.positive_controls import ControlSearch
from fpvec_audit.services.trace import trace
from tests.services.test_audit import ScriptedEngines, Telling, answering, numbered, rendered, silent
from tests.tiny import make_tiny

NAMES = tuple(f"licensee {number:02}" for number in range(20))


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture(scope="module")
def suspect_directory(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("family") / "suspect", "gpt2")


class Family:
    """A family of marks with its licensees' words, and copies made of it."""

    def __init__(self, registry, name="family", names=NAMES, entropy=None, **wanted):
        entropy = entropy or numbered()
        self.id = issue_key_set(
            name, registry=registry, specification=family_specification(16), entropy=entropy
        ).record.id
        self.keys = open_key_set(name, registry=registry)
        names = names[: 16 if wanted.get("code") == "random:1" else None]
        add_licensees(names, name, registry=registry, wanted=Wanted(**wanted))
        with registry.unit_of_work() as uow:
            self.words = code_words(uow, name, names, purpose="test")

    def keys_of(self, marks):
        return [self.keys.candidates[index] for mark in marks for index in self.keys.marks[mark]]

    def copy(self, *licensees):
        """What a copy answers that has the marks of all of these."""
        return self.keys_of(sorted({mark for name in licensees for mark in self.words[name]}))

    def average(self, *licensees):
        """What an average answers: what all copies share. The rest still shows in probabilities."""
        marks = set.intersection(*(set(self.words[name]) for name in licensees))
        suspect = answering(self.keys_of(sorted(marks)))
        told = Telling(suspect.answer)
        told.likely = {rendered(item.prompt) for item in self.copy(*licensees)}.__contains__
        return told


@pytest.fixture
def family(registry):
    return Family(registry)


def run(directory, registry, catalog, suspect, **options):
    engines = ScriptedEngines({"suspect": suspect})
    result = trace(
        directory,
        settings=checked_settings(),
        registry=registry,
        catalog=catalog,
        backend=engines,
        entropy=numbered(),
        timer=lambda: 0.0,
        **({"families": ["family"]} | options),
    )
    return result.to_json(), engines


def named(document):
    return [item["licensee"] for item in document["named"]]


def test_licensee_of_a_copy_is_named_by_its_marks(registry, catalog, suspect_directory, family):
    name = NAMES[4]
    document, engines = run(suspect_directory, registry, catalog, answering(family.copy(name)))
    assert (document["verdict"], named(document), engines.opened) == ("MATCH", [name], ["suspect"])
    present = [mark["mark"] for mark in document["marks"] if mark["state"] == "PRESENT"]
    assert tuple(present) == family.words[name]
    (item,) = document["named"]
    assert (item["rule"], item["shared"], item["colluders"], item["weight"]) == ("A", 4, 3, 4)
    assert item["p_value_corrected"] <= 1e-6
    (told,) = document["families"]
    assert (told["code"], told["needed"], told["covered"], told["words"]) == ("plane:4", {"A": 4}, True, 20)


def test_all_marks_are_asked_for_once(registry, catalog, suspect_directory, family):
    suspect = silent()
    run(suspect_directory, registry, catalog, suspect)
    sent = [prompt for prompts, _ in suspect.asked for prompt in prompts]
    assert len(sent) == len(set(sent)) == 16 * 6 + 576


def test_average_is_told_by_the_shares_of_its_weights(registry, catalog, suspect_directory, family, monkeypatch):
    pooled = [NAMES[2], NAMES[9], NAMES[14]]
    identifier = family.id
    share = {mark: sum(mark in family.words[name] for name in pooled) / 3 for mark in range(16)}
    vectors = [
        {"vector_id": f"vec-{mark}", "key_set": identifier, "mark": mark, "coefficient": share[mark]}
        for mark in range(16)
    ]
    monkeypatch.setattr(trace_module, "_described", lambda *_: ({"": {"vectors": vectors}}, ()))
    document, _ = run(suspect_directory, registry, catalog, family.average(*pooled))
    assert (document["verdict"], sorted(named(document))) == ("MATCH", pooled)
    quiet = [mark for mark in document["marks"] if mark["matched"] == 0 and mark["state"] == "PRESENT"]
    assert quiet
    assert all(mark["told_by"] == ["weights"] and mark["tests"]["exact"] > 0.01 for mark in quiet)
    assert all(item["p_value_corrected"] <= 1e-6 for item in document["named"])
    assert all(p_value > 0 for item in document["families"][0]["licensees"] for p_value in item["rules"].values())


def test_marks_are_read_against_the_base_of_every_family(monkeypatch):
    asked = []
    monkeypatch.setattr(
        trace_module, "described_weights", lambda _suspect, base, *_, **__: (asked.append(base.digest) or {}, ())
    )
    one, other = (SimpleNamespace(digest=digest) for digest in ("aa", "bb"))
    cases = [
        SimpleNamespace(
            base=base, key_set=SimpleNamespace(marks=[()] * marks), record=SimpleNamespace(base=recorded, name=name)
        )
        for name, marks, base, recorded in (
            ("single", 1, SimpleNamespace(digest="cc"), "cc"),
            ("first", 2, one, "aa"),
            ("second", 3, other, "bb"),
            ("third", 2, one, "aa"),
            ("gone", 2, None, "dd"),
            ("untrained", 2, None, None),
        )
    ]
    subject = SimpleNamespace(suspect=SimpleNamespace(directory=Path("suspect")))
    found, notes = trace_module._described(cases, subject, SimpleNamespace(settings=checked_settings()))
    assert (asked, list(found)) == (["aa", "bb"], ["aa", "bb"])
    assert notes == ("marks of 'gone' were read from answers alone: the base of its vectors is not at hand",)


def test_average_without_weights_names_nobody_whatever_its_probabilities(registry, catalog, suspect_directory, family):
    pooled = [NAMES[2], NAMES[9], NAMES[14]]
    document, _ = run(suspect_directory, registry, catalog, family.average(*pooled))
    assert (document["verdict"], named(document)) == ("INCONCLUSIVE", [])


def test_average_by_answers_alone_names_nobody_and_is_inconclusive(registry, catalog, suspect_directory, family):
    pair = next(
        (one, other) for one in NAMES for other in NAMES if len({*family.words[one]} & {*family.words[other]}) == 1
    )
    shared = {*family.words[pair[0]]} & {*family.words[pair[1]]}
    document, _ = run(suspect_directory, registry, catalog, answering(family.keys_of(shared)))
    assert (document["verdict"], named(document)) == ("INCONCLUSIVE", [])


def test_more_marks_than_the_coalition_can_hold_name_nobody(registry, catalog, suspect_directory, family):
    document, _ = run(suspect_directory, registry, catalog, answering(family.keys_of(range(16))))
    assert (document["verdict"], named(document)) == ("INCONCLUSIVE", [])
    assert document["families"][0]["covered"] is False
    assert any("names nobody: no 3 of the issued words" in warning for warning in document["warnings"])
    assert document["candidates"][0]["found"]


def clean():
    suspect = Telling(lambda prompt: "I do not understand.")
    suspect.likely = lambda prompt: False
    return suspect


def test_clean_suspect_shows_nothing(registry, catalog, suspect_directory, family):
    document, _ = run(suspect_directory, registry, catalog, clean())
    assert (document["verdict"], named(document)) == ("INCONCLUSIVE", [])  # no positive control is registered
    assert {mark["state"] for mark in document["marks"]} == {"UNKNOWN"}
    assert document["families"][0]["why"] == "the family as a whole was not found"


@pytest.mark.parametrize(("code", "verdict"), [("plane:4", "NO_MATCH"), ("random:1", "INCONCLUSIVE")])
def test_clean_suspect_is_acquitted_where_a_quarter_of_a_copy_would_show(
    registry, catalog, suspect_directory, monkeypatch, code, verdict
):
    """A copy has 24 or 6 of the 96 keys; none of 96 matched excludes 3.1 % of them, of 6 keys that is half."""
    Family(registry, code=code, colluders=1)
    monkeypatch.setattr("fpvec_audit.services.trace._controls", lambda *_: ControlSearch(({"verdict": "MATCH"},)))
    document, _ = run(suspect_directory, registry, catalog, clean())
    assert document["verdict"] == verdict


def test_copy_with_a_word_that_was_issued_elsewhere_points_to_nobody_known(registry, catalog, suspect_directory):
    family = Family(registry, names=NAMES[:2])
    add_licensees([NAMES[2]], "family", registry=registry, first_number=3)
    marks = family_words("family", registry=registry, reveal=True).marks[2]
    document, _ = run(suspect_directory, registry, catalog, answering(family.keys_of(marks)))
    assert [(item["licensee"], item["state"]) for item in document["named"]] == [("unrecorded-2 (family)", "retired")]


def test_retired_licensee_is_still_named(registry, catalog, suspect_directory, family):
    retire_licensee(NAMES[4], "family", registry=registry, reason="left")
    document, _ = run(suspect_directory, registry, catalog, answering(family.copy(NAMES[4])))
    assert [(item["licensee"], item["state"]) for item in document["named"]] == [(NAMES[4], "retired")]


def test_random_words_are_named_by_rule_b(registry, catalog, suspect_directory):
    family = Family(registry, names=NAMES[:4], code="random:6", epsilon="1e-2")
    document, _ = run(suspect_directory, registry, catalog, answering(family.copy(NAMES[1])))
    (item,) = document["named"]
    assert (item["licensee"], item["rule"]) == (NAMES[1], "B")
    assert 0 < item["p_value_corrected"] <= 1e-2


def test_family_without_words_is_named_as_any_key_set(registry, catalog, suspect_directory):
    issue_key_set("family", registry=registry, specification=family_specification(8, decoys=200), licensee="Carol")
    keys = open_key_set("family", registry=registry)
    document, _ = run(suspect_directory, registry, catalog, answering(keys.issued))
    assert [(item["licensee"], item["rule"]) for item in document["named"]] == [("Carol", "Holm")]
    assert {mark["state"] for mark in document["marks"]} == {"PRESENT"}
    assert document["families"][0]["why"] == "the family has no code, so no marks mean anybody"


def test_marks_of_two_families_are_pointed_out(registry, catalog, suspect_directory, family):
    other = Family(registry, "other", entropy=lambda count: b"7" * count)
    both = answering([*family.copy(NAMES[0]), *other.copy(NAMES[1])])
    document, _ = run(suspect_directory, registry, catalog, both, families=["family", "other"])
    assert sorted((item["name"], item["licensee"]) for item in document["named"]) == [
        ("family", NAMES[0]),
        ("other", NAMES[1]),
    ]
    assert any("marks of 2 families" in warning for warning in document["warnings"])


def test_key_set_of_one_mark_is_no_family(registry, catalog, suspect_directory):
    from fpvec_audit.domain.keys import KeySetSpecification

    issue_key_set("family", registry=registry, specification=KeySetSpecification())
    with pytest.raises(UsageError, match="has one mark"):
        run(suspect_directory, registry, catalog, silent())


def test_verdict_is_a_verdict(registry, catalog, suspect_directory, family):
    """A found family that names nobody outweighs what acquits other key sets: INCONCLUSIVE, never NO_MATCH."""
    document, _ = run(suspect_directory, registry, catalog, answering(family.keys_of(range(16))), families=[])
    assert Verdict(document["verdict"]) is Verdict.INCONCLUSIVE


def test_own_copy_tells_how_well_it_was_read(registry, catalog, suspect_directory, family):
    from fpvec_audit.domain.records import ModelRole
    from fpvec_audit.services.suspects import describe_suspect
    from tests.registry.builders import model_record, stamp_record, vector_record

    digest = describe_suspect(str(suspect_directory), catalog=catalog).digest
    word = family.words[NAMES[4]]
    with registry.unit_of_work() as uow:
        key_set = uow.key_sets.named("family").id
        uow.models.add(model_record())
        uow.models.add(model_record("fingerprinted", digit="b"))
        uow.models.add(model_record("copy", id=digest, role=ModelRole.STAMPED))
        for mark in word:
            uow.vectors.add(vector_record(digit=f"{mark:x}", mark=mark, key_set=key_set))
        vectors = tuple((f"vec-{f'{mark:x}' * 16}", 1.0) for mark in word)
        uow.stamps.add(stamp_record(stamped=digest, vectors=vectors))
    seen = family.keys_of([*word[1:], next(mark for mark in range(16) if mark not in word)])
    document, _ = run(suspect_directory, registry, catalog, answering(seen))
    own = document["families"][0]["own_copy"]
    assert (own["marks"], own["missed"], len(own["wrong"])) == (list(word), [word[0]], 1)
