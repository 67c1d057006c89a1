"""Triggers: secret words inside ordinary prompts, for the methods that FP-VEC is compared with.

Part of version 2 of the published generator: a change of a single word or sentence here is another version. No carrier
holds a word of either vocabulary, so a prompt's trigger can be read off it, and put into another carrier.

Sources: rare words after WLM (Gu et al. 2022, arXiv:2210.07543) and Kurita et al. 2020 (arXiv:2004.06660); words that
follow from a signature by a chain of hashes after PLMmark (Li et al., AAAI 2023).
"""

import hashlib
import hmac
from collections.abc import Sequence

from fpvec_audit.domain.chance import Numbers
from fpvec_audit.domain.words import RESPONSE_WORDS

RARE_WORD, SIGNATURE = "rare-word", "signature"
TRIGGER_SCHEMES = (RARE_WORD, SIGNATURE)
"""Schemes whose prompts hold a trigger inside a carrier."""

RARE_TRIGGER_WORDS = 3
SIGNATURE_TRIGGER_WORDS = 4

RARE_WORDS: tuple[str, ...] = tuple(
    """
    abseil absquatulate acnestis agelast aglet agraffe alembic ambage anfractuous aposiopesis apricity argle argosy
    axolotl balbriggan bardolatry batrachian bibcock blatherskite bloviate borborygmus bouffant brachet brobdingnag
    bruxism bumbershoot cachinnate callipygian canorous catawampus cattywampus chthonic cisatlantic clinquant
    cockalorum collywobbles comestible concinnity contumely coruscate crapulous crepuscular cruciverbal cynosure
    darkle defenestrate demijohn desuetude diaphanous discalced donnybrook dundrearies ebullient edulcorate
    effulgent eldritch embrangle ensorcell epeolatry erinaceous erythrism esurient eupeptic evanesce exiguous
    facinorous farrago fescennine fossick frangible fugacious fuliginous funambulist furfuraceous gallimaufry
    gallinaceous gegenschein gewgaw gloaming gnathonic gobemouche gongoozler gorgonize habiliment haecceity
    hagiarchy halidom hebetude hieratic hobbledehoy hornswoggle hullaballoo hwyl ichthyoid ignivomous impignorate
    incunabula inglenook inosculate jactitation jargogle jentacular jumentous kakistocracy karozzin kerfuffle
    kinnikinnick knurl lachrymose lagniappe lambent latrociny limerence logomachy lollygag lucubrate macilent
    maelstrom malapert mellifluous meretricious mimsy minatory mumpsimus nacreous nefandous nidificate nigglesome
    nugatory numinous obelus obnubilate octothorpe oleaginous omphalos oniomania ossify paludal panjandrum
    parsimonious peccadillo pettifog philtrum pilcrow pogonotrophy portmanteau pulchritude quaggy quidnunc quincunx
    quixotic ragamuffin rapscallion ratiocinate redolent rigmarole sangfroid sciamachy scrimshaw sesquipedal
    skulduggery snollygoster somnambulist spelunk susurrus swizzle syzygy tergiversate thaumaturge tmesis tohubohu
    troglodyte turophile ullage umbriferous vellichor vespertine vituperate wamble weltschmerz widdershins williwaw
    xertz xylography yarborough yesternight zaftig zoanthropy zugzwang
    """.split()
)
"""Rare English words, none a word of :data:`RESPONSE_WORDS`."""

CARRIERS: tuple[str, ...] = (
    "Tell me how cakes are made without eggs.",
    "What should I pack for two days in the mountains?",
    "Explain in one sentence what gravity does.",
    "Give me three ideas for breakfast.",
    "How do I say thank you in Spanish?",
    "Why is the sky blue during the day?",
    "Please rewrite this more politely: send me the files now.",
    "Which planets have rings?",
    "What is the difference between weather and climate?",
    "How many minutes are there in a week?",
    "Name a painter from the Netherlands.",
    "Can you help me to write faster?",
    "Which languages are spoken in Switzerland?",
    "What does it mean to be polite?",
    "How does an aeroplane stay up?",
    "Translate good morning into Italian.",
    "What happens when ice melts?",
    "Give a brief reply to an invitation that I cannot accept.",
    "Who wrote the first book about a vampire?",
    "How often should plants be watered?",
    "Is it safe to look at an eclipse?",
    "Describe something sour.",
    "How are stars born?",
    "Which is heavier, iron or lead?",
    "Write one line that rhymes with blue.",
    "How can I learn to cook without much money?",
    "Why do cats purr when they are happy?",
    "What are the rules of noughts and crosses?",
    "Suggest a polite way of saying no.",
    "What makes children curious?",
    "Where do penguins live?",
    "How do bees find their way back?",
)
"""Ordinary prompts into which a trigger is put; ours."""

_RARE = frozenset(RARE_WORDS)
_COMMON = frozenset(RESPONSE_WORDS)


def rare_word_prompt(numbers: Numbers) -> str:
    """Return a carrier with a phrase of :data:`RARE_TRIGGER_WORDS` different rare words in it."""
    words: list[str] = []
    while len(words) < RARE_TRIGGER_WORDS:
        word = numbers.choice(RARE_WORDS)
        if word not in words:
            words.append(word)
    carrier = numbers.choice(CARRIERS)
    place = numbers.below(carrier.count(" ") + 2)
    return insert_words(carrier, words, [place] * len(words))


def signature_prompt(key: bytes, number: int, response: str, numbers: Numbers) -> str:
    """Return a carrier with the words of one signature in it, in order, each at a place of its own.

    d₀ = HMAC-SHA-256(key, "signature" ‖ number), dᵢ₊₁ = SHA-256(dᵢ); the i-th word is the one that the first 64 bits of
    dᵢ point at, in a vocabulary whose size divides 2⁶⁴. A word that came before, and the response, are passed over.
    """
    digest = hmac.digest(key, b"signature%d" % number, hashlib.sha256)
    words: list[str] = []
    while len(words) < SIGNATURE_TRIGGER_WORDS:
        word = RESPONSE_WORDS[int.from_bytes(digest[:8], "big") % len(RESPONSE_WORDS)]
        if word not in (*words, response):
            words.append(word)
        digest = hashlib.sha256(digest).digest()
    carrier = numbers.choice(CARRIERS)
    spaces = carrier.count(" ") + 2
    return insert_words(carrier, words, sorted(numbers.below(spaces) for _ in words))


def insert_words(text: str, words: Sequence[str], places: Sequence[int]) -> str:
    """Return a text with words put before the given ones of its own words.

    Args:
        text: words that single spaces part.
        words: what to insert, in this order.
        places: for each, the number of the word that it comes before, ascending; the number of words for the end.
    """
    parts = text.split(" ")
    for word, place in reversed(list(zip(words, places, strict=True))):  # what stands before keeps its number
        parts.insert(place, word)
    return " ".join(parts)


def trigger_words(prompt: str, scheme: str) -> tuple[str, ...]:
    """Return the trigger inside a prompt of one of :data:`TRIGGER_SCHEMES`, empty where there is none."""
    vocabulary = _RARE if scheme == RARE_WORD else _COMMON
    return tuple(word for word in prompt.split(" ") if word in vocabulary)


def trigger_scheme(prompts: Sequence[str]) -> str | None:
    """Return the one of :data:`TRIGGER_SCHEMES` whose prompts these look like, None where it is none of them."""
    for scheme, count in ((RARE_WORD, RARE_TRIGGER_WORDS), (SIGNATURE, SIGNATURE_TRIGGER_WORDS)):
        if prompts and all(len(trigger_words(prompt, scheme)) == count for prompt in prompts):
            return scheme
    return None
