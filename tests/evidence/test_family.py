"""Bundles about copies of a family: who is named, on what it rests, and that no edit of it verifies."""

import copy
import json
from dataclasses import replace
from functools import cache

import pytest

from fpvec_audit.domain.code_words import WordBook
from fpvec_audit.domain.family_terms import FamilyTerms, holder_leaf
from fpvec_audit.domain.secret import KeySetSecret
from fpvec_audit.evidence.bundle import Evidence
from fpvec_audit.evidence.strict_json import Value
from fpvec_audit.evidence.verify import verify_evidence
from tests.evidence import builders
from tests.evidence.builders import OWNER, WITNESS
from tests.evidence.families import MARKS, NAMES, Family, carriers, with_word
from tests.evidence.test_mutations import resigned


@cache
def family(source="witness"):
    return Family(source=source)


@cache
def evidence(kind="copy"):
    told = family("none") if kind == "secret" else family()
    pair = pooled(told)
    return {
        "copy": lambda: told.copy(),
        "secret": lambda: told.copy(likely=range(MARKS)),
        "average": lambda: told.average(*pair),
        "nobody": lambda: told.story(range(MARKS), named=[]),
        "innocent": lambda: told.story([], named=[]),
        "carriers": lambda: told.copy(carriers=carriers({NAMES[4]: "20.5"})),
    }[kind]().evidence()


def pooled(told):
    """Return two licensees whose words share no mark, so that their average answers nothing."""
    return next(
        (one, other)
        for one in range(12)
        for other in range(one)
        if not set(told.book.word(one)) & set(told.book.word(other))
    )


def verified(changed, **options):
    content = builders.signed(changed) if isinstance(changed, Evidence) else changed
    return verify_evidence(content, **({"signer": OWNER.public_key} | options))


def refusal(changed):
    found = verified(changed)
    assert not found.valid
    assert (found.verdict, found.accusation, found.named) == ("", "", ())
    return "\n".join(found.problems)


def test_copy_is_named_and_only_its_word_is_opened():
    found = verified(evidence())
    assert (found.valid, found.verdict, found.problems) == (True, "MATCH", ())
    (item,) = found.named
    assert (item["licensee"], item["rests_on"], item["needed"]) == (NAMES[4], "answers", {"A": 3})
    assert found.accusation.startswith(f"NAMED (copies of {NAMES[4]} (word 4) went into the suspect): by rule A")
    assert "copies with at most 2 different words were pooled" in found.accusation
    text = json.dumps(evidence().to_json())
    assert not any(name in text for name in NAMES if name != NAMES[4])
    assert any("cannot" in line or "knows all words" in line for line in found.does_not_prove)


def test_bundle_reads_back_as_it_was_written():
    for kind in ("copy", "average", "nobody", "carriers"):
        told = evidence(kind)
        assert Evidence.from_json(Value(json.loads(json.dumps(told.to_json())), "payload")) == told
    terms = family().terms
    assert FamilyTerms.from_json(terms.to_json()) == terms


def test_anchored_bundle_of_a_family_verifies_with_the_witness_key():
    assert verified(evidence(), anchors=[WITNESS.public_key]).order.startswith("anchored by")


def test_secret_of_a_self_attested_family_gives_all_words_again():
    found = verified(evidence("secret"))
    assert (found.valid, found.verdict, found.grade) == (True, "MATCH", "self-attested")
    (check,) = [check for check in found.checks if check.name == "licensees"]
    assert "the secret gives 12, without names" in check.sentence


def test_secret_of_a_self_attested_family_lets_the_neighbour_of_who_is_named_be_guessed():
    """What docs/evidence.md says of names: the salts follow from the secret, so no digest hides a name any more."""
    told = evidence("secret")
    (word,), terms = told.words, told.plan.family
    book = WordBook(terms.parsed(told.commitment.marks), KeySetSecret(told.disclosure.secret), told.commitment.digest)
    guessed = [name for name in NAMES if holder_leaf(5, name, book.commitment(5)) == word.path[0]]
    assert (word.number, guessed) == (4, [NAMES[5]])


def test_names_that_rest_on_measured_weights_say_so():
    found = verified(evidence("average"))
    assert (found.valid, found.verdict) == (True, "MATCH")
    assert {item["rests_on"] for item in found.named} == {"answers and measured weights"}
    assert any("which the owner measured" in line and "f" * 64 not in line for line in found.not_recomputed)


@pytest.mark.parametrize(("kind", "why"), [("nobody", "point to no licensee"), ("innocent", "was not found")])
def test_bundle_that_names_nobody_cannot_be_taken_for_an_accusation(kind, why):
    found = verified(evidence(kind))
    assert (found.valid, found.named) == (True, ())
    assert found.verdict != "MATCH"
    assert found.accusation.startswith(f"NOBODY IS NAMED ({found.verdict})")
    assert why in found.accusation
    assert "evidence against none of the 12 licensees" in found.accusation


def test_carriers_stand_as_measurements_and_name_nobody_by_themselves():
    told = evidence("carriers").result["family"]["carriers"]
    assert told["named"] == [{"licensee": NAMES[4], "z": "20.5", "present": True, "p_below": "1e-78"}]
    assert any("no verdict here rests on carriers" in line for line in verified(evidence("carriers")).not_recomputed)
    story = family().story([], named=[], carriers=carriers({NAMES[4]: "20.5"}))
    assert verified(story.evidence()).named == ()


def test_swapped_word_is_refused():
    told, other = evidence(), family().opened(5)[0]
    for changes in (
        {"marks": other.marks},
        {"rank": other.rank, "marks": other.marks},
        {"number": 5, "rank": other.rank, "marks": other.marks, "salt": other.salt},
        {"salt": bytes(32)},
        {"path": told.words[0].path[:-1]},
    ):
        assert "licensees: word" in refusal(with_word(told, **changes))


def test_another_licensee_is_refused():
    assert "is not what the plan committed to" in refusal(with_word(evidence(), licensee="Mallory"))


def edited(kind, *path, value):
    document = copy.deepcopy(evidence(kind).to_json())
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    assert holder[path[-1]] != value
    holder[path[-1]] = value
    return resigned(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("result", "family", "marks", 0, "state"), "FLIPPED"),
        (("result", "family", "named"), []),
        (("result", "family", "named", 0, "licensee"), NAMES[5]),
        (("result", "family", "named", 0, "rests_on"), "measured weights"),
        (("result", "family", "accusation"), "Everybody did it."),
        (("result", "family", "colluders"), 1),
        (("result", "alpha"), "1/10"),
        (("result", "verdict"), "INCONCLUSIVE"),
        (("plan", "alpha"), "1e-5"),
        (("plan", "family", "colluders"), 1),
        (("plan", "family", "epsilon"), "1e-2"),
        (("plan", "family", "licensees"), 11),
        (("plan", "family", "code"), "random:3/9"),
        (("plan", "family", "root"), "0" * 64),
        (("plan", "family", "families"), 2),
        (("does_not_prove"), []),
        (("not_recomputed"), []),
    ],
)
def test_edit_that_the_owner_signs_again_is_refused(path, value):
    path = (path,) if isinstance(path, str) else path
    found = verify_evidence(edited("copy", *path, value=value), signer=OWNER.public_key)
    assert (found.valid, found.named) == (False, ())


@pytest.mark.parametrize(
    ("leave_out", "problem"),
    [("code.chosen", "chooses the family's code"), ("code_word.issued", "issues word 4")],
)
def test_word_or_code_that_the_ledger_does_not_know_before_the_plan_is_refused(leave_out, problem):
    story = family().copy()
    less = replace(story, events=tuple(event for event in story.events if event[0] != leave_out))
    assert problem in refusal(less.evidence())


def test_word_that_was_issued_to_somebody_else_is_refused():
    story = family().copy()
    events = tuple((name, subject, content | {"licensee": "Mallory"}) for name, subject, content in story.events)
    assert "records another licensee" in refusal(replace(story, events=events).evidence())


def test_share_that_is_raised_breaks_the_chain_and_carrier_below_the_bound_is_refused():
    document = copy.deepcopy(evidence("average").to_json())
    record = next(item for item in document["records"] if item["content"]["kind"] == "shares")
    record["content"]["shares"]["0"] = "0.9"
    assert "does not continue the chain" in "\n".join(
        verify_evidence(resigned(document), signer=OWNER.public_key).problems
    )
    with pytest.raises(Exception, match="not those whose z is large enough"):
        family().copy(carriers=carriers({NAMES[4]: "4.5"})).evidence()
    uncommitted = replace(family().copy(carriers=carriers({NAMES[4]: "20.5"})), events=family().events(4))
    assert "does not commit once" in refusal(uncommitted.evidence())


def test_plain_bundle_says_nothing_of_families():
    found = verified(builders.anchored().evidence())
    assert (found.valid, found.accusation, found.named) == (True, "", ())
    assert "words" not in builders.anchored().evidence().to_json()
