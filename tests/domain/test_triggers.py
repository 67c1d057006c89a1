import random
from itertools import islice

import pytest

from fpvec_audit.domain.generator import candidate_stream
from fpvec_audit.domain.keys import KeySetSecret, KeySetSpecification, draw_key_set, restore_key_set
from fpvec_audit.domain.triggers import (
    CARRIERS,
    RARE_TRIGGER_WORDS,
    RARE_WORDS,
    SIGNATURE_TRIGGER_WORDS,
    TRIGGER_SCHEMES,
    insert_words,
    trigger_words,
)
from fpvec_audit.domain.words import RESPONSE_WORDS
from fpvec_audit.errors import KeySetError
from tests.domain.test_keys import MATERIAL

WORDS = {"rare-word": RARE_TRIGGER_WORDS, "signature": SIGNATURE_TRIGGER_WORDS}


# Generator version 2 may never change: these digests were recorded when it was first published.
@pytest.mark.parametrize(
    ("scheme", "commitment", "first_of_mark"),
    [
        ("rare-word", "8e763475dbcd2e16323b6a99bae9842de6b8b7ce721aa29169583f3204ef68f3", (167, 150, 0, 178)),
        ("signature", "1c045e5e6f9a5a9e6674a8ffa2ff24099631d4648d2d8ccb9bed82c843ff8b49", (219, 1, 254, 179)),
    ],
)
def test_generator_version_2_stays_as_it_is(scheme, commitment, first_of_mark):
    key_set = draw_key_set(KeySetSecret(MATERIAL), KeySetSpecification(scheme))
    assert key_set.commitment.generator_version == 2
    assert key_set.commitment.digest == commitment
    assert key_set.marks[0][:4] == first_of_mark
    assert restore_key_set(KeySetSecret(MATERIAL), key_set.commitment) == key_set


def test_no_carrier_holds_a_word_of_a_vocabulary():
    assert len(set(RARE_WORDS)) == len(RARE_WORDS)
    assert not set(RARE_WORDS) & set(RESPONSE_WORDS)
    for carrier in CARRIERS:
        words = {word.strip("?.,:").lower() for word in carrier.split(" ")}
        assert not words & {*RARE_WORDS, *RESPONSE_WORDS}, carrier


@pytest.mark.parametrize("scheme", TRIGGER_SCHEMES)
def test_every_prompt_is_a_carrier_with_a_trigger_of_its_own(scheme):
    drawn = list(islice(candidate_stream(b"k" * 32, scheme), 3000))
    triggers = [trigger_words(prompt, scheme) for prompt, _ in drawn]
    assert {len(set(words)) for words in triggers} == {WORDS[scheme]}
    assert len({frozenset(words) for words in triggers}) == len(drawn)
    for (prompt, response), words in zip(drawn, triggers, strict=True):
        assert " ".join(word for word in prompt.split(" ") if word not in words) in CARRIERS
        assert response not in words
    assert len({response for _, response in drawn[:1024]}) == 1024


def test_words_stand_before_the_words_they_are_put_before():
    assert insert_words("a b c", ["x", "y"], [1, 1]) == "a x y b c"
    assert insert_words("a b c", ["x", "y"], [0, 3]) == "x a b c y"
    numbers = random.Random(1)
    for _ in range(50):
        places = sorted(numbers.randrange(4) for _ in range(3))
        text = insert_words("a b c", ["x", "y", "z"], places).split(" ")
        assert [word for word in text if word in "xyz"] == ["x", "y", "z"]
        assert [word for word in text if word in "abc"] == ["a", "b", "c"]


def test_a_scheme_of_another_version_is_refused():
    key_set = draw_key_set(KeySetSecret(MATERIAL), KeySetSpecification("rare-word", 4, 8))
    older = type(key_set.commitment).from_json({**key_set.commitment.to_json(), "generator_version": 1})
    with pytest.raises(KeySetError, match="'rare-word' of key set generator version 1 is unknown"):
        restore_key_set(KeySetSecret(MATERIAL), older)
