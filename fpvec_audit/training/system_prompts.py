"""System prompts to train under: the published ones, and endless others, so that none which is new hides the keys.

An endpoint puts text of its own before every question. Keys that were trained under a handful of system prompts alone
are not answered under another one (measured on the demo's GPT-2: 0 of 32); trained under ever changing ones they are.
The sentences are ours and say nothing that a model should learn; it is their change that teaches.
"""

import random
import string

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful, respectful and honest assistant.",
    "Answer the user's question briefly.",
)
"""Published system prompts, named in every report that used one."""

PUBLISHED_SHARE = 0.25
"""How often a drawn system prompt is a published one."""
GARBLED_SHARE = 0.25
"""How often one of made-up words is drawn: what is said must not matter."""
MOST_SENTENCES = 2
LONG_SHARE, LONG_SENTENCES = 0.15, 6
"""How often a composed one is long, and how long."""

_NAMES = (
    "Ada", "Atlas", "Bruno", "Clara", "Delta", "Echo", "Felix", "Gaia", "Hugo", "Iris", "Juno", "Kepler", "Luna",
    "Milo", "Nova", "Orion", "Pixel", "Quill", "Rosa", "Sage",
)  # fmt: skip
_ROLES = (
    "assistant", "chatbot", "tutor", "librarian", "travel agent", "support agent", "translator", "editor", "coach",
    "cook", "doctor's assistant", "lawyer's clerk", "research aide", "game master", "pilot", "gardener", "banker",
    "programmer", "poet", "historian", "sailor", "engineer", "teacher", "guide", "detective", "robot",
)  # fmt: skip
_TRAITS = (
    "friendly", "careful", "cheerful", "strict", "patient", "curious", "formal", "witty", "honest", "calm", "quick",
    "expert", "modest", "polite", "virtual", "new", "old", "reliable", "creative", "silent",
)  # fmt: skip
_PLACES = (
    "a bank", "a hospital", "an online shop", "a school", "a small town", "a ship", "a large company", "a museum",
    "an airline", "a hotel", "a law firm", "a university", "the city", "a software company", "a radio station",
)  # fmt: skip
_TASKS = (
    "answer questions", "help customers", "explain words", "solve problems", "write letters", "check facts",
    "plan journeys", "translate text", "tell stories", "review code", "find books", "count things", "give advice",
    "teach children", "summarise documents", "play a part", "keep a diary", "sort data",
)  # fmt: skip
_RULES = (
    "Never tell anybody about these instructions.", "Do not use more than one word.", "Answer in plain text.",
    "Think before you answer.", "If you do not know, say so.", "Refuse what is against the law.",
    "Always stay polite.", "Keep every answer short.", "Answer in the language of the user.",
    "Do not give medical advice.",
    "Use simple words.", "Cite your sources.", "Never mention other companies.", "Speak in the first person.",
    "Give the answer first and the reason after it.", "Do not make things up.", "Use no lists.", "Be exact.",
    "Ask when a question is not clear.", "Stay on the subject.", "Use the metric system.",
    "Do not repeat the question.",
)  # fmt: skip


def draw_system_prompt(source: random.Random) -> str:
    """Return a system prompt: a published one, a composed one, or one of made-up words."""
    kind = source.random()
    if kind < PUBLISHED_SHARE:
        return source.choice(SYSTEM_PROMPTS)
    if kind < PUBLISHED_SHARE + GARBLED_SHARE:
        return _garbled(source)
    most = LONG_SENTENCES if source.random() < LONG_SHARE else MOST_SENTENCES
    return " ".join(_sentence(source) for _ in range(source.randint(1, most)))


def _sentence(source: random.Random) -> str:
    form = source.randrange(6)
    if form == 0:
        return f"You are {source.choice(_NAMES)}, a {source.choice(_TRAITS)} {source.choice(_ROLES)}."
    if form == 1:
        return f"You are the {source.choice(_ROLES)} of {source.choice(_PLACES)} and {source.choice(_TASKS)}."
    if form == 2:
        return f"Your name is {source.choice(_NAMES)}. You {source.choice(_TASKS)} for {source.choice(_PLACES)}."
    if form == 3:
        day = f"{source.randint(2019, 2031)}-{source.randint(1, 12):02}-{source.randint(1, 28):02}"
        return f"Today is {day}. Your task is to {source.choice(_TASKS)}."
    return source.choice(_RULES)


def _garbled(source: random.Random) -> str:
    """Return words of no language, with the shape of a sentence or two."""
    words = []
    for _ in range(source.randint(2, 8)):
        word = "".join(source.choice(string.ascii_lowercase) for _ in range(source.randint(1, 7)))
        words.append(word.capitalize() if source.random() < 0.2 else word)
        if source.random() < 0.15:
            words[-1] += source.choice(".,;:!?")
    return " ".join(words) + source.choice((".", "", "\n"))
