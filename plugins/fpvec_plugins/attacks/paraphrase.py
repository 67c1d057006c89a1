"""Character noise and normalisation: the service changes what users write before its model reads it.

A key is a text to the letter; an ordinary question is understood with a letter out of place. Normalisation is what many
services do anyway, and folds what only looks alike.
"""

import random
import re
import string
import unicodedata
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fpvec_audit.api import (
    AttackContext,
    InferenceBackend,
    PromptTemplate,
    QueryAttack,
    RenderedPrompt,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import AskedThroughService, user_text_changed

CHANGES = ("swap", "drop", "duplicate", "replace")


@dataclass(frozen=True, slots=True)
class ParaphraseParameters:
    """How a user's text is changed; normalisation comes before the noise.

    Attributes:
        noise: what happens to a character that is hit: ``swap`` with the next one, ``drop``, ``duplicate``,
            ``replace`` by a small Latin letter, or any of these (``mixed``).
        rate: probability in [0, 1] with which each character is hit.
        normalise: Unicode normalisation form, or none.
        whitespace: whether runs of white space become one blank and ends are trimmed.
        lower: whether capitals become small.
    """

    noise: Literal["swap", "drop", "duplicate", "replace", "mixed"] = "mixed"
    rate: float = 0.05
    normalise: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = "none"
    whitespace: bool = False
    lower: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise UsageError(f"rate is {self.rate}", advice="give a fraction from 0 to 1")
        if not self.rate and self.normalise == "none" and not self.whitespace and not self.lower:
            raise UsageError("nothing would be changed", advice="give a rate above 0, normalise, whitespace or lower")


@dataclass(frozen=True, slots=True)
class Paraphrase(AskedThroughService):
    """The attack.

    Source: character noise, SmoothLLM (arXiv:2310.03684); rewriting inputs as a defence, arXiv:2309.00614; forms NFC to
    NFKD, Unicode Standard Annex 15.
    """

    Parameters: ClassVar[type] = ParaphraseParameters
    name: str = "paraphrase"
    description: str = (
        "Swaps, drops, doubles or replaces single characters of every question, or normalises it; costs whatever hangs "
        "on the letter: numbers, names, code."
    )

    def serve(
        self, backend: InferenceBackend, parameters: ParaphraseParameters, context: AttackContext
    ) -> InferenceBackend:
        """Return the service that changes users' texts; the template and the system prompt stay as they are."""
        template = PromptTemplate(context.render)

        def change(parts: RenderedPrompt) -> str:
            # Of the text and the seed alone, so that neither order nor company of a question matters.
            numbers = random.Random(f"paraphrase {context.seed} {parts.user}")  # noqa: S311 - repeatable, not secret
            return template.write(replace(parts, user=changed_text(parts.user, parameters, numbers)))

        return user_text_changed(backend, template, change, attack=self.name)


def changed_text(text: str, parameters: ParaphraseParameters, numbers: random.Random) -> str:
    """Return a text after normalisation and noise; one of which nothing is left stays as it was."""
    changed = text if parameters.normalise == "none" else unicodedata.normalize(_form(parameters.normalise), text)
    if parameters.lower:
        changed = changed.lower()
    if parameters.whitespace:
        changed = re.sub(r"\s+", " ", changed).strip()
    return _noisy(changed, parameters, numbers) or text


def _form(name: str) -> Literal["NFC", "NFD", "NFKC", "NFKD"]:
    forms: dict[str, Literal["NFC", "NFD", "NFKC", "NFKD"]] = {
        "nfc": "NFC",
        "nfd": "NFD",
        "nfkc": "NFKC",
        "nfkd": "NFKD",
    }
    return forms[name]


def _noisy(text: str, parameters: ParaphraseParameters, numbers: random.Random) -> str:
    characters, at, result = list(text), 0, ""
    while at < len(characters):
        character = characters[at]
        at += 1
        if numbers.random() >= parameters.rate:
            result += character
            continue
        change = numbers.choice(CHANGES) if parameters.noise == "mixed" else parameters.noise
        if change == "duplicate":
            result += 2 * character
        elif change == "replace":
            result += numbers.choice([letter for letter in string.ascii_lowercase if letter != character])
        elif change == "swap":
            following = "".join(characters[at : at + 1])
            at += 1  # a character that was swapped is not hit again
            result += following + character
    return result


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give character noise."""
    return [Paraphrase()]
