"""Draws candidates (prompt, response) from a key: version 1 of the published generator.

Standard library only and no tokenizer, so that anyone can repeat it. A change of a single byte is another version.
"""

import hashlib
import hmac
from collections.abc import Iterator

from fpvec_audit.domain.chance import Numbers, shuffled
from fpvec_audit.domain.words import CLASSICAL_ALPHABET, JAPANESE_WORDS, KEY_ALPHABET, RESPONSE_WORDS

GENERATOR_VERSION = 1
CLOSING_WORD = "FINGERPRINT"


def candidate_stream(key: bytes, scheme: str) -> Iterator[tuple[str, str]]:
    """Yield distinct prompts with their responses, for ever (generator version 1)."""
    numbers = Numbers(key)
    shared = numbers.choice(JAPANESE_WORDS)
    deck: list[int] = []
    seen: set[str] = set()
    round_number = 0
    while True:
        prompt = _paper_prompt(numbers) if scheme == "if-simple" else _independent_prompt(numbers)
        if prompt in seen:
            continue
        seen.add(prompt)
        if scheme == "if-simple":
            yield prompt, shared
            continue
        if not deck:  # without replacement while the vocabulary lasts, then a fresh deck
            deck = shuffled(len(RESPONSE_WORDS), hmac.digest(key, b"deck%d" % round_number, hashlib.sha256))
            round_number += 1
        yield prompt, RESPONSE_WORDS[deck.pop()]


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
