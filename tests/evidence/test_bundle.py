from dataclasses import replace

import pytest

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.keys import assign
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence import outcome
from fpvec_audit.evidence.bundle import Evidence, named_signer, read_bundle, sign_evidence, write_bundle
from fpvec_audit.evidence.recomputation import entry_digest
from fpvec_audit.evidence.strict_json import Value
from fpvec_audit.registry import ledger
from tests.evidence import builders


@pytest.mark.parametrize("name", builders.STORIES)
def test_evidence_survives_its_json(name):
    evidence = builders.STORIES[name]().evidence()
    assert Evidence.from_json(Value(evidence.to_json(), "payload")) == evidence


def test_the_same_audit_gives_the_same_bytes():
    assert builders.anchored().bundle() == builders.anchored().bundle()


def test_a_self_attested_set_is_opened_by_its_secret():
    disclosure = builders.self_attested().evidence().to_json()["disclosure"]
    assert disclosure == {"kind": "secret", "secret": builders.MATERIAL.hex()}


def test_any_other_set_shows_the_candidates_that_were_asked_and_nothing_else():
    story = builders.sequential()
    shown = {candidate["index"] for candidate in story.evidence().to_json()["disclosure"]["candidates"]}
    asked = {content["index"] for content in story.contents if content["kind"] == "answer"}
    assert shown == asked
    assert 0 < len(shown) < story.plan.candidates
    content = story.bundle() + canonical_bytes(story.evidence().to_json())
    for candidate in story.key_set.candidates:
        assert (candidate.prompt.encode() in content) == (candidate.index in shown)
    assert builders.MATERIAL.hex().encode() not in content


def test_the_assignment_follows_from_its_sub_key_alone():
    story = builders.anchored()
    chance = bytes.fromhex(story.ledger("")[0].content["chance"])
    marks = assign(story.secret, story.key_set.commitment, chance)
    issued = set(story.evidence().result["matched"])
    assert issued == {index for mark in marks for index in mark}


def test_representations_hide_the_secret_and_the_transcript():
    for story in (builders.self_attested(), builders.anchored()):
        shown = repr(story.evidence())
        assert builders.MATERIAL.hex() not in shown
        assert str(builders.MATERIAL) not in shown
        assert not any(candidate.prompt in shown for candidate in story.key_set.candidates)


def test_ledger_entries_are_digested_as_the_registry_does():
    for entry in builders.anchored().ledger("MATCH"):
        assert entry_digest(entry) == entry.digest == ledger.entry_digest(entry)


def test_a_bundle_is_written_once_and_read_back(tmp_path):
    evidence = builders.anchored().evidence()
    envelope = sign_evidence(evidence, builders.OWNER)
    write_bundle(tmp_path / "bundle.json", envelope)
    assert read_bundle(tmp_path / "bundle.json") == canonical_bytes(envelope.to_json())
    assert named_signer(envelope) == builders.OWNER.public_key
    with pytest.raises(EvidenceError, match="exists already"):
        write_bundle(tmp_path / "bundle.json", envelope)


def test_nobody_signs_in_the_name_of_another():
    with pytest.raises(EvidenceError, match="names the signer"):
        sign_evidence(builders.anchored().evidence(), builders.STRANGER)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan", "alpha"), "1e-999999999"),
        (("plan", "alpha"), "1/3"),
        (("plan", "alpha"), "0"),
        (("plan", "population"), [1, 0]),
        (("plan", "population"), []),
        (("plan", "candidates"), True),
        (("plan", "tests"), ["exact", "sequential"]),
        (("plan", "tests"), ["likelihood"]),
        (("plan", "repeats"), 10**6),
        (("plan", "schema"), "fpvec-audit/plan/1"),
        (("plan", "suspect"), {"kind": "directory"}),
        (("commitment", "candidates"), 10**9),
        (("commitment", "marks"), 3),
        (("begin", "nonce"), "7" * 63),
        (("schema",), "fpvec-audit/evidence/2"),
        (("versions",), {"fpvec-audit": 1}),
    ],
)
def test_values_of_another_form_are_refused_with_their_path(path, value):
    payload = builders.self_attested().evidence().to_json()
    inner = payload
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(EvidenceError, match=r"payload\." + r"\.".join(path)):
        Evidence.from_json(Value(payload, "payload"))


def test_the_sentences_belong_to_the_schema():
    """Other words are another schema: change EVIDENCE_SCHEMA with this digest, and let old bundles verify."""
    every = builders.with_likelihood()
    plan = replace(every.plan, system_prompt="Be brief.", controls=({"digest": "d" * 64},))
    evidence = every.evidence()
    said = [
        outcome.not_recomputed(plan, chance=None, disclosure=evidence.disclosure, burns=builders.fresh_only().burns),
        *(
            outcome.does_not_prove(verdict, grade)
            for verdict in ("MATCH", "NO_MATCH")
            for grade in ("self-attested", "anchored", "examined")
        ),
    ]
    assert (
        canonical_digest([list(sentences) for sentences in said])
        == "4f9fdb1c1925577ec148c7f8a6d39cf0c28b1e239dc747e784392b5331531114"
    )
