import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.strict_json import MOST_DEPTH, Value, parse_canonical

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_canonical_bytes_give_their_value_back(value):
    assert parse_canonical(canonical_bytes(value)) == value


@given(VALUES, st.sampled_from([{"indent": 1}, {"ensure_ascii": True}, {"separators": (", ", ": ")}]))
def test_any_other_spelling_of_a_value_is_refused(value, style):
    spelled = json.dumps(value, sort_keys=True, **({"separators": (",", ":"), "ensure_ascii": False} | style)).encode()
    if spelled != canonical_bytes(value):
        with pytest.raises(EvidenceError, match="not canonical"):
            parse_canonical(spelled)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a":1,"a":1}', "'a' stands twice"),
        (b'{"a":{"b":1,"c":2,"b":1}}', "'b' stands twice"),
        (b"[1.0]", "1.0.* no integer"),
        (b"[1e3]", "1e3.* no integer"),
        (b"[NaN]", "NaN.* no integer"),
        (b"[-Infinity]", "no integer"),
        (b"[9223372036854775808]", "too large"),
        (b"[" + b"9" * 5000 + b"]", "too large"),
        (b"[-0]", "not canonical"),
        (b"[01]", "no JSON"),
        (b'{"b":1,"a":1}', "not canonical JSON from byte 2"),
        (b"[1] ", "not canonical"),
        (b"[1]\n", "not canonical"),
        (b" [1]", "not canonical"),
        (b"\xef\xbb\xbf[1]", "no JSON"),
        (b'["\\u0041"]', "not canonical"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'["\xff"]', "not UTF-8"),
        (b"", "no JSON"),
        (b"[1", "no JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), "nested"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(content, problem):
    with pytest.raises(EvidenceError, match=problem):
        parse_canonical(content)


def test_large_documents_are_refused_before_they_are_parsed():
    with pytest.raises(EvidenceError, match="11 bytes, more than the 10"):
        parse_canonical(b"[" + b" " * 10, most_bytes=10)


@pytest.mark.parametrize(
    ("value", "look", "problem"),
    [
        (1, lambda value: value.text(), "x is an integer, not text"),
        ("abc", lambda value: value.text(most=2), "3 characters"),
        (True, lambda value: value.integer(), "true or false, not an integer"),
        (7, lambda value: value.integer(0, 6), r"7, not in \[0, 6\]"),
        (1, lambda value: value.boolean(), "not true or false"),
        ("AB" * 32, lambda value: value.hexadecimal(), "lower-case"),
        ("ab" * 31, lambda value: value.hexadecimal(), "64 digits"),
        ("ab" * 32 + "\n", lambda value: value.hexadecimal(), "lower-case"),
        ("abc", lambda value: value.hexadecimal(None), "lower-case"),
        ("٠٠", lambda value: value.hexadecimal(1), "lower-case"),
        ("c", lambda value: value.choice("a", "b"), "'c', not a or b"),
        ({}, lambda value: value.items(most=1), "an object, not an array"),
        ([1, 2], lambda value: value.items(most=1), "2 items, more than 1"),
        ([], lambda value: value.members("a"), "an array, not an object"),
        ({"a": 1, "b": 2}, lambda value: value.members("a"), "nobody knows: 'b'"),
        ({}, lambda value: value.members("a"), "lacks a"),
        ({"a": 1}, lambda value: value.texts(), "x.'a' is an integer"),
        ([{"a": None}], lambda value: next(value.items(most=1)).members("a")[0].text(), r"x\[0\].a is null"),
    ],
)
def test_a_value_that_is_something_else_is_refused_with_its_path(value, look, problem):
    with pytest.raises(EvidenceError, match=problem):
        look(Value(value, "x"))
