import hashlib
import json
import re
import socket
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fpvec_audit.domain.beacon import DEFAULT_CHAIN, QUICKNET, BeaconRound
from fpvec_audit.domain.keys import PENDING, SELF_ATTESTED, KeySetSpecification, restore_key_set
from fpvec_audit.errors import EvidenceError, KeySetError, UsageError
from fpvec_audit.evidence.signing import SigningKey
from fpvec_audit.evidence.witness import prove_chance
from fpvec_audit.services.beacon import from_file, from_relay, issue_with_beacon
from fpvec_audit.services.keys import list_key_sets, open_key_set
from fpvec_audit.services.witness import init_witness, issue_with_witness, sign_request, write_request
from tests.registry.builders import START, opened

SMALL = KeySetSpecification(issued=4, decoys=12)
ROUND = QUICKNET.round_at(START) + 1000
DUE = QUICKNET.time_of(ROUND)


class Time:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


class Relay:
    """A relay on this machine that answers as it is told, and remembers what it was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                relay.asked.append(self.path)
                status, content = relay.answers.get(self.path, (404, b"not found"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def publish(self, value, *, status=200, number=ROUND, chain=QUICKNET):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[f"/{chain.hash}/public/{number}"] = (status, content)

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def published(number=ROUND, chain=QUICKNET, filling=b"\x07"):
    signature = filling * chain.signature_bytes
    return {"round": number, "randomness": hashlib.sha256(signature).hexdigest(), "signature": signature.hex()}


@pytest.fixture(autouse=True)
def _in_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def registry(tmp_path, time):
    with opened(tmp_path / "registry.db", clock=time) as registry:
        yield registry


@pytest.fixture
def relay():
    relay = Relay()
    yield relay
    relay.close()


@pytest.fixture
def issue(registry, relay):
    def issue(name="acme", number=ROUND, **options):
        options = {"specification": SMALL, "fetch": from_relay(relay.url)} | options
        return issue_with_beacon(name, number, registry=registry, **options)

    return issue


def test_set_waits_for_its_round_and_is_issued_by_it(registry, relay, issue, time):
    committed = issue()
    shown = committed.to_json()
    assert (shown["grade"], shown["waits_for"]) == (PENDING, "its beacon")
    assert shown["chance_source"] == f"drand:{QUICKNET.hash}:{ROUND}"
    assert DUE.isoformat() in shown["next"]
    assert relay.asked == []

    time.now = DUE
    relay.publish(published())
    issued = issue()
    assert relay.asked == [f"/{QUICKNET.hash}/public/{ROUND}"]
    assert issued.record.commitment == committed.record.commitment
    assert issued.record.chance == published()["randomness"]
    assert "not verified" in " ".join(issued.warnings)
    key_set = open_key_set("acme", registry=registry)
    with registry.unit_of_work() as uow:
        secret, proof = uow.vault.reveal(issued.record.id), uow.key_sets.chance_proof(issued.record.id)
    chance = bytes.fromhex(published()["randomness"])
    assert key_set == restore_key_set(secret, committed.record.commitment, chance=chance)
    assert prove_chance(issued.record.commitment, proof).value == chance
    again = issue()
    assert again.already
    assert again.record == issued.record
    assert len(relay.asked) == 1


def test_beacon_does_not_anchor(registry, issue, relay, time):
    """Whoever set the clock back, or forged the round, would have had the same files."""
    issue()
    time.now = DUE
    relay.publish(published())
    issued = issue()
    assert issued.record.grade == SELF_ATTESTED
    assert any("stays self-attested" in warning for warning in issued.warnings)
    with registry.unit_of_work() as uow:
        proof = uow.key_sets.chance_proof(issued.record.id)
    assert not prove_chance(issued.record.commitment, proof).anchored


@pytest.mark.parametrize(
    "change",
    [
        {"beacon": None},
        {"envelope": {}},
        {"source": f"drand:{QUICKNET.hash}:{ROUND + 1}"},
        {"beacon": BeaconRound.published(QUICKNET, published(ROUND + 1)).to_json()},
        {"beacon": BeaconRound.published(QUICKNET, published()).to_json() | {"randomness": "00" * 32}},
    ],
)
def test_proof_of_another_round_is_refused(issue, change):
    commitment = issue().record.commitment
    proof = {"source": commitment.chance_source, "beacon": BeaconRound.published(QUICKNET, published()).to_json()}
    assert prove_chance(commitment, proof).value.hex() == published()["randomness"]
    for wrong in (proof | change, None, {"source": commitment.chance_source}):
        with pytest.raises(EvidenceError):
            prove_chance(commitment, wrong)


@pytest.mark.parametrize("early", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_round_that_was_published_decides_nothing_any_more(registry, issue, time, early):
    time.now = DUE + early
    with pytest.raises(KeySetError, match="decides nothing any more") as caught:
        issue()
    advised = int(re.search(r"such as (\d+)", caught.value.advice)[1])
    assert QUICKNET.time_of(advised) > time.now
    assert list_key_sets(registry=registry) == ()


def test_too_early_says_how_long_to_wait(issue, relay, time):
    issue()
    time.now = DUE - timedelta(days=1, hours=2, seconds=4, milliseconds=500)
    with pytest.raises(KeySetError, match=re.escape("in 1 d 2 h 5 s")) as caught:
        issue()
    assert caught.value.exit_code == 4
    assert relay.asked == []


def test_use_before_the_round_says_when_it_is_due(registry, issue):
    issue()
    with pytest.raises(
        KeySetError, match=re.escape(f"round {ROUND} of the beacon, due at {DUE.isoformat()}")
    ) as caught:
        open_key_set("acme", registry=registry)
    assert f"--beacon {ROUND}" in caught.value.advice


@pytest.mark.parametrize(
    ("answer", "status", "problem"),
    [
        (b"<html>", 200, "not the JSON"),
        (b"[1]", 200, "not the JSON"),
        (b"{", 200, "not the JSON"),
        (b" " * 100_000, 200, "more than"),
        ({}, 200, "names no round"),
        (published(ROUND + 1), 200, f"holds round {ROUND + 1}"),
        (published() | {"randomness": "00" * 32}, 200, "contradicts itself"),
        (published(chain=DEFAULT_CHAIN), 200, "no signature of the quicknet chain's form"),
        (b"", 404, "does not have this round yet"),
        (b"", 425, "does not have this round yet"),
        (b"", 500, "status 500"),
        (b"", 302, "status 302"),
    ],
)
def test_relay_that_answers_wrongly_leaves_the_set_waiting(registry, issue, relay, time, answer, status, problem):
    issue()
    time.now = DUE
    relay.publish(answer, status=status)
    with pytest.raises(EvidenceError, match=problem):
        issue()
    assert list_key_sets(registry=registry)[0].record.grade == PENDING
    relay.publish(published())
    assert issue().record.chance


def test_relay_that_is_away_is_named(issue, time):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        issue()
        time.now = DUE
        with pytest.raises(EvidenceError, match=f"{re.escape(url)}.*cannot be reached") as caught:
            issue(fetch=from_relay(url))
    assert "--beacon-file" in caught.value.advice


@pytest.mark.parametrize(
    "url", ["http://relay.example", "ftp://127.0.0.1", "relay", "", "https://", "http://[", "file:///x"]
)
def test_relay_that_nothing_protects_is_refused(url):
    with pytest.raises(UsageError, match="no relay to be relied on"):
        from_relay(url)


def test_round_may_come_from_a_file(issue, time, tmp_path):
    issue()
    time.now = DUE
    (tmp_path / "round.json").write_text(json.dumps(published() | {"previous_signature": None}, indent=2))
    assert issue(fetch=from_file(tmp_path / "round.json")).record.chance == published()["randomness"]


def test_other_network_is_another_source(issue, relay, time):
    number = DEFAULT_CHAIN.round_at(START) + 10
    issue(number=number, chain=DEFAULT_CHAIN)
    with pytest.raises(UsageError, match="was committed to drand:"):
        issue(number=ROUND)
    time.now = DEFAULT_CHAIN.time_of(number)
    relay.publish(published(number, DEFAULT_CHAIN), number=number, chain=DEFAULT_CHAIN)
    assert issue(number=number, chain=DEFAULT_CHAIN).record.chance


@pytest.mark.parametrize("number", [0, -1, 2**32 + 1])
def test_rounds_that_will_never_be_are_refused(issue, number):
    with pytest.raises(UsageError, match="has no round"):
        issue(number=number)


def test_witness_does_not_issue_a_set_that_waits_for_a_round(registry, issue, tmp_path):
    record = issue().record
    witness = init_witness(tmp_path / "w", key=lambda: SigningKey(bytes(32)))
    write_request(record, tmp_path / "request")
    sign_request(tmp_path / "request", witness_key=witness.key, out=tmp_path / "signed", clock=lambda: START)
    with pytest.raises(EvidenceError, match="had to come from drand"):
        issue_with_witness("acme", tmp_path / "signed", registry=registry, specification=SMALL)
