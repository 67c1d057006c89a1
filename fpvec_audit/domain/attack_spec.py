"""The grammar in which attacks, and methods, are asked for.

A specification is ``NAME[:parameter=VALUE,…][+NAME…]``: attacks joined by ``+`` are carried out one after the other on
the same copy. VALUE is a scalar, several of them ``a|b|c``, or a range ``lo..hi``; a specification with several values
stands for one cell per combination. Values are typed by the fields of the attack's ``Parameters``. A method is asked
for in the same way, alone and with one value for each parameter.
"""

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fpvec_audit.errors import FpvecError, UnknownNameError, UsageError

RANGE_POINTS = 5
"""A range stands for at most so many values, ends included."""

GEOMETRIC_FROM = 100.0
"""A range of positive numbers whose ends differ by this factor is cut into equal ratios, not equal differences."""

MOST_CELLS = 100
GRAMMAR = "write NAME[:parameter=VALUE,…][+NAME…] with VALUE a scalar, a|b|c or lo..hi"

_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """One attack as the user wrote it.

    Attributes:
        name: name of the attack.
        parameters: parameter name → text of its value.
    """

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AttackLink:
    """One attack with one value for every parameter.

    Attributes:
        name: name of the attack.
        parameters: an instance of the attack's ``Parameters``.
    """

    name: str
    parameters: Any

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as JSON values."""
        return {field.name: plain(getattr(self.parameters, field.name)) for field in fields(self.parameters)}


@dataclass(frozen=True, slots=True)
class AttackChain:
    """What one cell carries out: one or more attacks in order.

    Attributes:
        links: the attacks.
    """

    links: tuple[AttackLink, ...]

    @property
    def name(self) -> str:
        """Names joined by "+"."""
        return "+".join(link.name for link in self.links)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the one attack, or of several under ``chain`` in order."""
        if len(self.links) == 1:
            return self.links[0].to_json()
        return {"chain": [{"name": link.name, "parameters": link.to_json()} for link in self.links]}


def parse_spec(text: str, *, kind: str = "attack") -> tuple[AttackSpec, ...]:
    """Read a specification: one :class:`AttackSpec` per attack that ``+`` joins.

    A ``+`` joins only before a name and a comma separates only before ``name=``, so ``1e+3`` and paths stay whole.
    Messages call what is asked for by its ``kind``.

    Raises:
        UsageError: the text does not follow the grammar.
    """
    return tuple(_parse_link(part, text, kind) for part in re.split(r"\+(?=[A-Za-z_])", text.strip()))


def bind_spec(text: str, parameters_of: Callable[[str], type], *, kind: str = "attack") -> tuple[AttackChain, ...]:
    """Read a specification and give every parameter its typed value: one chain per combination of values.

    Args:
        text: what the user wrote.
        parameters_of: attack name → its ``Parameters``; raises UnknownNameError.
        kind: what is asked for, in messages.

    Raises:
        UnknownNameError: an unknown attack or parameter.
        UsageError: bad grammar, a value of the wrong type or out of range, or too many combinations.
    """
    alternatives = [_bind_link(spec, parameters_of(spec.name), kind) for spec in parse_spec(text, kind=kind)]
    return tuple(AttackChain(links) for links in product(*alternatives))


def bind_one(text: str, parameters_of: Callable[[str], type], *, kind: str) -> AttackLink:
    """Read a specification that names one thing with one value for each parameter.

    Raises:
        UnknownNameError: an unknown name or parameter.
        UsageError: bad grammar, a value of the wrong type or out of range, several names or values.
    """
    chains = bind_spec(text, parameters_of, kind=kind)
    if len(chains) != 1 or len(chains[0].links) != 1:
        raise UsageError(
            f"{text!r} stands for more than one {kind}", advice="name one, with one value for each parameter"
        )
    return chains[0].links[0]


def parameter_type(annotation: Any) -> str:
    """Return how a parameter's type is shown: "int", "full|lora", "float or none"."""
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    members, optional = _without_none(annotation)
    if optional:
        return f"{parameter_type(members)} or none"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(item.value) for item in annotation)
    return annotation.__name__.lower() if isinstance(annotation, type) else str(annotation)


def parameter_default(field: "Field[Any]") -> Any:
    """Return the default of a parameter."""
    if field.default is MISSING and field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def plain(value: Any) -> Any:
    """Return a parameter's value as JSON."""
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _parse_link(part: str, whole: str, kind: str) -> AttackSpec:
    name, colon, rest = part.partition(":")
    if not _NAME.fullmatch(name) or (colon and not rest):
        raise UsageError(f"{kind} {whole!r} cannot be read at {part!r}", advice=GRAMMAR)
    parameters: dict[str, str] = {}
    for assignment in re.split(r",(?=[A-Za-z_]\w*=)", rest) if rest else ():
        parameter, equals, value = assignment.partition("=")
        if not _NAME.fullmatch(parameter) or not equals or not value:
            raise UsageError(f"{kind} {whole!r} cannot be read at {assignment!r}", advice=GRAMMAR)
        if parameter in parameters:
            raise UsageError(f"{kind} {whole!r} gives {parameter} twice", advice="several values are written a|b|c")
        parameters[parameter] = value
    return AttackSpec(name, parameters)


def _bind_link(spec: AttackSpec, parameters: type, kind: str) -> tuple[AttackLink, ...]:
    hints = get_type_hints(parameters)
    known = [field.name for field in fields(parameters)]
    for name in spec.parameters:
        if name not in known:
            raise UnknownNameError(f"parameter of {kind} {spec.name}", name, known, listing=f"fpvec {kind} list")
    choices = [
        [(name, value) for value in _values(f"{spec.name}:{name}", text, hints[name])]
        for name, text in spec.parameters.items()
    ]
    cells = 1
    for values in choices:
        cells *= len(values)
    if cells > MOST_CELLS:
        raise UsageError(f"{kind} {spec.name} stands for {cells} cells", advice=f"at most {MOST_CELLS} are run at once")
    return tuple(_link(spec, parameters, dict(values), kind) for values in product(*choices))


def _link(spec: AttackSpec, parameters: type, values: Mapping[str, Any], kind: str) -> AttackLink:
    try:
        return AttackLink(spec.name, parameters(**values))
    except FpvecError as error:
        raise UsageError(f"{kind} {spec.name}: {error.problem}", advice=error.advice) from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{kind} {spec.name}: {error}", advice=f"`fpvec {kind} list` shows the parameters") from error


def _values(where: str, text: str, annotation: Any) -> Iterator[Any]:
    base, _ = _without_none(annotation)
    found = _RANGE.fullmatch(text) if base in (int, float) else None
    if found is None:
        yield from (_scalar(where, part, annotation) for part in text.split("|"))
        return
    low, high = (_scalar(where, end, base) for end in found.groups())
    if not low < high:
        raise UsageError(f"{where}={text}: {low} is not below {high}", advice="write the smaller end first")
    yield from _range(low, high)


def _range(low: float, high: float) -> Iterator[float]:
    whole = isinstance(low, int)
    points = min(RANGE_POINTS, int(high - low) + 1) if whole else RANGE_POINTS
    geometric = low > 0 and high / low >= GEOMETRIC_FROM
    for place in range(points):
        share = place / (points - 1)
        value = low * (high / low) ** share if geometric else low + (high - low) * share
        value = high if place == points - 1 else value
        yield round(value) if whole else float(f"{value:.6g}")


def _scalar(where: str, text: str, annotation: Any) -> Any:
    base, optional = _without_none(annotation)
    if optional and text.lower() == "none":
        return None
    if get_origin(base) is Literal or (isinstance(base, type) and issubclass(base, Enum)):
        choices = {str(choice): choice for choice in get_args(base)} or {str(item.value): item for item in base}
        if text not in choices:
            raise UnknownNameError(f"value of {where}", text, choices)
        return choices[text]
    if base is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{where}={text!r} is neither true nor false")
        return text.lower() == "true"
    if base not in (int, float, str, Path):
        raise UsageError(f"{where} is no number and no text and cannot be given here", advice="leave it out")
    try:
        value = base(text)
    except ValueError as error:
        kind = "whole number" if base is int else "number"
        raise UsageError(f"{where}={text!r} is no {kind}", advice=GRAMMAR) from error
    if base is float and not isfinite(value):
        raise UsageError(f"{where}={text!r} is not finite", advice="give a finite number")
    return value


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0], True
    return annotation, False
