"""Licensees get words of a family's code: each its own, once, and out of the vault alone."""

import pytest

from fpvec_audit.domain.code_records import WordState
from fpvec_audit.domain.marks import family_specification
from fpvec_audit.errors import KeySetError, RegistryError, UnknownNameError, UsageError
from fpvec_audit.registry.verification import verify_snapshot
from fpvec_audit.services.code_words import code_word, code_words
from fpvec_audit.services.family_codes import (
    Wanted,
    add_licensees,
    family_code,
    family_words,
    retire_licensee,
)
from fpvec_audit.services.key_life import retire_key_set
from fpvec_audit.services.keys import issue_key_set, show_key_set
from tests.registry.builders import model_record, vector_record
from tests.registry.tampering import tamper

NAMES = tuple(f"licensee {number}" for number in range(20))


@pytest.fixture
def family(registry):
    return issue_key_set("family", registry=registry, specification=family_specification(16)).record


def ledger(registry):
    with registry.snapshot() as uow:
        return [(entry.event, entry.content) for entry in uow.ledger.entries()]


def words_of(registry, names=NAMES):
    with registry.unit_of_work() as uow:
        return code_words(uow, "family", names, purpose="test")


def test_every_licensee_has_a_word_of_its_own(registry, family):
    first = add_licensees(NAMES[:7], "family", registry=registry)
    later = add_licensees(NAMES[7:], family.id, registry=registry)
    assert [word.number for word in (*first.words, *later.words)] == list(range(20))
    assert (later.summary.code.text, later.summary.colluders, later.summary.issued) == ("plane:4", 3, 20)
    words = words_of(registry)
    assert len(set(words.values())) == 20
    assert list(words) == list(NAMES)
    with registry.unit_of_work() as uow:
        assert code_word(uow, "family", NAMES[3], purpose="test") == words[NAMES[3]]
    with pytest.raises(UsageError, match=r"1 more licensee is too many: 20 of the 20 words .* 21 take"):
        add_licensees(["one more"], "family", registry=registry)


def test_words_stand_nowhere_in_the_registry(registry, family):
    add_licensees(NAMES, "family", registry=registry)
    words = words_of(registry)
    document = str(family_words("family", registry=registry).to_json()) + str(ledger(registry))
    assert not any(str(list(word)) in document for word in words.values())
    revealed = family_words("family", registry=registry, reveal=True, reason="case 7").to_json()
    assert {item["licensee"]: tuple(item["marks"]) for item in revealed["words"]} == words
    told = [content["purpose"] for event, content in ledger(registry) if event == "secret.revealed"]
    assert told == ["code of the family", "test", "words shown to their owner: case 7"]


def test_retired_word_never_comes_back(registry, family):
    add_licensees(["Globex", "Initech"], "family", registry=registry)
    before = words_of(registry, ["Globex"])["Globex"]
    (word,) = retire_licensee("Globex", "family", registry=registry, reason="contract ended").words
    assert (word.number, word.state) == (0, WordState.RETIRED)
    with pytest.raises(KeySetError, match="the word of 'Globex' in the family 'family' is retired"):
        words_of(registry, ["Globex"])
    with pytest.raises(KeySetError, match="retired already"):
        retire_licensee("Globex", "family", registry=registry, reason="again")
    assert add_licensees(["Globex"], "family", registry=registry).words[0].number == 2
    assert words_of(registry, ["Globex"])["Globex"] != before
    summary = family_code("family", registry=registry)
    assert (summary.issued, summary.retired, summary.to_json()["left"]) == (2, 1, 17)
    with registry.snapshot() as uow:
        assert verify_snapshot(uow).problems == ()


@pytest.mark.parametrize(
    ("names", "wanted", "problem"),
    [
        (["Globex", "Initech", "Globex"], Wanted(), "'Globex' is named 2 times"),
        ([""], Wanted(), "the name of a licensee is empty"),
        (["x"], Wanted(licensees=1000, colluders=2), "16 marks cannot tell 1000 licensees apart when 2 of them"),
        (["x"], Wanted(code="plane:5"), "needs 25 marks, the family has 16"),
        (["x"], Wanted(code="plane:4", licensees=21), "plane:4 has 20 words"),
        (["x"], Wanted(code="plane:4", colluders=4), "bears coalitions of 3"),
        (["x"], Wanted(code="random:6", epsilon="2"), "--epsilon 2 is no decimal number between 0 and 1"),
        (["x"], Wanted(licensees=0, colluders=0), "cannot be meant"),
        (["x"], Wanted(code="plane:4", colluders=0), "--colluders 0 is no coalition"),
        (["x"], Wanted(code="random:4", colluders=-1), "--colluders -1 is no coalition"),
        (["x"], Wanted(code="random:4", licensees=500), "among 500 licensees somebody innocent .* 500 licensees take"),
        (["x", "y"], Wanted(code="random:4"), "among 16 licensees somebody innocent"),
        (["x"], Wanted(code="random:6", epsilon="1/1000"), "--epsilon 1/1000 is no decimal number between 0 and 1"),
        (["x"], Wanted(code="random:6", epsilon="1e-3000"), "--epsilon 1e-3000 is no decimal number between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_recorded(registry, family, names, wanted, problem):
    before = len(ledger(registry))
    with pytest.raises(UsageError, match=problem):
        add_licensees(names, "family", registry=registry, wanted=wanted)
    assert [event for event, _ in ledger(registry)[before:]] == []


def test_code_is_chosen_once(registry, family):
    add_licensees(["Globex"], "family", registry=registry, wanted=Wanted(code="random:6", epsilon="1e-2"))
    summary = family_code("family", registry=registry)
    assert (summary.rules, summary.code.text, summary.epsilon) == (("B",), "random:6/16", "1e-2")
    add_licensees(["Hooli"], "family", registry=registry, wanted=Wanted(code="random:6", epsilon="0.01"))
    with pytest.raises(UsageError, match="has the code random:6/16 since"):
        add_licensees(["Initech"], "family", registry=registry, wanted=Wanted(epsilon="1e-3"))
    with pytest.raises(UsageError, match="has the code random:6/16 since"):
        add_licensees(["Initech"], "family", registry=registry, wanted=Wanted(code="plane:4"))


def test_licensees_beyond_what_chance_bears_are_refused(registry, family):
    wanted = Wanted(code="random:6", epsilon="1e-2", licensees=70)
    add_licensees(NAMES, "family", registry=registry, wanted=wanted)
    add_licensees([f"later {number}" for number in range(50)], "family", registry=registry)
    with pytest.raises(UsageError, match="among 90 licensees somebody innocent has all marks"):
        add_licensees([f"last {number}" for number in range(20)], "family", registry=registry)


def test_code_that_is_proposed_serves_all_who_get_a_word_at_once(registry, family):
    added = add_licensees([f"licensee {number}" for number in range(25)], "family", registry=registry)
    assert (added.summary.code.words >= 25, len(added.words)) == (True, 25)


def test_bound_of_a_proposal_is_that_of_the_licensees_it_is_for(registry, family):
    one, many = (
        family_code("family", registry=registry, wanted=Wanted(code="random:7", licensees=count)).to_json()["bound"]
        for count in (1, 10)
    )
    assert many["1"] == pytest.approx(10 * one["1"], rel=0.01)


def test_licensee_with_two_words_is_told_of(registry, family):
    add_licensees(["Globex", "Initech"], "family", registry=registry)
    retire_licensee("Globex", "family", registry=registry, reason="lost")
    again = add_licensees(["Globex", "Hooli"], "family", registry=registry)
    (told,) = again.to_json()["warnings"]
    assert told.startswith("Globex was given 2 words")
    assert "2 of the 3 different words" in told


def test_family_is_named_by_key_set_or_training(registry, family):
    with registry.unit_of_work() as uow:
        uow.models.add(model_record())
        uow.models.add(model_record("fingerprinted", digit="b"))
        uow.vectors.add(vector_record(key_set=family.id, family="fam-" + "0a" * 8))
    assert family_code("fam-0a0a", registry=registry).key_set.id == family.id
    with pytest.raises(UnknownNameError, match="vector family"):
        family_code("fam-ffff", registry=registry)


def test_plain_key_set_has_no_words(registry, family):
    issue_key_set("plain", registry=registry, specification=family_specification(2).__class__())
    with pytest.raises(UsageError, match="'plain' has one mark"):
        add_licensees(["Globex"], "plain", registry=registry)
    with pytest.raises(UsageError, match="has no code yet"):
        family_words("family", registry=registry)
    with pytest.raises(UsageError, match="has no code yet"):
        words_of(registry, ["Globex"])


def test_unknown_licensee_suggests_who_has_a_word(registry, family):
    add_licensees(["Globex"], "family", registry=registry)
    with pytest.raises(UnknownNameError, match="unknown licensee with a word") as refused:
        words_of(registry, ["Globx"])
    assert "Globex" in refused.value.advice


def test_retired_key_set_issues_no_words(registry, family):
    retire_key_set("family", registry=registry, reason="old")
    with pytest.raises(KeySetError, match="is retired since"):
        add_licensees(["Globex"], "family", registry=registry)


def test_swapped_word_is_noticed_when_it_is_used(registry, family):
    add_licensees(["Globex", "Initech"], "family", registry=registry)
    tamper(registry, "UPDATE code_word SET number = 7 WHERE number = 1")
    with pytest.raises(RegistryError, match="the word of 'Initech' is not the one that was recorded"):
        words_of(registry, ["Initech"])
    tamper(registry, "UPDATE code SET binding = 'ff'")
    with pytest.raises(RegistryError, match="not those that were bound"):
        words_of(registry, ["Globex"])


def test_code_whose_copies_cannot_reach_a_match_says_so(registry, family):
    light = family_code("family", registry=registry, wanted=Wanted(code="random:2", colluders=1))
    assert (light.keys_of_a_copy, light.keys_needed) == (12, 21)
    assert "its answers alone can never name anybody" in light.warnings[0]
    assert family_code("family", registry=registry).warnings == ()


def test_key_set_tells_its_marks(registry, family):
    shown = show_key_set("family", registry=registry).to_json()
    assert (shown["marks"], shown["keys_per_mark"], shown["issued"], shown["decoys"]) == (16, 6, 96, 576)


def digits_of(identifier):
    return identifier.removeprefix("li-")


def identifier_of(registry, name):
    with registry.unit_of_work() as uow:
        return uow.licensees.ensure(name)


def test_licensees_are_named_by_name_or_whole_id_alone(registry, family):
    add_licensees(["Globex", "Initech"], "family", registry=registry)
    whole = identifier_of(registry, "Globex")
    assert list(words_of(registry, [whole])) == ["Globex"]
    digits = digits_of(whole)
    for shortened in (digits[:4], whole[:7], whole[:-1], digits):  # a customer's number looks no different
        with pytest.raises(UnknownNameError, match=f"unknown licensee with a word of this family '{shortened}'"):
            words_of(registry, [shortened])
        with pytest.raises(UnknownNameError, match=shortened):
            retire_licensee(shortened, "family", registry=registry, reason="typed wrongly")
    (word,) = retire_licensee(whole, "family", registry=registry, reason="contract ended").words
    assert word.licensee == "Globex"


def test_licensee_is_not_named_like_an_id(registry, family):
    add_licensees(["Globex"], "family", registry=registry)
    before = ledger(registry)
    whole = identifier_of(registry, "Globex")
    with pytest.raises(UsageError, match=f"named '{whole}', the id of 'Globex'") as refused:
        add_licensees([whole], "family", registry=registry)
    assert "write 'Globex'" in refused.value.advice
    for name in ("li-" + 16 * "0", f" {whole[:8]} "):
        with pytest.raises(UsageError, match=f"named '{name.strip()}', which has the form of an id"):
            add_licensees([name], "family", registry=registry)
        with pytest.raises(UsageError, match="has the form of an id"):
            issue_key_set("other", registry=registry, licensee=name, specification=family_specification(16))
    assert ledger(registry) == before
    added = add_licensees(["1234", "LI-1234", "li-tech", digits_of(whole)], "family", registry=registry).words
    assert [word.number for word in added] == [1, 2, 3, 4]


def test_stamps_refuse_a_licensee_named_like_an_id_before_anything_is_written(registry, tmp_path):
    from fpvec_audit.services.stamp_vectors import named_vectors

    with pytest.raises(UsageError, match="has the form of an id"):
        named_vectors([str(tmp_path / "not looked at")], ["li-1234"], registry=registry)
