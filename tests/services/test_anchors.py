"""What is published of a history shows that it was cut or written anew, whoever owns the database."""

import json
from itertools import islice

import pytest

from fpvec_audit.errors import EvidenceError, RegistryError
from fpvec_audit.evidence.signing import SigningKey
from fpvec_audit.services.anchors import publish_anchor
from fpvec_audit.services.history import accept_clock, chosen_entries, follow_ledger
from fpvec_audit.services.verification import verify_registry
from fpvec_audit.services.witness import init_witness, sign_request
from tests.registry.builders import fill, model_record, opened_at
from tests.registry.conftest import url  # noqa: F401 - both databases
from tests.registry.tampering import tamper

KEY = SigningKey(b"\x07" * 32)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "registry.db"


@pytest.fixture
def registry(url, file):  # noqa: F811
    with opened_at(url, key_file=file.parent / "vault.key") as registry:
        fill(registry)
        yield registry


def more(registry, name="late", digit="c"):
    with registry.unit_of_work() as uow:
        return uow.models.add(model_record(name, digit=digit))


def cut_tail(registry, serial, *statements):
    """Take the newest entries away together with the rows that they tell of."""
    tamper(registry, f"DELETE FROM ledger WHERE serial > {serial}", *statements)


def test_history_that_only_grew_holds_its_anchor(registry, tmp_path):
    published = publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json")
    more(registry)
    verified = verify_registry(registry=registry, anchors=[tmp_path / "a.json"], signer=KEY.public_key.hex)
    assert (verified.valid, verified.problems, verified.notes) == (True, (), ())
    assert verified.to_json()["anchors"][0]["serial"] == published.anchor.serial == verified.entries - 1


def test_anchor_without_a_pinned_signer_is_noted(registry, tmp_path):
    publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json")
    verified = verify_registry(registry=registry, anchors=[tmp_path / "a.json"])
    assert verified.valid
    assert "--signer" in verified.notes[0]


def test_tail_cut_with_its_rows_shows_with_an_anchor_only(registry, tmp_path):
    before = verify_registry(registry=registry).entries
    more(registry)
    publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json")
    cut_tail(registry, before, "DELETE FROM model WHERE name = 'late'")
    assert verify_registry(registry=registry).valid
    verified = verify_registry(registry=registry, anchors=[tmp_path / "a.json"], signer=KEY.public_key.hex)
    assert not verified.valid
    assert f"the ledger ends with entry {before}, but had entry {before + 1}" in verified.problems[0]


def test_history_written_anew_after_a_cut_shows(registry, tmp_path):
    before = verify_registry(registry=registry).entries
    more(registry)
    publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json")
    cut_tail(registry, before, "DELETE FROM model WHERE name = 'late'")
    more(registry, "other", "d")
    more(registry, "another", "e")
    assert verify_registry(registry=registry).valid
    verified = verify_registry(registry=registry, anchors=[tmp_path / "a.json"])
    assert f"ledger entry {before + 1} is not the one that was anchored" in verified.problems[0]


def test_witness_signs_a_head_and_its_word_is_an_anchor(registry, tmp_path):
    witness = init_witness(tmp_path / "witness")
    publish_anchor(registry=registry, key=KEY, request=tmp_path / "r.json")
    signed = sign_request(tmp_path / "r.json", witness_key=witness.key, out=tmp_path / "w.json")
    assert signed.signed.statement.subject == "ledger-head"
    more(registry)
    verified = verify_registry(registry=registry, anchors=[tmp_path / "w.json"], signer=str(witness.public))
    assert verified.valid
    assert verified.anchors[0].serial == verified.entries - 1
    cut_tail(registry, verified.entries - 2, "DELETE FROM attack_run")
    verified = verify_registry(registry=registry, anchors=[tmp_path / "w.json"], signer=str(witness.public))
    assert any("no entry of the ledger has the digest" in problem for problem in verified.problems)


def rename(registry, identifier="f" * 32):
    tamper(registry, f"UPDATE registry_fact SET value = '{identifier}' WHERE name = 'id'")


@pytest.mark.parametrize("kind", ["owner", "witness"])
def test_anchor_of_another_registry_is_refused_with_both_ids(registry, tmp_path, kind):
    published = publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json", request=tmp_path / "r.json")
    witness = init_witness(tmp_path / "witness")
    sign_request(tmp_path / "r.json", witness_key=witness.key, out=tmp_path / "w.json")
    rename(registry)
    with pytest.raises(EvidenceError) as caught:
        verify_registry(registry=registry, anchors=[tmp_path / ("a.json" if kind == "owner" else "w.json")])
    assert published.anchor.registry in caught.value.problem
    assert "f" * 32 in caught.value.problem
    assert caught.value.exit_code == 4


def altered(registry, tmp_path):
    publish_anchor(registry=registry, key=KEY, out=tmp_path / "a.json")
    value = json.loads((tmp_path / "a.json").read_bytes())
    value["signatures"][0]["sig"] = "A" * 86 + "=="
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signed_otherwise(registry, tmp_path):
    publish_anchor(registry=registry, key=SigningKey(b"\x08" * 32), out=tmp_path / "a.json")
    return (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda *_: b"", "not JSON|no JSON|ends"),
        (lambda *_: b"\xff\xfe", "UTF-8|JSON"),
        (lambda *_: b"{}", "lacks"),
        (lambda *_: b"[]", "not a JSON object"),
        (altered, "signature does not fit"),
        (signed_otherwise, "another key"),
    ],
)
def test_bad_anchor_is_refused_by_name(registry, tmp_path, make, problem):
    bad = tmp_path / "bad.json"
    bad.write_bytes(make(registry, tmp_path))
    with pytest.raises(EvidenceError, match=problem) as caught:
        verify_registry(registry=registry, anchors=[bad], signer=KEY.public_key.hex)
    assert "bad.json" in caught.value.problem
    assert caught.value.advice


def test_missing_anchor_is_refused(registry, tmp_path):
    with pytest.raises(EvidenceError, match=r"gone\.json cannot be read"):
        verify_registry(registry=registry, anchors=[tmp_path / "gone.json"])


def test_empty_history_cannot_be_anchored(tmp_path):
    with (
        opened_at(f"sqlite:///{tmp_path}/r.db", key_file=tmp_path / "vault.key") as empty,
        pytest.raises(RegistryError, match="no history yet"),
    ):
        publish_anchor(registry=empty, key=KEY)


def test_following_tells_of_entries_as_others_write_them(registry):
    with registry.snapshot() as uow:
        last = uow.ledger.head().serial
    names = iter("abc")
    lines = follow_ledger(
        registry=registry,
        limit=2,
        chosen=chosen_entries(events=["model"]),
        wait=lambda: more(registry, name := next(names), {"a": "1", "b": "2", "c": "3"}[name]),
    )
    found = list(islice(lines, 5))
    assert [entry["subject"] for entry in found[2:]] == ["1" * 64, "2" * 64, "3" * 64]
    assert [entry["serial"] for entry in found[2:]] == [last + 1, last + 2, last + 3]


def test_accepting_the_clock_is_needed_only_where_it_is_behind(registry):
    assert accept_clock(registry=registry) == {"accepted": False, "entry": None}
