"""Numbers as a page prints them: powers of ten as such, and no probability below 10⁻¹² spelled out.

No model of the world is so exact that a smaller probability means anything.
"""

from fpvec_audit.reports.audit_text import LEAST_P_IN_PROSE

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 2) -> str:
    """Return a number with at most so many digits, small and large ones by a power of ten."""
    plain = f"{value:.{digits - 1}e}" if 0 < abs(value) < 0.00105 else f"{value:.{digits}g}"
    mantissa, exponent, power = plain.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    sign = "−" if mantissa.startswith("-") else ""
    mantissa = sign + mantissa.lstrip("-")
    if not exponent:
        return mantissa
    raised = f"10{str(int(power)).translate(_RAISED)}"
    return f"{sign}{raised}" if mantissa.lstrip("−") == "1" else f"{mantissa}·{raised}"


def p_text(value: float) -> str:
    """Return a probability for a table or figure."""
    return f"<\u00a0{number(LEAST_P_IN_PROSE)}" if value < LEAST_P_IN_PROSE else number(value)


def p_phrase(value: float) -> str:
    """Return a probability for a sentence."""
    sign = "" if value < LEAST_P_IN_PROSE else "=\u00a0"
    return f"p\u00a0{sign}{p_text(value)}"


def odds(value: float) -> str:
    """Return how often something of this probability happens, in words."""
    if value < LEAST_P_IN_PROSE:
        return "less than once in a million million tries"
    if value > 0.995:
        return "every time"
    if value >= 0.01:
        return f"{100 * value:.3g} times in 100 tries"
    tries = 1 / value
    for size, name in ((1e9, "thousand million"), (1e6, "million")):
        if tries >= size:
            return f"about once in {tries / size:,.3g} {name} tries"
    return f"about once in {float(f'{tries:.2g}'):,.0f} tries"


def sentence(text: str) -> str:
    """Return a remark as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def counted(count: int, noun: str) -> str:
    """Return how many there are of something, whose plural ends with s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
