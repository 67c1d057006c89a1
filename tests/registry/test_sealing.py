"""The law of sealed values: what is sealed for a place opens there, unchanged, with that key – and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpvec_audit.registry.sealing import NONCE_BYTES, TAG_BYTES, sealed, unsealed

KEYS = st.binary(min_size=32, max_size=32)
SECRETS = st.binary(max_size=200)
PLACES = st.lists(st.text(max_size=8) | st.integers(-(2**31), 2**31), max_size=4)


@given(KEYS, SECRETS, PLACES)
def test_what_is_sealed_opens_at_its_place(key, secret, place):
    value = sealed(key, secret, place)
    assert unsealed(key, value, place) == secret
    assert len(value) == NONCE_BYTES + len(secret) + TAG_BYTES
    assert len(secret) < 4 or secret not in value


@given(KEYS, SECRETS, PLACES, PLACES)
def test_it_opens_at_no_other_place(key, secret, place, other):
    value = sealed(key, secret, place)
    if place != other:
        with pytest.raises(ValueError, match="another row"):
            unsealed(key, value, other)


@given(KEYS, KEYS, SECRETS)
def test_it_opens_with_no_other_key(key, other, secret):
    if key != other:
        with pytest.raises(ValueError, match="another key"):
            unsealed(other, sealed(key, secret, ("t", 1)), ("t", 1))


@given(SECRETS, st.data())
def test_any_changed_bit_and_any_cut_is_noticed(secret, data):
    key, place = bytes(range(32)), ("audit_record", "au-1", 1)
    value = bytearray(sealed(key, secret, place))
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    length = data.draw(st.integers(0, len(value) - 1))
    with pytest.raises(ValueError, match="it "):
        unsealed(key, bytes(value[:length]), place)
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="changed"):
        unsealed(key, bytes(value), place)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_places_that_differ_are_told_apart_however_they_are_divided(one, other):
    """("a", "bc") is not ("ab", "c"), and 1 is not "1"."""
    value = sealed(bytes(32), b"secret", one)
    if one == other:
        assert unsealed(bytes(32), value, other) == b"secret"
    else:
        with pytest.raises(ValueError, match="another row"):
            unsealed(bytes(32), value, other)


def test_equal_secrets_look_different_each_time():
    values = {sealed(bytes(32), b"secret", ("t", 1)) for _ in range(50)}
    assert len({value[:NONCE_BYTES] for value in values}) == len({value[NONCE_BYTES:] for value in values}) == 50
