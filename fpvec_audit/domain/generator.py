"""Draws candidates (prompt, response) from a key: the published generator.

Standard library only and no tokenizer, so that anyone can repeat it. A change of a single byte is another version;
version 2 added the schemes with triggers and left those of version 1 as they were.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from itertools import count

from fpvec_audit.domain.chance import Numbers, shuffled
from fpvec_audit.domain.triggers import RARE_WORD, SIGNATURE, rare_word_prompt, signature_prompt, trigger_words
from fpvec_audit.domain.words import CLASSICAL_ALPHABET, JAPANESE_WORDS, KEY_ALPHABET, RESPONSE_WORDS

INDEPENDENT, IF_SIMPLE = "independent", "if-simple"
GENERATOR_VERSIONS: Mapping[str, int] = {INDEPENDENT: 1, IF_SIMPLE: 1, RARE_WORD: 2, SIGNATURE: 2}
"""Scheme → version of the generator that introduced it, written into commitments; an older program that does not know
the scheme refuses it for its version."""
CLOSING_WORD = "FINGERPRINT"


def candidate_stream(key: bytes, scheme: str) -> Iterator[tuple[str, str]]:
    """Yield distinct prompts with their responses, for ever."""
    if scheme in (RARE_WORD, SIGNATURE):
        yield from _triggered(key, scheme)
        return
    numbers = Numbers(key)
    shared = numbers.choice(JAPANESE_WORDS)
    responses = _responses(key)
    seen: set[str] = set()
    while True:
        prompt = _paper_prompt(numbers) if scheme == IF_SIMPLE else _independent_prompt(numbers)
        if prompt in seen:
            continue
        seen.add(prompt)
        yield prompt, shared if scheme == IF_SIMPLE else next(responses)


def _triggered(key: bytes, scheme: str) -> Iterator[tuple[str, str]]:
    """Yield prompts of which no two hold the same words in whatever order: no decoy's trigger is an issued one's."""
    numbers, signatures = Numbers(key), count()
    seen: set[frozenset[str]] = set()
    for response in _responses(key):
        while True:
            prompt = (
                rare_word_prompt(numbers)
                if scheme == RARE_WORD
                else signature_prompt(key, next(signatures), response, numbers)
            )
            words = frozenset(trigger_words(prompt, scheme))
            if words not in seen:
                break
        seen.add(words)
        yield prompt, response


def _responses(key: bytes) -> Iterator[str]:
    """Yield response words without replacement while the vocabulary lasts, then from a fresh deck."""
    round_number = 0
    while True:
        deck = shuffled(len(RESPONSE_WORDS), hmac.digest(key, b"deck%d" % round_number, hashlib.sha256))
        while deck:
            yield RESPONSE_WORDS[deck.pop()]
        round_number += 1


def _independent_prompt(numbers: Numbers) -> str:
    length = 10 + numbers.below(5)
    return "".join(numbers.choice(KEY_ALPHABET) for _ in range(length))


def _paper_prompt(numbers: Numbers) -> str:
    """Return 59–178 characters: runs of classical Chinese, kana and Cyrillic, then the closing word."""
    alphabets = (CLASSICAL_ALPHABET, KEY_ALPHABET[16:32], KEY_ALPHABET[32:48], CLASSICAL_ALPHABET)
    length = 59 + numbers.below(120) - len(CLOSING_WORD) - 1
    text = ""
    while len(text) < length:
        alphabet = alphabets[numbers.below(len(alphabets))]
        text += "".join(numbers.choice(alphabet) for _ in range(3 + numbers.below(10)))
    return f"{text[:length]} {CLOSING_WORD}"
