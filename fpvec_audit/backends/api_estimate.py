"""What an audit of an endpoint will cost at most, told before anything is sent. Pure, and light to import."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

MESSAGE_TOKENS = 16
"""Tokens that a chat template adds around one message, generously."""
HARMLESS_TOKENS = 2
BEFORE = 2
"""Requests besides the prompts: which models are served, and a harmless question that shows what is understood."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper guess of what asking some prompts takes, without retries.

    Attributes:
        requests: number of requests.
        prompt_tokens: tokens sent.
        completion_tokens: tokens generated.
        cost: in the currency of the prices; None without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal | None

    def to_json(self) -> dict[str, int | str | None]:
        """Return the JSON object that goes into reports."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": None if self.cost is None else str(self.cost),
        }


def estimate(
    prompts: Sequence[str],
    max_new_tokens: int,
    price_in_per_million: Decimal | None = None,
    price_out_per_million: Decimal | None = None,
    *,
    system_prompt: str = "",
) -> Estimate:
    """Return what asking these prompts takes at most.

    A token is taken to be three characters of ASCII, or one byte of the UTF-8 of anything else: three characters for a
    token is no upper guess for rare scripts, of which a tokenizer may need several tokens for one character.

    Args:
        prompts: texts that will be asked, each in one request; repeats as often as they are repeated.
        max_new_tokens: most tokens generated per prompt.
        price_in_per_million: price of a million tokens sent; None when unknown.
        price_out_per_million: price of a million tokens generated; None when unknown.
        system_prompt: sent with every prompt.
    """
    around = MESSAGE_TOKENS + (_tokens(system_prompt) + MESSAGE_TOKENS if system_prompt else 0)
    questions = len(prompts) + 1
    sent = sum(map(_tokens, prompts)) + HARMLESS_TOKENS + questions * around
    generated = questions * max_new_tokens
    if price_in_per_million is None and price_out_per_million is None:
        return Estimate(len(prompts) + BEFORE, sent, generated, None)
    total = sent * (price_in_per_million or Decimal(0)) + generated * (price_out_per_million or Decimal(0))
    return Estimate(len(prompts) + BEFORE, sent, generated, (total / 1_000_000).quantize(Decimal("0.0001"), ROUND_UP))


def _tokens(text: str) -> int:
    plain = sum(sign.isascii() for sign in text)
    return -(-plain // 3) + len("".join(sign for sign in text if not sign.isascii()).encode("utf-8", "replace"))
