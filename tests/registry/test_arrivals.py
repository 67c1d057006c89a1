"""Registries that came from a copy: the ledger says so, and no word of a family is issued for the second time."""

import io
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from fpvec_audit.domain.code_records import WordState, unrecorded_name
from fpvec_audit.domain.marks import family_specification
from fpvec_audit.errors import KeySetError, UsageError
from fpvec_audit.registry.ledger import time_text
from fpvec_audit.registry.master_key import KeyFile
from fpvec_audit.registry.verification import verify_snapshot
from fpvec_audit.services.code_words import code_words
from fpvec_audit.services.family_codes import Wanted, add_licensees, family_code, family_words, retire_licensee
from fpvec_audit.services.keys import issue_key_set
from fpvec_audit.services.moving import (
    backup_registry,
    export_registry,
    export_to_stream,
    import_from_stream,
    import_registry,
    restore_registry,
)
from tests.registry.builders import START, Clock, opened_at, url_of

FAMILY = "acme-family"
COPIED = 2
"""Words that were issued before the copy was taken: to Globex and Initech."""


@pytest.fixture
def key(file):
    return KeyFile(file.parent / "vault.key")


@pytest.fixture
def place(url, tmp_path, request):
    """URL of an empty place on the same kind of database."""
    if url.startswith("sqlite"):
        return url_of(tmp_path / "restored" / "registry.db")
    return request.getfixturevalue("postgresql").fresh()


@pytest.fixture
def family(registry):
    return issue_key_set(FAMILY, registry=registry, specification=family_specification(16)).record


@pytest.fixture
def way(tmp_path, key):
    """Return how a registry is restored from a copy that was taken earlier."""

    class Way:
        copy = tmp_path / "monday.backup"

        def back_up(self, url):
            return backup_registry(self.copy, url)

        def restore(self, place, **options):
            return restore_registry(self.copy, place, master_key=key, **({"clock": Clock(), "actor": "r"} | options))

    return Way()


@pytest.fixture
def restored(registry, family, url, place, way, key):
    """A registry that was restored from a backup of before Hooli got word number 2, which was then used on."""
    add_licensees(["Globex", "Initech"], FAMILY, registry=registry)
    way.back_up(url)
    add_licensees(["Hooli"], FAMILY, registry=registry)
    way.restore(place)
    with opened_at(place, key_file=key.path) as opened:
        yield opened


def entries(registry, *events):
    with registry.snapshot() as uow:
        return [entry for entry in uow.ledger.entries() if not events or entry.event in events]


def marks_of(registry, *names):
    with registry.unit_of_work() as uow:
        return list(code_words(uow, FAMILY, names, purpose="test").values())


def sound(registry):
    with registry.snapshot() as uow:
        return verify_snapshot(uow).problems == ()


def refusal(registry, *names, **options):
    before = len(entries(registry))
    with pytest.raises(UsageError) as refused:
        add_licensees(names or ["Stark"], FAMILY, registry=registry, **options)
    assert len(entries(registry)) == before
    return f"{refused.value.problem} – {refused.value.advice}"


def test_restoring_is_an_entry_of_the_restored_ledger(registry, family, url, place, way, key):
    before = entries(registry)
    way.back_up(url)
    later = START + timedelta(hours=1)
    told = way.restore(place, clock=lambda: later, actor="Carol")
    with opened_at(place, key_file=key.path) as restored:
        *copied, arrived = entries(restored)
        assert copied == before
        assert (arrived.event, arrived.subject) == ("registry.restored", "registry")
        assert arrived.at == time_text(later)
        assert arrived.content == {
            "now": time_text(later),
            "file": "monday.backup",
            "entries": before[-1].serial,
            "head": before[-1].digest,
            "who": "Carol",
        }
        assert (told.entries, told.head) == (before[-1].serial, before[-1].digest)
        assert sound(restored)
    assert entries(registry) == before


@pytest.mark.parametrize("streamed", [False, True])
def test_importing_is_an_entry_too(registry, family, place, tmp_path, key, streamed):
    with opened_at(place, key_file=key.path, actor="Carol") as other:
        if streamed:
            stream = io.BytesIO()
            export_to_stream(stream, registry=registry)
            stream.seek(0)
            import_from_stream(stream, registry=other)
        else:
            export_registry(tmp_path / "r.jsonl", registry=registry)
            import_registry(tmp_path / "r.jsonl", registry=other)
        *copied, arrived = entries(other)
        assert copied == entries(registry)
        told = arrived.content
        assert (arrived.event, told["file"]) == ("registry.imported", "" if streamed else "r.jsonl")
        assert (told["entries"], told["head"], told["who"]) == (len(copied), copied[-1].digest, "Carol")
        assert sound(other)


def test_clock_that_is_behind_keeps_no_backup_away(registry, family, url, place, way, key):
    way.back_up(url)
    late = START - timedelta(days=9)
    way.restore(place, clock=lambda: late)
    with opened_at(place, key_file=key.path) as restored:
        *_, last, arrived = entries(restored)
        assert (arrived.at, arrived.content["now"]) == (last.at, time_text(late))
        assert sound(restored)


def test_file_whose_name_is_no_text_can_be_restored(embedded, file, tmp_path, key):
    backup_registry(tmp_path / "b", url_of(file))
    odd = Path(f"{tmp_path}/\udcff.backup")
    shutil.copy(tmp_path / "b", odd)
    place = url_of(tmp_path / "to" / "registry.db")
    restore_registry(odd, place, master_key=key, clock=Clock())
    with opened_at(place, key_file=key.path) as restored:
        assert entries(restored)[-1].content["file"] == "\\udcff.backup"


def test_restored_registry_issues_no_word_for_the_second_time(registry, restored):
    told = refusal(restored)
    assert "restored from monday.backup on 2026-01-02" in told
    assert f"given words of the family '{FAMILY}' that this registry does not know of" in told
    assert "--first-number N: one more than the highest that anybody was given" in told
    assert f"or --first-number {COPIED} where nobody was given any since" in told
    assert "--code" not in told
    added = add_licensees(["Stark", "Wayne"], FAMILY, registry=restored, first_number=COPIED + 1)
    assert [word.number for word in added.words] == [3, 4]
    assert marks_of(registry, "Hooli")[0] not in marks_of(restored, "Globex", "Initech", "Stark", "Wayne")
    assert sound(restored)


def test_numbers_that_were_issued_elsewhere_are_retired_words_of_nobody_known(registry, restored):
    added = add_licensees(["Stark"], FAMILY, registry=restored, first_number=4)
    document = added.to_json()
    assert [(word["number"], word["licensee"], word["state"]) for word in document["unrecorded"]] == [
        (2, "unrecorded-2 (acme-family)", "retired"),
        (3, "unrecorded-3 (acme-family)", "retired"),
    ]
    assert "words 2 to 3 are recorded as issued outside of this registry" in document["warnings"][-1]
    words = family_words(FAMILY, registry=restored).words
    assert [word.number for word in words] == list(range(5))
    assert [word.state for word in words[2:]] == [WordState.RETIRED, WordState.RETIRED, WordState.ISSUED]
    assert words[2].commitment == family_words(FAMILY, registry=registry).words[2].commitment  # the word that Hooli has
    (entry, _) = entries(restored, "code_word.retired")
    assert (entry.content["reason"], entry.content["who"]) == ("issued outside of this registry", "tester")
    with pytest.raises(KeySetError, match="is retired"):
        marks_of(restored, "unrecorded-2 (acme-family)")


def test_licensee_who_is_known_gets_the_same_word_again(registry, restored):
    add_licensees(["Hooli"], FAMILY, registry=restored, first_number=COPIED)
    assert marks_of(restored, "Hooli") == marks_of(registry, "Hooli")
    assert add_licensees(["Stark"], FAMILY, registry=restored).words[0].number == 3


def test_first_number_is_asked_for_once_after_every_restoring(restored, key, tmp_path):
    first = add_licensees(["Stark"], FAMILY, registry=restored, first_number=COPIED)
    assert (first.words[0].number, first.unrecorded, first.to_json()["unrecorded"]) == (2, (), [])
    assert add_licensees(["Wayne"], FAMILY, registry=restored).words[0].number == 3
    export_registry(tmp_path / "again.jsonl", registry=restored)
    with opened_at(url_of(tmp_path / "again" / "registry.db"), key_file=key.path) as again:
        import_registry(tmp_path / "again.jsonl", registry=again)
        assert "imported from again.jsonl" in refusal(again, "Umbrella")
        assert add_licensees(["Umbrella"], FAMILY, registry=again, first_number=4).words[0].number == 4


def test_retiring_a_word_does_not_tell_what_was_issued_elsewhere(restored):
    retire_licensee("Initech", FAMILY, registry=restored, reason="left")
    assert "--first-number 2" in refusal(restored)


def test_family_that_is_younger_than_the_restoring_is_not_asked_about(restored):
    issue_key_set("young", registry=restored, specification=family_specification(16))
    assert [word.number for word in add_licensees(["Stark", "Wayne"], "young", registry=restored).words] == [0, 1]


def test_family_whose_code_may_have_been_chosen_elsewhere_says_so(registry, family, url, place, way, key):
    way.back_up(url)
    add_licensees(["Hooli"], FAMILY, registry=registry, wanted=Wanted(code="random:6", colluders=1))
    way.restore(place)
    with opened_at(place, key_file=key.path) as restored:
        told = refusal(restored)
        assert "--first-number 0 where nobody" in told
        assert "name the same one with --code" in told
        wanted = Wanted(code="random:6", colluders=1)
        add_licensees(["Stark"], FAMILY, registry=restored, wanted=wanted, first_number=1)
        assert marks_of(registry, "Hooli") != marks_of(restored, "Stark")
        assert family_words(FAMILY, registry=restored).words[0].licensee == "unrecorded-0 (acme-family)"


def test_first_number_can_be_named_in_any_registry(registry, family):
    add_licensees(["Globex"], FAMILY, registry=registry)
    added = add_licensees(["Initech"], FAMILY, registry=registry, first_number=2)
    assert [word.number for word in (*added.unrecorded, *added.words)] == [1, 2]
    assert "word 1 is recorded as issued outside" in added.warnings[-1]
    summary = family_code(FAMILY, registry=registry)
    assert (summary.issued, summary.retired, summary.to_json()["left"]) == (2, 1, 17)
    assert sound(registry)


@pytest.mark.parametrize(
    ("names", "number", "problem"),
    [
        (["Stark"], 1, "--first-number 1 is not free: 2 words of the family 'acme-family' were issued already"),
        (["Stark"], 1, "name 2 or a higher one"),
        (["Stark"], -1, "--first-number -1 is not free"),
        (
            ["Stark", "Wayne"],
            19,
            "2 more licensees are too many from number 19 on: the last of the 20 words of plane:4 is number 19",
        ),
        (["Stark"], 10**30, "1 more licensee is too many from number 1000000000000000000000000000000 on"),
        (["Globex"], 4, "'Globex' has a word of this family already"),
        (["unrecorded-2 (acme-family)"], 2, "is how words are named that were issued outside of this registry"),
    ],
)
def test_first_number_that_cannot_be_is_refused_and_nothing_is_recorded(restored, names, number, problem):
    assert problem in refusal(restored, *names, first_number=number)


def test_more_unknown_words_than_can_be_recorded_are_refused(registry):
    issue_key_set("wide", registry=registry, specification=family_specification(64))
    with pytest.raises(UsageError, match="leaves 5000000 words of the family 'wide' of which"):
        add_licensees(["Stark"], "wide", registry=registry, wanted=Wanted(code="random:8"), first_number=5_000_000)


def test_name_of_a_long_family_fits():
    assert len(unrecorded_name(2**31, "f" * 200)) <= 200
