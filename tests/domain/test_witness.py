import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fpvec_audit.domain.beacon import (
    CHAINS,
    DEFAULT_CHAIN,
    MOST_ROUND,
    QUICKNET,
    BeaconRound,
    beacon_caveat,
    chain_named,
    public_address,
)
from fpvec_audit.domain.witness import (
    COMMITMENT,
    FIRST_PREVIOUS,
    PLAN,
    BeaconSource,
    WitnessLogEntry,
    WitnessRequest,
    WitnessSource,
    WitnessStatement,
    chance_of,
    chance_source,
    first_misfit,
    next_statement,
    printable,
    signed_before,
)
from fpvec_audit.errors import EvidenceError, UsageError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
DIGEST, OTHER, WITNESS = "ab" * 32, "cd" * 32, "12" * 32
STATEMENT = WitnessStatement(COMMITMENT, DIGEST, "acme", 7, "2026-01-02T03:04:05+00:00", WITNESS)

# Round 1 of the League of Entropy's default chain, as it was published.
FIRST_ROUND = {
    "round": 1,
    "randomness": "101297f1ca7dc44ef6088d94ad5fb7ba03455dc33d53ddb412bbc4564ed986ec",
    "signature": "8d61d9100567de44682506aea1a7a6fa6e5491cd27a0a0ed349ef6910ac5ac20ff7bc3e09d7c046566c9f7f3c6f3b101"
    "04990e7cb424998203d8f7de586fb7fa5f60045417a432684f85093b06ca91c769f0e7ca19268375e659c2a2352b4655",
    "previous_signature": "176f93498eac9ca337150b46d21dd58673ea4e3581185f869672e59fa4cb390a",
}


def entries(*subjects, witness=WITNESS):
    """A log as a witness would keep it, with envelopes that nobody signed."""
    log = []
    for number, (subject, digest) in enumerate(subjects):
        now = NOW + timedelta(minutes=number)
        said = next_statement(log, WitnessRequest(subject, digest), witness=witness, now=now)
        log.append(WitnessLogEntry(log[-1].digest if log else FIRST_PREVIOUS, said, {"payload": said.to_json()}))
    return log


def test_requests_and_statements_come_back():
    for request in (WitnessRequest(PLAN, DIGEST, "Zoë"), WitnessRequest("ledger-head", DIGEST, "", 12)):
        assert WitnessRequest.from_json(request.to_json()) == request
    assert WitnessStatement.from_json(STATEMENT.to_json()) == STATEMENT
    assert STATEMENT.moment == NOW.replace(microsecond=0)


@pytest.mark.parametrize("document", [STATEMENT, WitnessRequest(COMMITMENT, DIGEST, "acme", 3)], ids=["said", "asked"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "other/1"),
        ("subject", "weather"),
        ("digest", DIGEST.upper()),
        ("digest", DIGEST[1:]),
        ("digest", None),
        ("name", 7),
        ("name", "a\nb"),
        ("name", "a\x1b[2Jb"),
        ("name", "a\u202eb"),
        ("name", "x" * 201),
        ("serial", 0),
        ("serial", "1"),
        ("serial", True),
        ("serial", 2**53),
        ("extra", ""),
    ],
)
def test_what_nobody_should_sign_is_refused(document, field, value):
    with pytest.raises(EvidenceError):
        type(document).from_json(document.to_json() | {field: value})


def test_missing_fields_are_named():
    for document in (STATEMENT, WitnessRequest(COMMITMENT, DIGEST, "acme")):
        for name in document.to_json().keys() - {"schema"}:
            value = {field: item for field, item in document.to_json().items() if field != name}
            with pytest.raises(EvidenceError, match=f"lacks '{name}'"):
                type(document).from_json(value)
        for nothing in (None, [], "x"):
            with pytest.raises(EvidenceError, match="this is no witness"):
                type(document).from_json(nothing)


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05+02:00",
        "2026-01-02 03:04:05+00:00",
        "2026-01-02T03:04:05.000001+00:00",
        "20260102T030405+0000",
        "2026-13-02T03:04:05+00:00",
        "",
        0,
    ],
)
def test_time_has_one_spelling(time):
    with pytest.raises(EvidenceError, match="time of this"):
        WitnessStatement.from_json(STATEMENT.to_json() | {"time": time})


def test_name_becomes_printable():
    assert printable("Zoë 山\u200d\n") == "Zoë 山\ufffd\ufffd"


def test_serial_and_time_are_the_witness_s():
    log = entries((COMMITMENT, DIGEST))
    zone = timezone(timedelta(hours=5))
    said = next_statement(
        log, WitnessRequest(PLAN, DIGEST, serial=99), witness=WITNESS, now=(NOW + timedelta(days=1)).astimezone(zone)
    )
    assert (said.serial, said.time, said.witness) == (2, "2026-01-03T03:04:05+00:00", WITNESS)


def test_clock_that_went_back_is_noticed():
    log = entries((COMMITMENT, DIGEST))
    with pytest.raises(EvidenceError, match="last statement was made at 2026-01-02T03:04:05"):
        next_statement(log, WitnessRequest(PLAN, DIGEST), witness=WITNESS, now=NOW - timedelta(seconds=1))


def test_same_subject_is_found_whatever_it_is_called():
    log = entries((COMMITMENT, DIGEST), (PLAN, OTHER))
    assert signed_before(log, WitnessRequest(COMMITMENT, DIGEST, "another name", 5)) == log[0]
    assert signed_before(log, WitnessRequest(PLAN, DIGEST)) is None


def test_log_that_continues_is_accepted_and_every_break_is_found():
    log = entries((COMMITMENT, DIGEST), (PLAN, DIGEST), (PLAN, OTHER))
    assert first_misfit(log, witness=WITNESS) is None
    assert first_misfit([], witness=WITNESS) is None
    assert first_misfit(log, witness=DIGEST) == 1
    assert first_misfit(log[1:], witness=WITNESS) == 1
    assert first_misfit([log[0], log[2]], witness=WITNESS) == 2
    altered = replace(log[1], envelope={"payload": "other"})
    assert first_misfit([log[0], altered, log[2]], witness=WITNESS) == 3
    twice = replace(log[1], previous=log[0].digest, statement=replace(log[0].statement, serial=2))
    assert first_misfit([log[0], twice], witness=WITNESS) == 2
    early = replace(log[1], statement=replace(log[1].statement, time="2025-01-02T03:04:05+00:00"))
    assert first_misfit([log[0], early], witness=WITNESS) == 2


def test_chance_sources_come_back():
    assert chance_source("none") is None
    for source in (WitnessSource(WITNESS), *(BeaconSource(chain, 123) for chain in CHAINS)):
        assert chance_source(source.text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "witness:",
        f"witness:{WITNESS.replace('1', 'A')}",
        f"witness:{WITNESS}\n",
        "drand 7",
        f"drand:{'0' * 64}:7",
        *(f"drand:{QUICKNET.hash}:{number}" for number in ("0", "07", "-1", "", "1e3", 2**32 + 1, "9" * 17)),
    ],
)
def test_sources_that_are_not_known_are_refused(text):
    with pytest.raises(EvidenceError):
        chance_source(text)


def test_chance_is_the_digest_of_the_signature():
    assert chance_of(b"signature") == hashlib.sha256(b"signature").digest()


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_rounds_and_their_times_belong_together(chain):
    for number in (1, 2, 30_000_000):
        due = chain.time_of(number)
        assert chain.round_at(due) == number
        assert chain.round_at(due + timedelta(seconds=chain.period) - timedelta(microseconds=1)) == number
        assert chain.round_at(due - timedelta(microseconds=1)) == number - 1
    assert chain.round_at(datetime(2000, 1, 1, tzinfo=UTC)) == 0
    assert chain_named(chain.name) == chain_named(chain.hash) == chain


def test_last_round_has_a_time():
    for chain in CHAINS:
        assert chance_source(chain.source(MOST_ROUND)).chain.time_of(MOST_ROUND).year > 2400


def test_times_are_those_that_the_networks_publish():
    assert QUICKNET.time_of(27_946_612) == datetime(2026, 4, 20, tzinfo=UTC)
    assert DEFAULT_CHAIN.time_of(6_426_976) == datetime(2026, 9, 1, 5, 25, tzinfo=UTC)


def test_published_round_is_read_and_comes_back():
    found = BeaconRound.published(DEFAULT_CHAIN, FIRST_ROUND | {"unknown": 1})
    assert found.randomness.hex() == FIRST_ROUND["randomness"]
    assert BeaconRound.from_json(found.to_json()) == found
    assert found.source == f"drand:{DEFAULT_CHAIN.hash}:1"
    assert public_address(DEFAULT_CHAIN, 1, relay="https://relay/") in f"https://relay/{DEFAULT_CHAIN.hash}/public/1"
    assert "not verified" in beacon_caveat(found)
    assert FIRST_ROUND["randomness"] in beacon_caveat(found)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"round": "1"},
        {"round": True},
        {"randomness": "00" * 32},
        {"randomness": FIRST_ROUND["randomness"].upper()},
        {"randomness": None},
        {"signature": FIRST_ROUND["signature"][:-2]},
        {"signature": ""},
        {"signature": None},
        {"signature": "zz" * 96},
        {"previous_signature": "00"},
        {"previous_signature": 7},
    ],
)
def test_rounds_that_contradict_themselves_are_refused(change):
    with pytest.raises(EvidenceError):
        BeaconRound.published(DEFAULT_CHAIN, FIRST_ROUND | change)


def test_recorded_round_has_exactly_its_fields():
    recorded = BeaconRound.published(DEFAULT_CHAIN, FIRST_ROUND).to_json()
    for value in (recorded | {"extra": 1}, {"round": 1}, None):
        with pytest.raises(EvidenceError, match="exactly"):
            BeaconRound.from_json(value)
    for chain in ("0" * 64, QUICKNET.hash, "default", None):
        with pytest.raises(EvidenceError):
            BeaconRound.from_json(recorded | {"chain": chain})


def test_unknown_network_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown beacon chain 'fastnet'") as caught:
        chain_named("fastnet")
    assert QUICKNET.hash in caught.value.advice
