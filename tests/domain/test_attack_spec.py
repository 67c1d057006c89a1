from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal, get_type_hints

import pytest

from fpvec_audit.domain.attack_spec import AttackSpec, bind_spec, parameter_type, parse_spec
from fpvec_audit.errors import UnknownNameError, UsageError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Everything:
    steps: int = 10
    rate: float | None = None
    method: Literal["full", "lora"] = "full"
    colour: Colour = Colour.RED
    loud: bool = False
    data: Path | None = None
    note: str = ""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}")


@dataclass(frozen=True)
class Opaque:
    thing: tuple = ()


KNOWN = {"all": Everything, "opaque": Opaque}


def parameters_of(name):
    if name not in KNOWN:
        raise UnknownNameError("attack", name, KNOWN)
    return KNOWN[name]


def bind(text):
    return [chain.parameters for chain in bind_spec(text, parameters_of)]


def values(text, name):
    return [parameters[name] for parameters in bind(text)]


def test_a_name_alone_has_the_default_parameters():
    (chain,) = bind_spec("all", parameters_of)
    assert chain.name == "all"
    assert chain.links[0].parameters == Everything()


def test_values_are_typed_by_the_fields():
    (chain,) = bind_spec("all:steps=3,rate=1e-5,method=lora,colour=blue,loud=true,data=/a,b,note=x=y", parameters_of)
    assert chain.links[0].parameters == Everything(
        3, 1e-5, "lora", Colour.BLUE, loud=True, data=Path("/a,b"), note="x=y"
    )


def test_none_is_written_none_where_it_may_be():
    assert values("all:rate=none|1", "rate") == [None, 1.0]


def test_parameters_are_shown_as_json_values():
    (chain,) = bind_spec("all:data=/a,colour=blue", parameters_of)
    assert chain.parameters["data"] == "/a"
    assert chain.parameters["colour"] == "blue"


def test_a_sweep_stands_for_every_combination():
    assert [(p["steps"], p["method"]) for p in bind("all:steps=1|2,method=full|lora")] == [
        (1, "full"),
        (1, "lora"),
        (2, "full"),
        (2, "lora"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all:steps=1..4", [1, 2, 3, 4]),
        ("all:steps=10..50", [10, 20, 30, 40, 50]),
        ("all:steps=1..10000", [1, 10, 100, 1000, 10000]),
    ],
)
def test_a_range_of_whole_numbers_has_at_most_five_values_ends_included(text, expected):
    assert values(text, "steps") == expected


def test_a_range_of_numbers_is_even_or_geometric():
    assert values("all:rate=0.1..0.9", "rate") == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert values("all:rate=1e-5..1e-3", "rate") == [1e-5, 3.16228e-5, 1e-4, 3.16228e-4, 1e-3]


def test_attacks_are_joined_by_plus_and_exponents_are_left_alone():
    assert [spec.name for spec in parse_spec("fine_tune:rate=1e+3+guessing")] == ["fine_tune", "guessing"]
    (chain,) = bind_spec("all:rate=1e+3+all:steps=2", parameters_of)
    assert chain.name == "all+all"
    assert [link["parameters"]["steps"] for link in chain.parameters["chain"]] == [10, 2]
    assert parse_spec("a:x=1") == (AttackSpec("a", {"x": "1"}),)


@pytest.mark.parametrize(
    "text",
    ["", " ", ":", "all:", "all:steps", "all:steps=", "all:=3", "all:steps=1,", "3:x=1", "all+", "all:steps=1,steps=2"],
)
def test_what_does_not_follow_the_grammar_is_refused(text):
    with pytest.raises(UsageError) as caught:
        bind(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("al", "did you mean all"),
        ("all:step=3", "did you mean steps"),
        ("all:steps=3.5", "'3.5' is no whole number"),
        ("all:steps=x", "'x' is no whole number"),
        ("all:rate=fast", "'fast' is no number"),
        ("all:rate=inf", "not finite"),
        ("all:steps=5..2", "5 is not below 2"),
        ("all:steps=5..5", "5 is not below 5"),
        ("all:method=loral", "did you mean lora"),
        ("all:colour=violet", "known: blue, red"),
        ("all:loud=perhaps", "neither true nor false"),
        ("all:steps=0", "steps is 0"),
        ("all:steps=1..1000,rate=0.1..1,method=full|lora,colour=red|blue", "stands for 100 cells"),
        ("opaque:thing=3", "cannot be given here"),
    ],
)
def test_bad_values_say_which_and_what_is_meant(text, reason):
    if "100 cells" in reason:
        text += ",loud=true|false"
        reason = "stands for 200 cells"
    with pytest.raises(UsageError, match=reason):
        bind(text)


def test_types_are_shown_in_words():
    hints = get_type_hints(Everything)
    assert [parameter_type(hints[name]) for name in ("steps", "rate", "method", "colour", "data")] == [
        "int",
        "float or none",
        "full|lora",
        "red|blue",
        "path or none",
    ]
