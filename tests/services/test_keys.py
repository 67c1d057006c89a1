import json
import logging
import sqlite3
from contextlib import closing
from math import comb

import pytest
from sqlalchemy import text

from fpvec_audit.domain.keys import GRINDING_ALLOWANCE, SELF_ATTESTED, KeySetSecret, KeySetSpecification
from fpvec_audit.errors import AmbiguousNameError, KeySetError, RegistryError, UnknownNameError, UsageError
from fpvec_audit.services.encoding import EncodingFilter
from fpvec_audit.services.keys import (
    issue_key_set,
    list_key_sets,
    matches_needed,
    open_key_set,
    show_key_set,
    size_warnings,
)
from tests.registry.builders import opened

MATERIAL = bytes(range(100, 132))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "registry.db"


@pytest.fixture
def registry(file):
    with opened(file, actor="tester") as registry:
        yield registry


def issue(registry, name="acme", **options):
    options = {"specification": KeySetSpecification(), "entropy": lambda count: MATERIAL[:count]} | options
    return issue_key_set(name, registry=registry, **options)


def history(registry):
    with registry.unit_of_work() as uow:
        return [(entry.event, dict(entry.content)) for entry in uow.ledger.entries()]


def test_issue_says_what_scripts_read(registry):
    shown = issue(registry, owner="Acme", licensee="Bob").to_json()
    json.dumps(shown)
    expected = {
        "name": "acme",
        "owner": "Acme",
        "licensee": "Bob",
        "scheme": "independent",
        "grade": "self-attested",
        "marks": 1,
        "issued": 32,
        "decoys": 224,
        "base": None,
    }
    assert expected.items() <= shown.items()
    assert shown["id"] == f"ks-{shown['commitment'][:16]}"
    assert len(shown["root"]) == 64


def test_commitment_is_in_the_history_before_anything_else(registry):
    issued = issue(registry)
    ((event, content),) = history(registry)
    assert event == "key_set.issued"
    assert content["commitment"] == issued.record.commitment.digest
    assert content["root"] == issued.record.commitment.root


def test_set_without_chance_is_issued_at_once_and_waits_for_nothing(registry):
    shown = issue(registry).to_json()
    assert (shown["chance_source"], shown["waits_for"], shown["already"]) == ("none", "", False)
    assert "next" not in shown


def test_every_issue_draws_another_secret(registry):
    one, two = (issue_key_set(name, registry=registry, specification=KeySetSpecification()) for name in "ab")
    assert one.record.commitment.root != two.record.commitment.root
    assert [item.record.name for item in list_key_sets(registry=registry)] == ["a", "b"]


def test_opened_key_set_is_the_committed_one(registry):
    issued = issue(registry)
    key_set = open_key_set("acme", registry=registry, purpose="fingerprint")
    assert key_set.commitment == issued.record.commitment
    assert len(key_set.issued) == 32
    told = {"kind": "key_set", "purpose": "fingerprint", "who": "tester"}
    assert history(registry)[-1] == ("secret.revealed", told)


@pytest.mark.parametrize(("reason", "purpose"), [("", ""), ("  court\n case 7 ", ": court case 7")])
def test_reveal_records_who_and_why(registry, reason, purpose):
    issue(registry)
    show_key_set("acme", registry=registry, reveal=True, reason=reason)
    told = {"kind": "key_set", "purpose": f"shown to its owner{purpose}", "who": "tester"}
    assert history(registry)[-1] == ("secret.revealed", told)


def test_show_keeps_the_secrets_unless_asked(registry):
    issue(registry)
    shown = show_key_set("acme", registry=registry)
    assert shown.keys is None
    assert "keys" not in shown.to_json()
    assert len(history(registry)) == 1


def test_reveal_shows_every_candidate_and_is_recorded(registry):
    issued = issue(registry)
    with registry.unit_of_work() as uow:
        uow.key_sets.burn(issued.record.id, open_key_set_indices(registry)[:1], where="au-1")
    keys = show_key_set(issued.record.id[:8], registry=registry, reveal=True).to_json()["keys"]
    assert len(keys) == 256
    assert [key["issued"] for key in keys] == [True] * 32 + [False] * 224
    assert {key["mark"] for key in keys[:32]} == {0}
    assert {key["mark"] for key in keys[32:]} == {None}
    assert [key["burnt"] for key in keys] == [True] + [False] * 255
    assert set(keys[0]) == {"prompt", "response", "issued", "mark", "burnt"}
    assert history(registry)[-1][0] == "secret.revealed"
    assert show_key_set("acme", registry=registry).to_json()["burnt"] == 1


def open_key_set_indices(registry):
    """Indices of issued candidates, from a key set drawn again rather than from the registry under test."""
    from fpvec_audit.domain.keys import KeySetSecret, draw_key_set

    return draw_key_set(KeySetSecret(MATERIAL), KeySetSpecification()).issued_indices


def test_name_that_exists_is_refused_before_anything_is_drawn(registry):
    issue(registry)

    def entropy(_count):
        raise AssertionError("no secret may be drawn")

    with pytest.raises(UsageError, match="exists already"):
        issue(registry, entropy=entropy)


def test_unknown_key_set_suggests_the_nearest(registry):
    issue(registry, "acme-2026")
    for use in (show_key_set, open_key_set):
        with pytest.raises(UnknownNameError, match="did you mean acme-2026"):
            use("acme-2025", registry=registry)


def test_beginning_of_several_ids_is_ambiguous(registry):
    first = issue(registry, "one").record
    for number in range(20):
        issue_key_set(f"other-{number}", registry=registry, specification=KeySetSpecification(issued=1, decoys=1))
    shared = [item.record.id for item in list_key_sets(registry=registry)]
    beginning = next(
        identifier[:4] for identifier in shared if sum(other.startswith(identifier[:4]) for other in shared) > 1
    )
    with pytest.raises(AmbiguousNameError, match="fits several ids"):
        show_key_set(beginning, registry=registry)
    assert show_key_set(first.id, registry=registry).record == first


def test_base_filters_all_candidates_and_is_committed(registry, tmp_path):
    def encoding(base):
        assert base == tmp_path
        return EncodingFilter(lambda prompt, response: "山" not in prompt and response != "tiger", "5" * 64)

    issued = issue(registry, base=tmp_path, encoding=encoding)
    rule = issued.record.commitment.candidate_filter
    assert (rule.rule, rule.reference, sum(rule.kept)) == ("reversible-encoding", "5" * 64, 256)
    assert not all(rule.kept)
    assert not any("山" in candidate.prompt for candidate in open_key_set("acme", registry=registry).candidates)


def test_base_that_can_encode_nothing_leaves_no_trace(registry, tmp_path):
    with pytest.raises(KeySetError, match="only 0 of"):
        issue(registry, base=tmp_path, encoding=lambda _: EncodingFilter(lambda *_: False, ""))
    assert list_key_sets(registry=registry) == ()
    assert history(registry) == []


def test_swapped_secret_is_noticed(registry):
    issue(registry, "one")
    issue(registry, "two", entropy=lambda count: bytes(count))
    with registry.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE vault_secret SET (data_key_id, ciphertext) = (SELECT data_key_id, ciphertext FROM vault_secret "
            "WHERE id = 2) WHERE id = 1"
        )
    with pytest.raises(
        RegistryError, match="cannot be opened: it was sealed with another key or for another"
    ) as caught:
        open_key_set("one", registry=registry)
    assert "backup" in caught.value.advice
    assert history(registry)[-1][0] == "key_set.issued"  # what was not given out is not recorded as given


def test_secret_of_another_commitment_is_noticed(registry):
    issue(registry, "one")
    with registry.unit_of_work() as uow:
        identifier = uow.key_sets.get("one").id
        uow.session.execute(text("DELETE FROM vault_secret"))
        uow.vault.keep(identifier, KeySetSecret(bytes(32)))
    with pytest.raises(KeySetError, match="does not belong"):
        open_key_set("one", registry=registry)


def test_lost_secret_is_reported(registry):
    issue(registry)
    with registry.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM vault_secret")
    with pytest.raises(RegistryError, match="vault has no"):
        open_key_set("acme", registry=registry)


def test_nothing_secret_shows_outside_a_reveal(registry, file, caplog):
    caplog.set_level(logging.DEBUG)
    issued = issue(registry)
    revealed = show_key_set("acme", registry=registry, reveal=True)
    shown = repr((issued, revealed, list_key_sets(registry=registry))) + json.dumps(issued.to_json()) + caplog.text
    with closing(sqlite3.connect(file)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in set(tables) - {"vault_secret"}:
            shown += repr(connection.execute(f"SELECT * FROM {table}").fetchall())
    assert MATERIAL.hex() not in shown
    assert repr(MATERIAL) not in shown
    for key in revealed.keys:
        assert key.prompt not in shown
        assert f"'{key.response}'" not in shown


def test_default_set_says_how_many_must_match():
    assert size_warnings(32, 224, grade=SELF_ATTESTED) == (
        "self-attested: 18 of the 32 issued keys must match, and no decoy, for a MATCH at 1e-6",
    )
    assert size_warnings(32, 224, grade="anchored") == ()


@pytest.mark.parametrize(("issued", "words"), [(10, "can never be reached"), (12, "close call"), (13, None)])
def test_few_keys_warn_that_a_no_match_is_out_of_reach(issued, words):
    found = [warning for warning in size_warnings(issued, 224, grade="anchored") if "NO_MATCH" in warning]
    assert bool(found) is (words is not None)
    assert all(words in warning for warning in found)


def test_set_that_can_never_match_is_called_so(registry):
    warnings = issue(registry, specification=KeySetSpecification("if-simple", 10, 224)).warnings
    assert any("can never reach a MATCH" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("issued", "decoys", "grade", "needed"),
    [
        (16, 112, "anchored", 7),
        (16, 112, SELF_ATTESTED, 16),
        (16, 496, "anchored", 4),
        (16, 496, SELF_ATTESTED, 11),
        (32, 480, "anchored", 5),
        (32, 480, SELF_ATTESTED, 14),
        (10, 224, SELF_ATTESTED, None),
    ],
)
def test_matches_needed_are_those_of_the_published_table(issued, decoys, grade, needed):
    assert matches_needed(issued, decoys, grade=grade) == needed
    if needed is None:
        assert GRINDING_ALLOWANCE / comb(issued + decoys, issued) > 1e-6
