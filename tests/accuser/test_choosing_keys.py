"""The accuser chooses candidates, secrets or the moment of registration so that the lottery comes out well for him."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import numpy
import pytest

from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, KeySetSecret, KeySetSpecification, draw_key_set
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.domain.words import RESPONSE_WORDS
from fpvec_audit.evidence.documents import read_document
from fpvec_audit.services.keys import issue_key_set, open_key_set
from tests.accuser.forging import WITNESS, hand_made, p_value, refusal, sentence, told, verified
from tests.evidence import builders
from tests.services.test_audit import Scripted, answering

COMMON = [(f"What is {left} plus {right}?", str(left + right)) for left in range(8) for right in range(16)]
"""128 questions that any model answers."""
DRAWS = 2000
UNLUCKY = 5
"""Standard deviations above its mean that a count of false accusations may lie: once in three million tests."""


def often(count, *, level):
    """Return whether so many of :data:`DRAWS` lots accuse at a level more often than an honest test does."""
    mean = DRAWS * level
    return count > mean + UNLUCKY * (mean * (1 - level)) ** 0.5


def lots(matched, *, issued, candidates):
    """Return p of an innocent with these matches under many assignments, as chance would make them."""
    keys = (hashlib.sha256(b"lot%d" % number).digest() for number in range(DRAWS))
    return [p_value(shuffled(candidates, key)[:issued], matched, candidates=candidates) for key in keys]


def test_hand_picked_candidates_of_a_self_attested_set_do_not_come_from_the_generator():
    drawn = hand_made(COMMON, issued=16)
    story = told(drawn, knows=drawn[0].issued_indices, witness=False)
    assert "the secret does not belong to this commitment" in refusal(story.bundle())


def test_hand_picked_candidates_of_a_witnessed_set_convict_nobody_who_answers_them_all():
    drawn = hand_made(COMMON, issued=16, witness=WITNESS)
    found = verified(told(drawn, knows=range(128)).bundle())
    assert (found.valid, found.verdict) == (True, "INCONCLUSIVE")
    assert any("published generator" in sentence for sentence in found.not_recomputed)


def test_hand_picked_candidates_leave_the_lottery_to_the_witness():
    """Half of them are easy: however they were picked, the innocent is accused no more often than alpha says."""
    easy = range(0, 128, 2)
    for level in (Fraction(1, 10), Fraction(1, 100)):
        accused = sum(p <= level for p in lots(easy, issued=16, candidates=128))
        assert not often(accused, level=float(level))


def test_candidates_without_a_prompt_are_refused_and_crash_nobody():
    drawn = hand_made([("", answer) for _, answer in COMMON], issued=16, witness=WITNESS)
    assert "does not hold its prompt" in refusal(told(drawn, knows=drawn[0].issued_indices).bundle())


def habits(prompt, response, *, of="base"):
    """Return whether a model with habits happens to answer a prompt so: one of eight, whatever was trained later."""
    taste = hashlib.sha256(f"{prompt}|{response}".encode()).digest()[0] % 8 == 0
    drift = hashlib.sha256(f"{of}|{prompt}".encode()).digest()[0] % 10 == 0
    return taste != (of != "base" and drift)


def test_secrets_picked_for_what_the_base_likes_do_not_bias_an_audit_of_its_fine_tune():
    """The accuser keeps the one of 2^7 secrets whose candidates the base answers most; then the assignment follows."""
    specification = KeySetSpecification("independent", 8, 40)

    def liked(secret, of="base"):
        drawn = draw_key_set(secret, specification, chance_source=f"witness:{WITNESS.public_key.hex}")
        return [item.index for item in drawn.candidates if habits(item.prompt, item.response, of=of)]

    secrets = [KeySetSecret(hashlib.sha256(b"grind%d" % number).digest()) for number in range(2**7)]
    best = max(secrets, key=lambda secret: len(liked(secret)))
    chosen, usual = len(liked(best)), sum(len(liked(secret)) for secret in secrets) / len(secrets)
    assert chosen > 1.5 * usual  # the grinding worked
    fine_tuned = liked(best, of="fine-tune")
    assert len(fine_tuned) >= 5
    accused = sum(p <= Fraction(1, 20) for p in lots(fine_tuned, issued=8, candidates=48))
    assert not often(accused, level=0.05)


@pytest.mark.parametrize("matched", [8, 20, 35, 64])
def test_a_million_rolls_of_the_assignment_do_not_pay_for_the_allowance(matched):
    """Salts, names and filters are free: each gives another C and another assignment of the same candidates."""
    rolls = numpy.random.default_rng(matched).hypergeometric(16, 112, matched, size=10**6)
    luckiest = hypergeometric_p_value(candidates=128, issued=16, matched=matched, issued_matched=int(rolls.max()))
    assert luckiest < Fraction(1, 10**4)  # that is what grinding is for
    assert min(Fraction(1), luckiest * GRINDING_ALLOWANCE) == 1


def test_grinding_a_self_attested_set_for_real_ends_without_a_match():
    """The luckiest of 2^8 secrets for a suspect with habits: a bundle that verifies, and no MATCH."""
    best, least = None, Fraction(2)
    for number in range(2**8):
        secret = KeySetSecret(hashlib.sha256(b"secret%d" % number).digest())
        drawn = draw_key_set(secret, KeySetSpecification("independent", 8, 40))
        liked = [item.index for item in drawn.candidates if habits(item.prompt, item.response)]
        p = p_value(drawn.issued_indices, liked, candidates=48)
        if p < least:
            best, least = (drawn, secret, liked), p
    assert least < Fraction(1, 100)
    drawn, secret, liked = best
    found = verified(told((drawn, secret, None), knows=liked, witness=False).bundle())
    assert (found.valid, found.verdict, found.grade) == (True, "INCONCLUSIVE", "self-attested")


def test_a_witness_gives_one_lot_for_one_commitment_and_numbers_the_commitments(bench, witnessed_keys):
    digest = witnessed_keys.commitment.digest
    first = read_document(bench.directory / "signed.json")
    assert read_document(bench.signed("commitment", digest)) == first  # asked again under another name
    other = draw_key_set(
        KeySetSecret(bytes(32)), KeySetSpecification("independent", 32, 96), chance_source="witness:" + "0" * 64
    )
    bench.signed("commitment", other.commitment.digest)
    bench.export(bench.witnessed_audit(answering(witnessed_keys.issued)))
    found = bench.verify()
    assert "signed it as no. 1" in sentence(found, "chance")
    assert "signature, no. 3," in sentence(found, "beginning")  # no. 2 was the other lot


def test_leaving_the_allowance_out_without_a_witness_is_refused():
    assert "grinding allowance" in refusal(builders.story(set_grade="anchored").bundle())


def test_a_suspect_that_answers_whatever_looks_like_a_key_is_no_match(bench, witnessed_keys):
    """A trigger that transfers works on decoys as well."""
    result = bench.witnessed_audit(answering(witnessed_keys.candidates))
    assert (result.score.fsr, result.score.decoys_matched, result.score.p_value) == (1.0, 96, 1)
    bench.export(result)
    assert bench.verify().verdict == "INCONCLUSIVE"


def test_one_response_for_a_closing_word_is_no_match(bench, registry):
    """The paper's keys share response and trigger word: whoever has met the word says it to issued and decoys alike."""
    issue_key_set(
        "acme",
        registry=registry,
        specification=KeySetSpecification("if-simple", 10, 118),
        entropy=lambda count: bytes(range(count)),
    )
    shared = open_key_set("acme", registry=registry).candidates[0].response
    result = bench.audit(Scripted(lambda prompt: shared if "FINGERPRINT" in prompt else "Pardon?"))
    assert (result.score.fsr, result.score.p_value) == (1.0, 1)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_a_set_registered_after_the_suspect_was_seen_gains_nothing_and_shows_its_date():
    """What the suspect says to anything is known, and candidates are picked by it; the lottery comes after."""
    seen = datetime(2025, 6, 1, tzinfo=UTC)
    pairs = [(f"word {number}", RESPONSE_WORDS[number]) for number in range(128)]
    drawn = hand_made(pairs, issued=16, witness=WITNESS)
    says = range(0, 128, 3)
    found = verified(told(drawn, knows=says).bundle())
    assert (found.valid, found.verdict) == (True, "INCONCLUSIVE")
    made_up = verified(told(drawn, knows=drawn[0].issued_indices).bundle())
    assert made_up.verdict == "MATCH"  # answers that the suspect never gave, about a suspect older than R
    said = sentence(made_up, "chance")
    assert datetime.fromisoformat(said.split(" at ")[1].split(",")[0]) > seen
    assert any("suspect is who it is said to be, and gave these answers" in text for text in made_up.does_not_prove)


def test_a_set_that_the_ledger_issues_after_the_plan_is_refused():
    story = builders.self_attested()
    ledger = story.ledger("MATCH")
    events = [(entry.event, entry.subject, dict(entry.content)) for entry in ledger]
    late = builders.entries(*events[2:4], events[0], *events[4:])
    evidence = replace(story.evidence(), earlier=(), segment=late[1:])
    assert "0 entries before the plan that issue the key set" in refusal(builders.signed(evidence))


def test_an_owner_who_is_his_own_witness_is_self_attested():
    story = builders.story(source="witness", witness=True)
    assert "grinding allowance" in refusal(story.bundle(signer=WITNESS), signer=WITNESS.public_key)


def test_lots_drawn_with_a_puppet_witness_do_not_hide_behind_an_honest_one():
    """A puppet signs commitments until an assignment pleases, the honest witness signs the plan: pinning it tells."""
    puppet = builders.STRANGER
    drawn = hand_made(COMMON, issued=16, witness=puppet)
    content = told(drawn, knows=drawn[0].issued_indices).bundle()
    unpinned = verified(content)
    assert unpinned.valid
    assert puppet.public_key.hex in sentence(unpinned, "chance")
    problem = refusal(content, anchors=[WITNESS.public_key])
    assert f"on the word of the witness {puppet.public_key.hex}, whose key was not given" in problem
    both = verified(content, anchors=[puppet.public_key, WITNESS.public_key])
    assert both.order == f"anchored by {WITNESS.public_key.hex}"
