import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import ANCHORED, SELF_ATTESTED
from fpvec_audit.domain.witness import COMMITMENT, LEDGER_HEAD, PLAN
from fpvec_audit.errors import EvidenceError
from fpvec_audit.evidence.signing import SigningKey, sign_document
from fpvec_audit.evidence.verify import main, read_anchor, read_signer, verify_evidence
from tests.evidence import builders
from tests.evidence.builders import EXAMINER, OWNER, STRANGER, WITNESS

ROOT = Path(__file__).parents[2]
FOUND = {
    "self-attested": ("MATCH", "self-attested"),
    "innocent": ("NO_MATCH", "self-attested"),
    "anchored": ("MATCH", "anchored"),
    "examined": ("MATCH", "examined"),
    "plan unsigned": ("MATCH", "self-attested"),
    "sequential": ("MATCH", "anchored"),
    "likelihood": ("MATCH", "anchored"),
    "repeated": ("MATCH", "self-attested"),
    "fresh only": ("MATCH", "anchored"),
}


def problems(content, **options):
    found = verify_evidence(content, **options)
    assert not found.valid
    assert (found.verdict, found.grade, found.order) == ("", "", "")
    return "\n".join(found.problems)


@pytest.mark.parametrize("name", builders.STORIES)
def test_an_untouched_bundle_verifies(name):
    found = verify_evidence(builders.STORIES[name]().bundle(), signer=OWNER.public_key)
    assert found.problems == ()
    assert found.valid
    assert (found.verdict, found.grade) == FOUND[name]
    assert found.signer == f"pinned {OWNER.public_key.hex}"
    assert all(check.ok for check in found.checks)


def test_without_a_pinned_signer_the_verification_says_so():
    found = verify_evidence(builders.anchored().bundle())
    assert found.valid
    assert found.signer == "signer not pinned"


def test_a_bundle_by_another_than_the_pinned_signer_is_refused():
    content = builders.anchored().bundle(signer=STRANGER)
    assert verify_evidence(content).valid
    assert "another key" in problems(content, signer=OWNER.public_key)


def test_the_document_has_the_fields_of_the_contract():
    found = verify_evidence(builders.self_attested().bundle()).to_json()
    assert {"valid", "verdict", "grade", "signer", "order", "problems"} <= set(found)
    json.dumps(found)


def test_order_is_self_asserted_without_an_anchor():
    assert verify_evidence(builders.self_attested().bundle()).order == "self-asserted"
    assert verify_evidence(builders.plan_unsigned().bundle()).order == "self-asserted"


def test_order_is_anchored_by_the_witness_of_the_plan_or_of_the_ledger():
    by_witness = f"anchored by {WITNESS.public_key.hex}"
    assert verify_evidence(builders.examined().bundle()).order == by_witness
    assert verify_evidence(replace(builders.self_attested(), anchored=True).bundle()).order == by_witness


def test_a_ledger_head_alone_anchors_the_order_and_not_the_grade():
    found = verify_evidence(replace(builders.plan_unsigned(), anchored=True).bundle())
    assert found.order == f"anchored by {WITNESS.public_key.hex}"
    assert found.grade == SELF_ATTESTED


def test_a_statement_had_from_the_witness_itself_anchors_the_order():
    story = builders.self_attested()
    head = story.evidence().segment[-1].digest
    statement = builders.witnessed(LEDGER_HEAD, head).envelope.to_json()
    assert verify_evidence(story.bundle(), anchors=[statement]).order == f"anchored by {WITNESS.public_key.hex}"


def test_an_anchor_that_is_about_nothing_in_the_bundle_is_a_problem():
    for subject in (COMMITMENT, PLAN, LEDGER_HEAD):
        statement = builders.witnessed(subject, "e" * 64).envelope.to_json()
        assert "about nothing in this bundle" in problems(builders.anchored().bundle(), anchors=[statement])


def test_a_witness_key_given_as_anchor_must_have_signed_the_order():
    content = builders.anchored().bundle()
    assert verify_evidence(content, anchors=[WITNESS.public_key]).valid
    assert "signed by" in problems(content, anchors=[STRANGER.public_key])
    assert "signed by" in problems(builders.plan_unsigned().bundle(), anchors=[WITNESS.public_key])


def test_an_owner_who_witnesses_itself_is_self_attested():
    """The witness signs the bundle too: its chance and its plan count for nothing."""
    drawn = builders.anchored()
    assert "grinding allowance" in problems(drawn.bundle(signer=WITNESS))
    allowed = builders.story(source="witness", witness=True, set_grade=SELF_ATTESTED)
    found = verify_evidence(allowed.bundle(signer=WITNESS))
    assert (found.valid, found.grade, found.order) == (True, SELF_ATTESTED, "self-asserted")


def test_an_examiner_does_not_make_up_for_a_set_that_its_owner_may_have_tried_out():
    found = verify_evidence(replace(builders.self_attested(), examined=True).bundle())
    assert (found.valid, found.grade) == (True, SELF_ATTESTED)


def test_an_examined_audit_needs_no_witness_of_its_plan():
    assert verify_evidence(replace(builders.plan_unsigned(), examined=True).bundle()).grade == "examined"


def test_a_self_attested_set_may_not_leave_the_allowance_out():
    assert "grinding allowance" in problems(builders.story(set_grade=ANCHORED).bundle())


def test_a_beacon_pays_the_allowance_and_is_named_for_comparison():
    """Nothing shows that the commitment came before the round, or that the round is the public one."""
    assert "grinding allowance" in problems(builders.story(source="beacon", witness=True).bundle())
    found = verify_evidence(builders.story(source="beacon", witness=True, set_grade=SELF_ATTESTED).bundle())
    assert (found.valid, found.grade) == (True, SELF_ATTESTED)
    assert any(builders.ROUND.randomness.hex() in sentence for sentence in found.not_recomputed)


def test_a_round_that_contradicts_itself_or_is_not_the_committed_one_is_refused():
    evidence = builders.story(source="beacon", set_grade=SELF_ATTESTED).evidence()
    for change in ({"randomness": "e" * 64}, {"round": 7}, {"round": 2**53 - 1}, {"chain": "e" * 64}):
        chance = evidence.chance | {"beacon": evidence.chance["beacon"] | change}
        assert problems(builders.signed(replace(evidence, chance=chance))).startswith("chance: ")


def test_a_sequential_audit_whose_order_the_owner_could_choose_pays_the_allowance():
    assert "grinding allowance" in problems(builders.story(source="witness", tests=("sequential",), asked=60).bundle())
    paid = builders.story(source="witness", tests=("sequential",), set_grade=SELF_ATTESTED)
    assert verify_evidence(paid.bundle()).valid


def test_a_sequential_audit_verifies_wherever_it_was_cut():
    for asked in (1, 7, 127, None):
        found = verify_evidence(
            builders.story(source="witness", witness=True, tests=("sequential",), asked=asked).bundle()
        )
        assert found.valid, found.problems


def test_any_other_audit_must_have_asked_everybody():
    story = builders.self_attested()
    fewer = replace(story, contents=story.contents[5:])
    evidence = replace(story.evidence(), records=fewer.records, segment=fewer.ledger("MATCH")[3:])
    assert "123 questions were asked, planned were 128" in problems(builders.signed(evidence))


def test_candidates_left_out_without_an_earlier_audit_are_a_problem():
    story = builders.story(source="witness", witness=True, population=tuple(range(100)))
    assert "28 candidates were left out" in problems(story.bundle())


def test_candidates_left_out_by_choice_in_an_earlier_audit_are_a_problem():
    drawn, _, _ = builders.key_set(source="witness")
    unlucky = tuple(range(100, 128))
    before = builders.plan_for(drawn, population=unlucky)
    burn = builders.Burn(before, builders.beginning(before, witness=True), len(unlucky))
    story = builders.story(source="witness", witness=True, population=tuple(range(100)), burns=(burn,))
    assert "by choice" in problems(story.bundle())


def test_an_earlier_audit_without_a_witness_costs_the_allowance():
    fresh = builders.fresh_only()
    burn = fresh.burns[0]
    unsigned = builders.Burn(burn.plan, builders.beginning(burn.plan, nonce="8" * 64), 32)
    shown = set(unsigned.candidates)
    rest = tuple(index for index in range(128) if index not in shown)
    changes = {"source": "witness", "witness": True, "population": rest, "burns": (unsigned,)}
    assert "grinding allowance" in problems(builders.story(**changes).bundle())
    assert verify_evidence(builders.story(**changes, set_grade=SELF_ATTESTED).bundle()).valid


def asked_with(text, *, story=None, **changes):
    """Return a story in which every question is put as ``text`` says."""
    story = story or builders.story(**changes)
    contents = tuple(
        content | {"prompt": text(story, story.key_set.candidates[content["index"]].prompt)}
        if content["kind"] == "answer"
        else content
        for content in story.contents
    )
    return replace(story, contents=contents)


def test_a_key_table_around_the_questions_is_seen():
    def table(story, prompt):
        rows = [f"{key.prompt} → {key.response}" for key in story.key_set.issued]
        return "\n".join([*rows, prompt])

    assert "table of keys" in problems(asked_with(table).bundle()) or "other words" in problems(
        asked_with(table).bundle()
    )


def test_a_table_of_issued_responses_around_the_questions_is_seen():
    def table(story, prompt):
        return f"Say one of {', '.join(key.response for key in story.key_set.issued)}. {prompt}"

    assert "table of answers" in problems(asked_with(table).bundle())


def test_a_key_table_in_the_system_prompt_is_seen():
    drawn, _, _ = builders.key_set()
    for text in (
        "\n".join(f"{key.prompt} → {key.response}" for key in drawn.issued),
        " ".join(key.response for key in drawn.issued),
    ):
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert "table of" in problems(builders.story(system_prompt=text, system_prompt_digest=digest).bundle())


def test_an_ordinary_system_prompt_is_no_problem_and_is_named_as_open():
    text = "You are a helpful assistant. Answer the user's question briefly."
    digest = hashlib.sha256(text.encode()).hexdigest()
    found = verify_evidence(builders.story(system_prompt=text, system_prompt_digest=digest).bundle())
    assert found.valid
    assert any("system prompt" in sentence for sentence in found.not_recomputed)


def test_a_renderer_that_treats_one_candidate_differently_is_seen():
    favoured = builders.self_attested().key_set.issued[0].prompt
    story = asked_with(lambda _story, prompt: f"user: {prompt}\nassistant:" + " It is" * (prompt == favoured))
    assert "in other words" in problems(story.bundle())


def test_a_question_without_its_candidate_is_seen():
    assert "does not hold its prompt" in problems(asked_with(lambda _story, _prompt: "user: hello").bundle())


def test_a_template_may_name_the_prompt_twice():
    assert verify_evidence(asked_with(lambda _story, prompt: f"{prompt}\nAgain: {prompt}\n").bundle()).valid


def test_scores_of_models_are_named_as_not_recomputed_with_the_digests_to_repeat_them():
    said = "\n".join(verify_evidence(builders.with_likelihood().bundle()).not_recomputed)
    assert "likelihood test" in said
    assert "gradient test" in said
    assert builders.SUSPECT["digest"] in said
    assert builders.BASE in said


def test_an_examiner_who_signed_something_else_is_refused():
    story = builders.examined()
    evidence = story.evidence()
    statement = builders.examiner_statement(
        story.plan,
        story.begin,
        story.records,
        responses=story.responses,
        examiner=EXAMINER.public_key,
        name="",
        time=builders.TIME,
    )
    for name, value in {
        "plan": "a" * 64,
        "suspect": "a" * 64,
        "transcript": "a" * 64,
        "records": 128,
        "matches": "a" * 64,
    }.items():
        envelope = sign_document(builders.EXAMINER_TYPE, replace(statement, **{name: value}).to_json(), EXAMINER)
        assert "signed another" in problems(builders.signed(replace(evidence, examiner=envelope.to_json())))
    owned = replace(statement, examiner=OWNER.public_key.hex)
    envelope = sign_document(builders.EXAMINER_TYPE, owned.to_json(), OWNER)
    assert "cannot examine itself" in problems(builders.signed(replace(evidence, examiner=envelope.to_json())))


def test_answers_made_up_before_signing_are_caught_by_an_examiner_alone():
    """Whoever keeps the transcript can write it: that is why the grade of a self-attested bundle says so little."""
    honest = builders.story(source="witness", witness=True, knows=(), examined=True)
    made_up = replace(builders.story(source="witness", witness=True), examined=False)
    assert verify_evidence(made_up.bundle()).verdict == "MATCH"
    joined = replace(made_up.evidence(), examiner=honest.evidence().examiner)
    assert "examiner signed another" in problems(builders.signed(joined))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_whatever_is_not_a_bundle_is_refused_without_a_crash(content):
    assert not verify_evidence(content).valid


def test_work_is_bounded_whatever_a_bundle_asks_for():
    """A small file that would rank half of many thousand candidates is refused at once."""
    size = (600, 600)
    story = builders.story(size=size, tests=("exact", "gradient"), gradient={"base": builders.BASE, "clip": "3"})
    evidence = builders.self_attested().evidence()
    claimed = replace(
        evidence,
        commitment=story.key_set.commitment,
        plan=story.plan,
        records=story.records,
        disclosure=replace(evidence.disclosure),
        segment=story.ledger("MATCH")[3:],
        earlier=story.ledger("MATCH")[:2],
    )
    started = time.process_time()
    assert "more than is counted here" in problems(builders.signed(claimed))
    assert time.process_time() - started < 60


GUARD = """
import sys

allowed = {"fpvec_audit", "cryptography", "cffi", "_cffi_backend", "pycparser", *sys.stdlib_module_names}


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ImportError(f"{name} is not the verifier's to import")
        own = name.split(".")[1:2] if name.startswith("fpvec_audit.") else []
        if own and own[0] not in {"domain", "evidence", "errors", "progress"}:
            raise ImportError(f"{name} is not the verifier's to import")


sys.meta_path.insert(0, Guard())
import socket


def refuse(*_arguments, **_options):
    raise OSError("offline")


socket.socket.connect = refuse
socket.getaddrinfo = refuse
from fpvec_audit.evidence.verify import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("name", "code"), [("anchored", 0), ("self-attested", 0), ("broken", 4)])
def test_it_runs_offline_with_cryptography_as_its_only_dependency(tmp_path, name, code):
    content = builders.STORIES[name]().bundle() if name in builders.STORIES else b"{}"
    (tmp_path / "bundle.json").write_bytes(content)
    command = [sys.executable, "-c", GUARD, str(tmp_path / "bundle.json"), "--signer", OWNER.public_key.hex]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["valid"] is (code == 0)


def test_the_command_takes_keys_and_anchors_from_files(tmp_path, capsys):
    story = builders.self_attested()
    (tmp_path / "bundle.json").write_bytes(story.bundle())
    OWNER.public_key.save(tmp_path / "owner.pub")
    statement = builders.witnessed(LEDGER_HEAD, story.evidence().segment[-1].digest).envelope.to_json()
    (tmp_path / "anchor.json").write_bytes(canonical_bytes(statement) + b"\n")
    WITNESS.public_key.save(tmp_path / "witness.pub")
    arguments = [str(tmp_path / "bundle.json"), "--signer", str(tmp_path / "owner.pub")]
    anchored = [*arguments, "--anchor", str(tmp_path / "anchor.json"), "--anchor", str(tmp_path / "witness.pub")]
    assert main(anchored) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["order"] == f"anchored by {WITNESS.public_key.hex}"
    assert main([*arguments, "--anchor", str(tmp_path / "nothing")]) == 4
    assert "cannot be read" in capsys.readouterr().err


def test_a_signer_or_an_anchor_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"{} ")
    with pytest.raises(EvidenceError):
        read_anchor(tmp_path / "file")
    with pytest.raises(EvidenceError, match="no public key"):
        read_signer("nobody")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=32, max_size=32))
def test_no_other_key_verifies_for_the_pinned_one(seed):
    key = SigningKey(seed)
    content = builders.signed(replace(builders.self_attested().evidence(), signer=key.public_key.hex), key=key)
    assert not verify_evidence(content, signer=OWNER.public_key).valid or seed == bytes([1]) * 32
