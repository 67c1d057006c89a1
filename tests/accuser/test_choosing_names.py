"""An accuser who wants a certain licensee named for the marks of a family."""

from dataclasses import replace

import pytest

from fpvec_audit.domain.code_words import word_digest
from fpvec_audit.domain.family_terms import FamilyTerms, OpenedWord, holder_paths
from fpvec_audit.errors import EvidenceError
from tests.accuser.forging import refusal, verified
from tests.evidence import builders
from tests.evidence.families import NAMES, Family


@pytest.fixture(scope="module")
def family():
    return Family()


class Picked(Family):
    """A family in which the accuser gave licensee 5 the very word that the suspect shows, number 4's."""

    def _holder(self, number, name):
        holder = super()._holder(number, name)
        if number != 5:
            return holder
        digest = word_digest(self.key_set.commitment.digest, self.code.text, 5, self.book.word(4), self.book.salt(5))
        return replace(holder, commitment=digest)

    def opened(self, *numbers):
        paths = holder_paths(self.holders)
        return tuple(
            OpenedWord(
                number, NAMES[number], self.book.rank(4), self.book.word(4), self.book.salt(number), paths[number]
            )
            for number in numbers
        )


def test_an_innocent_whose_word_is_opened_is_refused(family):
    story = family.copy(4)
    more = replace(story, words=family.opened(4, 5), events=family.events(4, 5))
    with pytest.raises(EvidenceError, match=r"the rules name the licensees \[4\]"):
        more.evidence()
    ledger = more.ledger("MATCH")
    told = replace(story.evidence(), words=more.words, earlier=ledger[:5], segment=ledger[6:])
    assert "the rules name the licensees [4], and the words of [4, 5]" in refusal(builders.signed(told))


def test_a_lenient_c_in_a_plan_made_anew_contradicts_the_ledger(family):
    """c = 1 would name whoever shares two marks."""
    lenient = Family()
    lenient.terms = replace(family.terms, colluders=1)
    assert "the ledger records another colluders" in refusal(lenient.copy(4).bundle())


def test_a_word_issued_after_the_plan_names_nobody(family):
    story = family.copy(4)
    late = replace(story, events=family.events())
    assert "issues word 4" in refusal(late.bundle())
    before, after = story.ledger("MATCH")[:3], family.events(4)[1]
    told = [(entry.event, entry.subject, entry.content) for entry in (*before, *story.ledger("MATCH")[4:])]
    ledger = builders.entries(*told[:-1], after, told[-1])
    moved = replace(story.evidence(), earlier=ledger[:3], segment=ledger[4:])
    assert "issues word 4" in refusal(builders.signed(moved))


def test_a_word_picked_for_somebody_does_not_follow_from_a_secret_that_is_opened():
    picked = Picked(source="none")
    story = picked.story(picked.marks_of(4), named=[5], likely=range(9))
    with pytest.raises(EvidenceError, match=r"the rules name the licensees \[4\]"):
        story.evidence()


def test_a_word_picked_for_somebody_before_the_plan_is_not_detectable_and_the_bundle_says_so():
    picked = Picked()
    found = verified(picked.story(picked.marks_of(4), named=[5]).bundle())
    assert (found.valid, [item["licensee"] for item in found.named]) == (True, [NAMES[5]])
    assert any("that words were given in the order" in line for line in found.not_recomputed)
    assert any("receipts" in line for line in found.does_not_prove)


def test_a_copy_made_with_somebodys_word_is_not_detectable_and_the_bundle_says_so(family):
    found = verified(family.copy(4).bundle())
    assert found.valid
    assert any("can make a copy with anybody's" in line for line in found.does_not_prove)


def test_shares_made_up_from_the_start_are_not_detectable_and_names_say_what_they_rest_on(family):
    shares = {str(mark): "1.0" for mark in family.marks_of(4)}
    found = verified(family.story([], named=[4], shares=shares, likely=range(9)).bundle())
    assert (found.valid, found.named[0]["rests_on"]) == (True, "answers and measured weights")
    assert any("which the owner measured" in line for line in found.not_recomputed)


def test_a_licensee_left_out_of_an_accusation_is_seen_where_the_secret_is_opened():
    told = Family(source="none").copy(4, likely=range(9)).evidence()
    assert "the rules name the licensees [4]" in refusal(builders.signed(replace(told, words=())))


def test_terms_for_fewer_licensees_do_not_hold_the_word_of_the_others(family):
    """Fewer licensees would lower rule B's p; whoever is left out of the terms cannot be named by them."""
    fewer = Family()
    fewer.terms = FamilyTerms.of(family.code, family.holders[:4], families=1)
    assert "is not what the plan committed to" in refusal(fewer.copy(4).bundle())
