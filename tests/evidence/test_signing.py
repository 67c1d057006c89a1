import base64
import copy
import os
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence import documents, signing
from fpvec_audit.evidence.signing import Envelope, PublicKey, SigningKey, sign_document, signed_bytes, verify_envelope

SEED = bytes(range(32))
KIND = "application/vnd.fpvec-audit.test+json"
DOCUMENT = {"schema": "test/1", "digest": "ab" * 32, "serial": 7, "name": "Zoë"}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@pytest.fixture
def key():
    return SigningKey(SEED)


@pytest.fixture
def envelope(key):
    return sign_document(KIND, DOCUMENT, key).to_json()


def signed(value):
    return value["signatures"][0]


# RFC 8032 §7.1, tests 1 and 2
@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_signatures_are_those_of_the_standard(seed, public, message, signature):
    key = SigningKey(bytes.fromhex(seed))
    assert key.public_key.hex == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public_key.verifies(bytes.fromhex(signature), bytes.fromhex(message))


def test_signed_bytes_are_those_of_dsse():
    assert signed_bytes("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@settings(deadline=None, max_examples=60)  # a busy machine is no defect
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
            max_leaves=8,
        ),
    )
)
def test_signed_document_comes_back(document):
    key = SigningKey(SEED)
    value = sign_document(KIND, document, key).to_json()
    assert verify_envelope(value, key.public_key, KIND) == document
    assert documents.parse_document(canonical_bytes(value)) == value


def test_same_document_always_gets_the_same_signature(key, envelope):
    assert sign_document(KIND, dict(reversed(DOCUMENT.items())), key).to_json() == envelope


def test_every_changed_byte_of_the_file_is_noticed(key, envelope):
    content = canonical_bytes(envelope)
    for place in range(len(content)):
        for bit in (1, 2, 0x20):
            altered = bytearray(content)
            altered[place] ^= bit
            with pytest.raises(EvidenceError):
                verify_envelope(documents.parse_document(bytes(altered)), key.public_key, KIND)


def test_unused_bits_of_base64_may_not_hide_another_spelling(key, envelope):
    text = signed(envelope)["sig"]
    assert text.endswith("==")
    spelled = text[:-3] + ALPHABET[ALPHABET.index(text[-3]) + 1] + "=="
    assert base64.b64decode(spelled) == base64.b64decode(text)
    signed(envelope)["sig"] = spelled
    with pytest.raises(EvidenceError, match="canonical form"):
        verify_envelope(envelope, key.public_key, KIND)


@pytest.mark.parametrize("text", ["", "A", "AAAA\n", " AAAA", "AA-_", "AAA", "ÄÖÜ=", "=AAA"])
def test_what_is_not_strict_base64_is_refused(key, envelope, text):
    for change in ({"payload": text}, {"signatures": [signed(envelope) | {"sig": text}]}):
        with pytest.raises(EvidenceError):
            verify_envelope(envelope | change, key.public_key, KIND)


def test_structure_must_be_exactly_that_of_one_signature(key, envelope):
    one = signed(envelope)
    for wrong in (
        envelope | {"extra": 1},
        {name: value for name, value in envelope.items() if name != "payloadType"},
        envelope | {"signatures": []},
        envelope | {"signatures": [one, one]},
        envelope | {"signatures": one},
        envelope | {"signatures": [one | {"cert": ""}]},
        envelope | {"signatures": [{"sig": one["sig"]}]},
        envelope | {"signatures": [one | {"keyid": one["keyid"].upper()}]},
        envelope | {"signatures": [one | {"keyid": None}]},
        envelope | {"signatures": ["x"]},
        envelope | {"payload": 7},
        [],
        None,
        "x",
    ):
        with pytest.raises(EvidenceError):
            verify_envelope(wrong, key.public_key, KIND)


def test_another_key_or_key_id_is_refused(key, envelope):
    other = SigningKey(bytes(32))
    with pytest.raises(EvidenceError, match="signed by another key"):
        verify_envelope(envelope, other.public_key, KIND)
    signed(envelope)["keyid"] = other.public_key.key_id
    with pytest.raises(EvidenceError, match="signed by another key"):
        verify_envelope(envelope, key.public_key, KIND)
    with pytest.raises(EvidenceError, match="altered"):
        verify_envelope(envelope, other.public_key, KIND)


def test_another_kind_of_document_is_refused(key, envelope):
    with pytest.raises(EvidenceError, match="not 'other'"):
        verify_envelope(envelope, key.public_key, "other")
    with pytest.raises(EvidenceError, match="altered"):
        verify_envelope(envelope | {"payloadType": "other"}, key.public_key, "other")


@pytest.mark.parametrize(
    "payload", [b'{"a": 1}', b'{"a":1,"a":1}', b'{"b":1,"a":1}', b'{"a":1.0}', b'{"a":NaN}', b"[1]", b"{", b"", b"\xff"]
)
def test_payload_in_another_form_is_refused_although_its_signature_fits(key, payload):
    signature = key.sign(signed_bytes(KIND, payload))
    value = Envelope(KIND, payload, key.public_key.key_id, signature).to_json()
    with pytest.raises(EvidenceError, match="payload"):
        verify_envelope(value, key.public_key, KIND)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":"\\ud800"}',
        b'{"a":"\\u00e9"}',
        b'{"a":-0}',
        b'{"a":1e2}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":1}\n',
        b"\xef\xbb\xbf{}",
    ],
)
def test_document_with_two_spellings_is_refused(content):
    with pytest.raises(EvidenceError):
        documents.parse_document(content)


def test_malleable_signature_is_refused(key):
    """RFC 8032 §5.1.7: S must be below the group's order, or one signature could be written in two ways."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = key.sign(b"message")
    second = int.from_bytes(signature[32:], "little") + order
    assert not key.public_key.verifies(signature[:32] + second.to_bytes(32, "little"), b"message")


def test_keys_that_verify_every_message_are_refused():
    identity = bytes([1]) + bytes(31)
    for sign in (0, 0x80):
        for coordinate in (*signing._SMALL_ORDER, 2**255 - 19, 2**255 - 18):
            raw = bytearray(coordinate.to_bytes(32, "little"))
            raw[31] |= sign
            with pytest.raises(EvidenceError, match="tell one signer"):
                PublicKey(bytes(raw))
    assert identity in {coordinate.to_bytes(32, "little") for coordinate in signing._SMALL_ORDER}


def test_small_order_coordinates_are_those_of_the_curve():
    prime = 2**255 - 19
    curve = -121665 * pow(121666, -1, prime) % prime

    def doubled(point):
        x, y = point
        product = curve * x * x * y * y % prime
        return (
            2 * x * y * pow(1 + product, -1, prime) % prime,
            (y * y + x * x) * pow(1 - product, -1, prime) % prime,
        )

    y = signing._ORDER_EIGHT
    square = (y * y - 1) * pow(curve * y * y + 1, -1, prime) % prime
    x = pow(square, (prime + 3) // 8, prime)
    x = x if x * x % prime == square else x * pow(2, (prime - 1) // 4, prime) % prime
    assert x * x % prime == square
    points = [(x, y)]
    for _ in range(3):
        points.append(doubled(points[-1]))
    assert points[-1] == (0, 1)
    assert {point[1] for point in points} <= signing._SMALL_ORDER


def test_key_files_come_back(key, tmp_path):
    key.save(tmp_path / "w.key")
    key.public_key.save(tmp_path / "w.pub")
    assert SigningKey.load(tmp_path / "w.key").public_key == key.public_key
    assert PublicKey.load(tmp_path / "w.pub") == key.public_key
    (tmp_path / "hex").write_text(key.public_key.hex + "\n")
    assert PublicKey.load(tmp_path / "hex") == key.public_key
    assert (tmp_path / "w.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")


def test_private_key_file_is_for_its_owner_alone(key, tmp_path):
    before = os.umask(0)
    try:
        key.save(tmp_path / "w.key")
    finally:
        os.umask(before)
    assert (tmp_path / "w.key").stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604, 0o620):
        (tmp_path / "w.key").chmod(mode)
        with pytest.raises(EvidenceError, match="can be read by others") as caught:
            SigningKey.load(tmp_path / "w.key")
        assert "chmod 600" in caught.value.advice


def test_existing_files_are_never_overwritten(key, tmp_path):
    (tmp_path / "old").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for save in (key.save, key.public_key.save):
        for name in ("old", "link"):
            with pytest.raises(EvidenceError, match="exists already"):
                save(tmp_path / name)
    assert (tmp_path / "old").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(EvidenceError, match="cannot be written"):
        key.save(tmp_path / "no" / "such" / "directory")


def test_same_document_may_be_written_again(tmp_path):
    documents.write_document(tmp_path / "d", DOCUMENT)
    documents.write_document(tmp_path / "d", DOCUMENT)
    assert documents.read_document(tmp_path / "d") == DOCUMENT
    with pytest.raises(EvidenceError, match="exists already"):
        documents.write_document(tmp_path / "d", DOCUMENT | {"serial": 8})


def test_private_document_is_not_taken_for_written_where_others_can_read_it(tmp_path):
    for _ in range(2):
        documents.write_document(tmp_path / "d", DOCUMENT, mode=documents.PRIVATE_MODE)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o600
    (tmp_path / "d").chmod(0o644)
    with pytest.raises(EvidenceError, match="can be read by others"):
        documents.write_document(tmp_path / "d", DOCUMENT, mode=documents.PRIVATE_MODE)


def test_unusable_key_files_are_refused_and_named(key, tmp_path):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    encrypted = serialization.BestAvailableEncryption(b"x")
    files = {
        "empty": b"",
        "text": b"hello",
        "torn": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "encrypted": Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(*form, encrypted),
        "other": Ed448PrivateKey.generate().private_bytes(*form, serialization.NoEncryption()),
        "large": b"A" * 5000,
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o600)
        for load in (SigningKey.load, PublicKey.load):
            with pytest.raises(EvidenceError, match=name):
                load(path)
    key.save(tmp_path / "w.key")
    with pytest.raises(EvidenceError, match="private key, not a public one"):
        PublicKey.load(tmp_path / "w.key")
    for load in (SigningKey.load, PublicKey.load):
        with pytest.raises(EvidenceError, match="cannot be read"):
            load(tmp_path / "missing")
        with pytest.raises(EvidenceError, match=r"regular file|cannot be read"):
            load(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(EvidenceError, match="regular file"):
        SigningKey.load(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33, " " + "ab" * 32, "ab" * 32 + "\n"])
def test_hexadecimal_keys_have_one_spelling(text):
    with pytest.raises(EvidenceError):
        PublicKey.from_hex(text)


def test_private_keys_neither_show_nor_travel(key):
    assert SEED.hex() not in repr(key)
    assert "redacted" in repr(key)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            leave(key)


def test_generated_keys_differ_unless_the_entropy_does_not():
    assert SigningKey.generate().public_key != SigningKey.generate().public_key
    assert SigningKey.generate(lambda count: SEED[:count]).public_key == SigningKey(SEED).public_key
    with pytest.raises(EvidenceError, match="32 bytes"):
        SigningKey(bytes(31))
