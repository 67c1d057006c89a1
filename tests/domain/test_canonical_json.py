import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


def test_keys_are_sorted_by_code_point_without_white_space_or_escapes():
    assert canonical_bytes({"b": [1, True, None], "ä": "ß", "a": {}}) == '{"a":{},"b":[1,true,null],"ä":"ß"}'.encode()


@given(VALUES)
def test_value_comes_back_and_has_one_representation(value):
    content = canonical_bytes(value)
    assert json.loads(content) == value
    assert canonical_bytes(json.loads(content)) == content


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_order_of_insertion_changes_nothing(value):
    assert canonical_digest(dict(reversed(value.items()))) == canonical_digest(value)


@pytest.mark.parametrize("value", [1.0, [1.5], {"a": {"b": [0.1]}}, float("nan"), (2.0,)])
def test_floats_are_refused_wherever_they_hide(value):
    with pytest.raises(TypeError, match="no floats"):
        canonical_bytes(value)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {None: 1}}])
def test_keys_that_are_no_text_are_refused(value):
    with pytest.raises(TypeError, match="keys are strings"):
        canonical_bytes(value)


@pytest.mark.parametrize("value", [b"bytes", {"a": object()}, {1, 2}])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(TypeError):
        canonical_bytes(value)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UnicodeEncodeError):
        canonical_bytes("\udcff")


def test_digest_is_sha256_in_lower_case():
    assert canonical_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
