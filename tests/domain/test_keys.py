import copy
import hashlib
import hmac
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.chance import shuffled
from fpvec_audit.domain.keys import (
    PROFILES,
    Commitment,
    KeySetSecret,
    KeySetSpecification,
    assign,
    draw_key_set,
    draw_unissued,
    leaf_digest,
    open_candidate,
    restore_key_set,
    verify_opening,
)
from fpvec_audit.domain.merkle import merkle_root
from fpvec_audit.domain.words import CLASSICAL_ALPHABET, JAPANESE_WORDS, KEY_ALPHABET, RESPONSE_WORDS
from fpvec_audit.errors import KeySetError, UsageError

MATERIAL = bytes(range(32))
SMALL = KeySetSpecification(issued=4, decoys=9)


def secret(first=0):
    return KeySetSecret(bytes([first]) + MATERIAL[1:])


def drawn(specification=SMALL, **options):
    return draw_key_set(secret(), specification, **options)


# Generator version 1 may never change: these digests were recorded when it was first published.
@pytest.mark.parametrize(
    ("specification", "commitment", "first_of_mark"),
    [
        (
            KeySetSpecification(),
            "f715d9abb45ffdc91c91ae8fe378cb73a1776cdefcf89a3c4997170156cc8105",
            (142, 141, 148, 161),
        ),
        (
            KeySetSpecification("if-simple", 10, 224),
            "fe4a34dbb2d0d732ea541fb6a71b5054ece3a24d234d7acb806d5e64e6d1f27d",
            (113, 165, 47, 38),
        ),
        (
            KeySetSpecification("independent", 6, 1100, 3),
            "92bddc1296c30eef12cc15fc57cd135640287669c4d72673de22681f0ca54769",
            (951, 534),
        ),
    ],
)
def test_generator_version_1_stays_as_it_is(specification, commitment, first_of_mark):
    key_set = draw_key_set(KeySetSecret(MATERIAL), specification)
    assert key_set.commitment.digest == commitment
    assert key_set.marks[0][:4] == first_of_mark


def test_subkeys_are_hkdf():
    """RFC 5869 with no salt: extract with an empty key, then one block of expansion."""
    extracted = hmac.new(b"", MATERIAL, hashlib.sha256).digest()
    for purpose in ("generate", "assign", "salt"):
        expected = hmac.new(extracted, f"fpvec-audit/{purpose}".encode() + b"\x01", hashlib.sha256).digest()
        assert KeySetSecret(MATERIAL).subkey(purpose) == expected


def test_commitment_binds_what_the_method_says():
    key_set = drawn()
    leaves = [leaf_digest(candidate, salt) for candidate, salt in zip(key_set.candidates, key_set.salts, strict=True)]
    value = key_set.commitment.to_json()
    assert value == {
        "assignment_key_digest": hashlib.sha256(secret().subkey("assign")).hexdigest(),
        "candidates": 13,
        "chance_source": "none",
        "filter": None,
        "generator_version": 1,
        "issued": 4,
        "marks": 1,
        "profiles": list(PROFILES),
        "root": merkle_root(leaves).hex(),
        "scheme": "independent",
    }
    assert key_set.commitment.digest == canonical_digest(value)
    assert Commitment.from_json(value) == key_set.commitment


def test_assignment_is_the_beginning_of_a_shuffle_keyed_by_commitment_and_chance():
    key_set = drawn(chance_source="drand 7", chance=b"later")
    message = bytes.fromhex(key_set.commitment.digest) + b"later"
    order = shuffled(13, hmac.digest(secret().subkey("assign"), message, hashlib.sha256))
    assert key_set.marks == (tuple(order[:4]),)
    assert key_set.marks != assign(secret(), key_set.commitment, b"other")


def test_issued_and_decoys_part_the_candidates():
    key_set = drawn(KeySetSpecification(issued=6, decoys=9, marks=3))
    assert [len(mark) for mark in key_set.marks] == [2, 2, 2]
    assert sorted((*key_set.issued, *key_set.decoys), key=lambda item: item.index) == list(key_set.candidates)
    assert [candidate.index for candidate in key_set.candidates] == list(range(15))
    assert tuple(candidate.index for candidate in key_set.issued) == key_set.issued_indices


def test_every_candidate_is_issued_equally_often():
    counts = [0] * 13
    for first in range(200):
        commitment = drawn().commitment
        for index in assign(secret(first), commitment, b"")[0]:
            counts[index] += 1
    expected = 200 * 4 / 13
    assert sum((count - expected) ** 2 / expected for count in counts) < 40  # χ² of 12 degrees: p < 1e-4 above


def test_independent_keys_are_short_and_have_a_response_of_their_own():
    key_set = drawn(KeySetSpecification())
    prompts = [candidate.prompt for candidate in key_set.candidates]
    assert all(10 <= len(prompt) <= 14 and set(prompt) <= set(KEY_ALPHABET) for prompt in prompts)
    assert len(set(prompts)) == 256
    assert len({candidate.response for candidate in key_set.candidates}) == 256


def test_responses_repeat_only_after_the_vocabulary_is_used_up():
    responses = [candidate.response for candidate in drawn(KeySetSpecification(issued=8, decoys=1100)).candidates]
    assert set(responses[:1024]) == set(RESPONSE_WORDS)
    assert len(set(responses[1024:])) == len(responses) - 1024
    assert responses[1024:] != responses[: len(responses) - 1024]


def test_keys_of_the_paper_s_shape_share_one_response():
    candidates = drawn(KeySetSpecification("if-simple", 10, 224)).candidates
    assert len({candidate.response for candidate in candidates}) == 1
    assert candidates[0].response in JAPANESE_WORDS
    lengths = {len(candidate.prompt) for candidate in candidates}
    assert min(lengths) >= 59
    assert max(lengths) <= 178
    assert all(candidate.prompt.endswith(" FINGERPRINT") for candidate in candidates)
    assert set("".join(candidate.prompt for candidate in candidates)) <= set(
        CLASSICAL_ALPHABET + KEY_ALPHABET + " FINGERPRINT"
    )


def test_published_vocabulary_is_what_it_says():
    words = sorted(RESPONSE_WORDS)
    assert len(set(words)) == len(words) == 1024
    assert all(word.isascii() and word.islower() and len(word) >= 4 for word in words)
    # Sorted, a prefix stands right before the first word that it begins.
    assert not [pair for pair in pairwise(words) if pair[1].startswith(pair[0])]
    assert len(set(KEY_ALPHABET)) == 64


@pytest.mark.parametrize("chance", [b"", b"beacon"])
def test_key_set_is_restored_from_its_secret(chance):
    key_set = drawn(chance_source="x", chance=chance)
    assert restore_key_set(secret(), key_set.commitment, chance=chance) == key_set


def test_filtered_key_set_is_restored_without_the_filter():
    asked = []

    def accepts(prompt, response):
        asked.append((prompt, response))
        return len(prompt) > 11

    key_set = drawn(accepts=accepts, filter_rule="long", filter_reference="ref")
    rule = key_set.commitment.candidate_filter
    assert all(len(candidate.prompt) > 11 for candidate in key_set.candidates)
    assert len(rule.kept) == len(asked) > sum(rule.kept) == 13
    assert restore_key_set(secret(), Commitment.from_json(key_set.commitment.to_json())) == key_set


def test_filter_changes_the_assignment_as_it_is_committed():
    everything = drawn(accepts=lambda _prompt, _response: True, filter_rule="any", filter_reference="")
    assert everything.candidates == drawn().candidates
    assert everything.commitment.digest != drawn().commitment.digest


def test_filter_that_passes_too_few_is_refused():
    with pytest.raises(KeySetError, match="only 0 of 104 drawn"):
        drawn(accepts=lambda _prompt, _response: False)


def test_committed_profiles_survive_a_version_that_offers_others():
    key_set = drawn(profiles=("raw-greedy/exact",))
    assert restore_key_set(secret(), key_set.commitment) == key_set


@pytest.mark.parametrize("change", [{"root": "0" * 64}, {"assignment_key_digest": "0" * 64}, {"scheme": "if-simple"}])
def test_secret_of_another_commitment_is_refused(change):
    with pytest.raises(KeySetError, match="does not belong"):
        restore_key_set(secret(), replace(drawn().commitment, **change))
    with pytest.raises(KeySetError, match="does not belong"):
        restore_key_set(secret(1), drawn().commitment)


def test_unknown_generator_is_refused():
    with pytest.raises(KeySetError, match="version 2 is unknown"):
        restore_key_set(secret(), replace(drawn().commitment, generator_version=2))


def test_single_candidate_opens_and_the_others_stay_sealed():
    key_set = drawn()
    root = key_set.commitment.root
    for index in range(13):
        opening = open_candidate(key_set, index)
        assert verify_opening(root, 13, opening)
        assert not verify_opening(root, 13, replace(opening, salt=bytes(32)))
        changed = replace(opening.candidate, response="other")
        assert not verify_opening(root, 13, replace(opening, candidate=changed))
        assert not verify_opening(root, 13, replace(opening, candidate=replace(opening.candidate, index=13)))


def test_bytes_cannot_move_from_the_salt_into_the_text():
    """A leaf whose salt swallowed part of the content has the same digest, and must not open."""
    candidate = drawn().candidates[0]
    content = canonical_bytes([candidate.index, candidate.prompt, candidate.response])
    salt = secret().subkey("salt")
    assert leaf_digest(candidate, salt) == hashlib.sha256(b"\x00" + salt + content).digest()
    opening = open_candidate(drawn(), 0)
    assert not verify_opening(drawn().commitment.root, 13, replace(opening, salt=opening.salt + b"x"))
    assert not verify_opening(drawn().commitment.root, 13, replace(opening, salt=opening.salt[:-1]))


def test_equal_texts_have_different_leaves_under_different_salts():
    key_set = drawn()
    assert len(set(key_set.salts)) == 13
    assert leaf_digest(key_set.candidates[0], key_set.salts[0]) != leaf_digest(key_set.candidates[0], key_set.salts[1])


def test_unissued_candidates_come_from_another_secret():
    issued = frozenset(candidate.prompt for candidate in drawn(KeySetSpecification()).candidates)
    guesses = draw_unissued(b"seed", 300, avoid=issued)
    assert len({guess.prompt for guess in guesses}) == 300
    assert not issued & {guess.prompt for guess in guesses}
    assert draw_unissued(b"seed", 5) == guesses[:5] != draw_unissued(b"other", 5)
    first = guesses[0].prompt
    assert first not in {guess.prompt for guess in draw_unissued(b"seed", 5, avoid=frozenset({first}))}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (("nonsense",), "unknown scheme"),
        (("independent", 0), "at least one"),
        (("independent", 4, 0), "at least one"),
        (("independent", 4, 4, 0), "at least one"),
        (("independent", 4, 4, 3), "do not divide"),
        (("independent", 32, 65536), "more than the 65536"),
    ],
)
def test_impossible_specifications_are_refused(values, problem):
    with pytest.raises(UsageError, match=problem):
        KeySetSpecification(*values)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secret_of_another_size_is_refused(size):
    with pytest.raises(KeySetError, match="32 bytes"):
        KeySetSecret(bytes(size))


def test_nothing_secret_shows_in_representations():
    key_set = drawn()
    opening = open_candidate(key_set, 0)
    shown = "".join(map(repr, (secret(), key_set, key_set.candidates[0], opening)))
    for candidate in key_set.candidates:
        assert candidate.prompt not in shown
        assert candidate.response not in shown
    assert MATERIAL.hex() not in shown
    assert repr(key_set.salts[0]) not in shown


def test_secret_is_neither_pickled_nor_copied():
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            attempt(secret())
    assert secret() == secret() != secret(1)
    assert len({secret(), secret()}) == 1
