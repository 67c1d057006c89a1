import json
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import ANCHORED, PENDING, KeySetSecret, KeySetSpecification, draw_key_set, restore_key_set
from fpvec_audit.domain.witness import COMMITMENT, LEDGER_HEAD, PLAN, WitnessRequest, WitnessStatement
from fpvec_audit.errors import EvidenceError, KeySetError, UsageError
from fpvec_audit.evidence.documents import read_document, write_document
from fpvec_audit.evidence.signing import PublicKey, SigningKey
from fpvec_audit.evidence.witness import prove_chance, sign_statement, verify_statement
from fpvec_audit.services.keys import complete_key_set, issue_key_set, list_key_sets, open_key_set, show_key_set
from fpvec_audit.services.witness import init_witness, issue_with_witness, sign_request, verify_statement_file
from tests.registry.builders import opened

MATERIAL = bytes(range(100, 132))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = KeySetSpecification(issued=4, decoys=12)
SECOND_KEY = SigningKey(bytes(32))


@pytest.fixture
def registry(tmp_path):
    with opened(tmp_path / "registry.db") as registry:
        yield registry


@pytest.fixture
def witness(tmp_path):
    return init_witness(tmp_path / "w", key=lambda: SigningKey(bytes(range(32))))


@pytest.fixture(autouse=True)
def _in_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def commit(registry, witness, name="acme", **options):
    options = {"specification": SMALL, "entropy": lambda count: MATERIAL[:count]} | options
    return issue_with_witness(name, witness.public, registry=registry, **options)


def asked(tmp_path, request, name="request.json"):
    file = tmp_path / name
    write_document(file, request.to_json())
    return file


def sign(witness, request_file, out, *, now=NOW):
    return sign_request(request_file, witness_key=witness.key, out=out, clock=lambda: now)


def history(registry):
    with registry.unit_of_work() as uow:
        return [(entry.event, dict(entry.content)) for entry in uow.ledger.entries()]


def test_witness_gets_a_private_key_a_public_key_and_an_empty_log(witness):
    assert witness.key.stat().st_mode & 0o777 == 0o600
    assert PublicKey.load(witness.public) == SigningKey.load(witness.key).public_key == witness.public_key
    assert witness.log.read_bytes() == b""
    assert set(witness.to_json()) == {"key", "public", "log", "witness", "key_id"}


@pytest.mark.parametrize("file", ["witness.key", "witness.pub", "witness.log"])
def test_witness_is_never_overwritten(tmp_path, file):
    (tmp_path / file).write_text("mine")
    with pytest.raises(EvidenceError, match=f"{file} exists already"):
        init_witness(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("name", ["", ".", "../up", "a/b", "-x", "a b"])
def test_witness_s_name_names_files(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name its files"):
        init_witness(tmp_path, name=name)


def test_statement_says_what_when_and_by_whom(tmp_path, witness):
    request = asked(tmp_path, WitnessRequest(PLAN, "ab" * 32, "acme", 12))
    shown = sign(witness, request, tmp_path / "signed.json").to_json()
    expected = {
        "subject": "plan",
        "digest": "ab" * 32,
        "name": "acme",
        "serial": 1,
        "time": "2026-01-02T03:04:05+00:00",
        "witness": witness.public_key.hex,
        "already": False,
        "warnings": [],
    }
    assert expected.items() <= shown.items()
    signed = verify_statement(read_document(tmp_path / "signed.json"), signer=witness.public_key)
    assert shown["chance"] == signed.chance.hex()
    (line,) = witness.log.read_bytes().splitlines()
    assert json.loads(line)["envelope"] == signed.envelope.to_json()


def test_same_subject_is_signed_once_however_often_and_as_whatever_it_is_asked(tmp_path, witness):
    """Ed25519 is deterministic: a statement at another time would be another draw of R."""
    outs = []
    for number, name in enumerate(("acme", "acme", "luckier")):
        request = asked(tmp_path, WitnessRequest(COMMITMENT, "ab" * 32, name, number + 1), f"{number}.json")
        outs.append(sign(witness, request, tmp_path / f"out{number}", now=NOW + timedelta(days=number)))
    assert [out.already for out in outs] == [False, True, True]
    assert len({(tmp_path / f"out{number}").read_bytes() for number in range(3)}) == 1
    assert len(witness.log.read_bytes().splitlines()) == 1
    assert "called 'acme' then" in " ".join(outs[2].to_json()["warnings"])


def test_subjects_are_signed_apart_and_numbered(tmp_path, witness):
    serials = []
    for subject in (COMMITMENT, PLAN, LEDGER_HEAD):
        request = asked(tmp_path, WitnessRequest(subject, "ab" * 32), f"{subject}.json")
        serials.append(sign(witness, request, tmp_path / f"{subject}.signed").signed.statement.serial)
    assert serials == [1, 2, 3]


def test_statement_is_on_disk_before_it_is_handed_out(tmp_path, witness):
    request = asked(tmp_path, WitnessRequest(COMMITMENT, "ab" * 32))
    (tmp_path / "taken").write_text("something else")
    with pytest.raises(EvidenceError, match="exists already"):
        sign(witness, request, tmp_path / "taken")
    assert len(witness.log.read_bytes().splitlines()) == 1
    again = sign(witness, request, tmp_path / "signed", now=NOW + timedelta(days=1))
    assert again.already
    assert again.signed.statement.time == "2026-01-02T03:04:05+00:00"


def test_requests_at_the_same_time_get_serials_of_their_own(tmp_path, witness):
    files = [asked(tmp_path, WitnessRequest(PLAN, f"{number:064x}"), f"{number}.json") for number in range(8)]
    threads = [
        threading.Thread(target=sign, args=(witness, file, tmp_path / f"{number}.signed"))
        for number, file in enumerate(files)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [verify_statement(read_document(tmp_path / f"{number}.signed")).statement for number in range(8)]
    assert sorted(statement.serial for statement in said) == list(range(1, 9))


def test_key_without_its_log_does_not_sign(tmp_path, witness):
    request = asked(tmp_path, WitnessRequest(COMMITMENT, "ab" * 32))
    sign(witness, request, tmp_path / "signed")
    witness.log.unlink()
    with pytest.raises(EvidenceError, match="is missing") as caught:
        sign(witness, request, tmp_path / "second", now=NOW + timedelta(days=1))
    assert "signed twice" in caught.value.advice
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines[1:], "line 1 .* does not continue"),
        (lambda lines: [lines[0], lines[2]], "line 2 .* does not continue"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 .* does not continue"),
        (lambda lines: [*lines, lines[2]], "line 4 .* does not continue"),
        (lambda lines: [lines[0].replace(b'":"', b'": "', 1), *lines[1:]], "not canonical JSON"),
        (lambda lines: [lines[0].replace(b"witness-log/1", b"witness-log/2"), *lines[1:]], "schema"),
        (lambda lines: [b"", *lines], "JSON"),
        (lambda lines: [*lines[:2], lines[2][:-30]], "JSON"),
    ],
)
def test_log_that_was_altered_stops_the_witness(tmp_path, witness, change, problem):
    for number in range(3):
        file = asked(tmp_path, WitnessRequest(PLAN, f"{number:064x}"), f"{number}.json")
        sign(witness, file, tmp_path / f"{number}.signed")
    witness.log.write_bytes(b"".join(line + b"\n" for line in change(witness.log.read_bytes().splitlines())))
    request = asked(tmp_path, WitnessRequest(PLAN, "ab" * 32))
    with pytest.raises(EvidenceError, match=problem):
        sign(witness, request, tmp_path / "signed")
    assert not (tmp_path / "signed").exists()


def test_unfinished_line_of_the_log_stops_the_witness(tmp_path, witness):
    request = asked(tmp_path, WitnessRequest(PLAN, "ab" * 32))
    witness.log.write_bytes(b'{"envelope"')
    with pytest.raises(EvidenceError, match="line 1\\) is unfinished") as caught:
        sign(witness, request, tmp_path / "signed")
    assert "never handed out" in caught.value.advice


def test_log_of_another_witness_is_refused(tmp_path, witness):
    other = init_witness(tmp_path / "other", key=lambda: SECOND_KEY)
    sign(other, asked(tmp_path, WitnessRequest(PLAN, "ab" * 32)), tmp_path / "signed")
    witness.log.write_bytes(other.log.read_bytes())
    with pytest.raises(EvidenceError, match="another witness's"):
        sign(witness, asked(tmp_path, WitnessRequest(PLAN, "cd" * 32), "second"), tmp_path / "second.signed")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\x00\xff", b'{"schema":"fpvec-audit/witness-request/1"}', b" " * (2 << 20)],
    ids=["empty", "object", "list", "bytes", "bare", "large"],
)
def test_what_is_no_request_is_not_signed(tmp_path, witness, content):
    (tmp_path / "request").write_bytes(content)
    with pytest.raises(EvidenceError):
        sign(witness, tmp_path / "request", tmp_path / "signed")
    assert witness.log.read_bytes() == b""


def test_verify_says_whose_statement_it_is_and_what_is_wrong(tmp_path, witness):
    sign(witness, asked(tmp_path, WitnessRequest(PLAN, "ab" * 32)), tmp_path / "signed")
    SECOND_KEY.public_key.save(tmp_path / "second.pub")
    trusting = verify_statement_file(tmp_path / "signed").to_json()
    assert (trusting["valid"], trusting["signer"]) == (True, "signer not pinned")
    pinned = verify_statement_file(tmp_path / "signed", signer=witness.public).to_json()
    assert (pinned["valid"], pinned["signer"], pinned["digest"]) == (True, "pinned", "ab" * 32)
    wrong = verify_statement_file(tmp_path / "signed", signer=tmp_path / "second.pub").to_json()
    assert not wrong["valid"]
    assert "signed by another key" in wrong["problems"][0]
    (tmp_path / "signed").write_text("hello")
    assert not verify_statement_file(tmp_path / "signed").valid
    with pytest.raises(EvidenceError, match="cannot be read"):
        verify_statement_file(tmp_path / "missing")


def test_committed_set_waits_and_says_what_next(registry, witness):
    shown = commit(registry, witness, owner="Acme").to_json()
    assert (shown["grade"], shown["waits_for"], shown["request"]) == (PENDING, "its witness", "acme.request.json")
    assert "fpvec witness sign acme.request.json" in shown["next"]
    assert shown["chance_source"] == f"witness:{witness.public_key.hex}"
    ((event, content),) = history(registry)
    assert (event, content["commitment"], content["grade"]) == ("key_set.committed", shown["commitment"], PENDING)
    (listed,) = list_key_sets(registry=registry)
    assert listed.to_json()["waits_for"] == "its witness"
    assert show_key_set("acme", registry=registry).to_json()["grade"] == PENDING
    request = WitnessRequest.from_json(read_document(Path(shown["request"])))
    assert request == WitnessRequest(COMMITMENT, shown["commitment"], "acme")


def test_every_use_of_a_waiting_set_is_refused_with_what_to_do(registry, witness):
    record = commit(registry, witness).record
    for use in (
        lambda: open_key_set("acme", registry=registry),
        lambda: show_key_set(record.id, registry=registry, reveal=True),
    ):
        with pytest.raises(KeySetError, match="waits for its witness") as caught:
            use()
        assert "fpvec witness sign" in caught.value.advice
    with pytest.raises(KeySetError, match="waits for"), registry.unit_of_work() as uow:
        uow.key_sets.get("acme")
    assert [event for event, _ in history(registry)] == ["key_set.committed"]


def test_signature_issues_the_set_and_assigns_it(registry, witness, tmp_path):
    committed = commit(registry, witness).record
    signed = sign(witness, tmp_path / "acme.request.json", tmp_path / "signed").signed
    issued = issue_with_witness("acme", tmp_path / "signed", registry=registry, specification=SMALL).record
    assert (issued.grade, issued.chance) == (ANCHORED, signed.chance.hex())
    assert issued.commitment == committed.commitment
    key_set = open_key_set("acme", registry=registry)
    secret = KeySetSecret(MATERIAL)
    assert key_set == restore_key_set(secret, committed.commitment, chance=signed.chance)
    alone = draw_key_set(secret, SMALL, chance_source=committed.commitment.chance_source)
    assert key_set.marks != alone.marks
    events = history(registry)
    assert [event for event, _ in events[:3]] == ["key_set.committed", "secret.revealed", "key_set.issued"]
    content = events[2][1]
    assert content["chance"] == signed.chance.hex()
    assert content["statement"] == signed.envelope.digest
    with registry.unit_of_work() as uow:
        assert uow.ledger.verify() is None
        uow.key_sets.burn(issued.id, [0], where="au-1")
        proof = uow.key_sets.chance_proof(issued.id)
    proven = prove_chance(issued.commitment, proof)
    assert proven.anchored
    assert proven.value == signed.chance


def test_completing_again_changes_nothing_and_another_signature_is_refused(registry, witness, tmp_path):
    record = commit(registry, witness).record
    sign(witness, tmp_path / "acme.request.json", tmp_path / "signed")
    options = {"registry": registry, "specification": SMALL}
    first = issue_with_witness("acme", tmp_path / "signed", **options)
    again = issue_with_witness("acme", tmp_path / "signed", **options)
    assert (first.already, again.already) == (False, True)
    assert first.record == again.record
    unfaithful = WitnessStatement(COMMITMENT, record.commitment.digest, "", 9, NOW.isoformat(), witness.public_key.hex)
    second = sign_statement(unfaithful, SigningKey.load(witness.key)).envelope.to_json()
    write_document(tmp_path / "second", second)
    with pytest.raises(KeySetError, match="issued already, by another proof"):
        issue_with_witness("acme", tmp_path / "second", **options)
    assert sum(event == "key_set.issued" for event, _ in history(registry)) == 1


def test_statement_must_be_the_committed_witness_s_and_about_this_commitment(registry, witness, tmp_path):
    record = commit(registry, witness).record
    key = SigningKey.load(witness.key)

    def statement(signer, **changes):
        fields = {"subject": COMMITMENT, "digest": record.commitment.digest, "name": "", "serial": 1}
        said = WitnessStatement(**fields | {"time": NOW.isoformat(), "witness": signer.public_key.hex} | changes)
        return sign_statement(said, signer).envelope.to_json()

    for envelope in (
        statement(SECOND_KEY),
        statement(key, subject=PLAN),
        statement(key, digest="ab" * 32),
        statement(key) | {"payloadType": "other"},
        statement(key) | {"signatures": statement(SECOND_KEY)["signatures"]},
    ):
        (tmp_path / "envelope").write_bytes(canonical_bytes(envelope))
        with pytest.raises(EvidenceError):
            issue_with_witness("acme", tmp_path / "envelope", registry=registry, specification=SMALL)
    assert list_key_sets(registry=registry)[0].record.grade == PENDING


def test_committing_again_writes_the_request_again(registry, witness, tmp_path):
    first = commit(registry, witness).record
    (tmp_path / "acme.request.json").unlink()
    again = commit(registry, witness, entropy=lambda _: pytest.fail("no secret may be drawn"))
    assert again.already
    assert again.record == first
    assert (tmp_path / "acme.request.json").exists()


def test_name_stays_with_its_source_of_chance(registry, witness, tmp_path):
    commit(registry, witness)
    SECOND_KEY.public_key.save(tmp_path / "second.pub")
    with pytest.raises(UsageError, match="was committed to witness:"):
        issue_with_witness("acme", tmp_path / "second.pub", registry=registry, specification=SMALL)
    issue_key_set("alone", registry=registry, specification=SMALL)
    with pytest.raises(UsageError, match="exists already"):
        commit(registry, witness, name="alone")


def test_set_without_a_source_of_chance_takes_none(registry, witness, tmp_path):
    issue_key_set("alone", registry=registry, specification=SMALL)
    proof = {"source": f"witness:{witness.public_key.hex}", "envelope": {}}
    with pytest.raises(EvidenceError, match="without a source of chance"):
        complete_key_set("alone", registry=registry, proof=proof)
    with registry.unit_of_work() as uow:
        assert uow.key_sets.chance_proof(uow.key_sets.get("alone").id) is None


def test_request_of_a_strange_name_lies_here_and_can_be_signed(registry, witness, tmp_path):
    issued = commit(registry, witness, name="../Zoë \u200d/x")
    assert re.fullmatch(r"[\w.-]+", issued.request)
    sign(witness, tmp_path / issued.request, tmp_path / "signed")


def test_request_goes_where_it_is_wanted_and_overwrites_nothing(registry, witness, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(EvidenceError, match="exists already"):
        commit(registry, witness, request_file=tmp_path / "taken")
    assert commit(registry, witness, request_file=tmp_path / "wanted").request == str(tmp_path / "wanted")
    assert (tmp_path / "taken").read_text() == "mine"


def test_broken_disk_hands_nothing_out(tmp_path, witness, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    request = asked(tmp_path, WitnessRequest(PLAN, "ab" * 32))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvidenceError, match="log of this witness cannot be written"):
        sign(witness, request, tmp_path / "signed")
    assert not (tmp_path / "signed").exists()
