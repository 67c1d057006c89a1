"""The accuser writes down what never happened, signs it again, or shows another file than the suspect's."""

import json
from dataclasses import replace

import pytest

from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.transcript import Record
from fpvec_audit.domain.witness import LEDGER_HEAD
from fpvec_audit.errors import EvidenceError, RegistryError
from fpvec_audit.evidence.signing import sign_document
from fpvec_audit.evidence.standing import EXAMINER_TYPE
from fpvec_audit.registry.unit_of_work import open_registry
from fpvec_audit.services.keys import open_key_set
from fpvec_audit.services.witness import issue_with_witness
from tests.accuser.forging import OWNER, WITNESS, refusal, sentence, verified
from tests.evidence import builders
from tests.evidence.builders import EXAMINER, STRANGER
from tests.services.test_audit import answering, silent
from tests.services.test_evidence import Bench, sign
from tests.services.test_examining import Parties

HONEST = {"source": "witness", "witness": True, "knows": ()}
MADE_UP = {"source": "witness", "witness": True}


def test_an_edited_answer_breaks_the_chain_of_records():
    story = builders.story(**HONEST)
    evidence = story.evidence()
    index = story.key_set.issued_indices[0]
    response = story.key_set.candidates[index].response
    edited = tuple(
        Record(record.serial, record.previous, {**record.content, "answer": response})
        if record.content.get("index") == index
        else record
        for record in evidence.records
    )
    assert "does not continue the chain" in refusal(builders.signed(replace(evidence, records=edited)))


def test_an_edited_transcript_in_the_registry_is_refused(bench, witnessed_keys):
    result = bench.audit(silent())
    for record in result.records:
        bench.rewrite(result, record.serial, record.stored.replace(b'"answer":" I', b'"answer":" You'), record.digest)
    with pytest.raises(RegistryError, match="is not what was written"):
        bench.export(result)


def test_a_transcript_edited_without_the_master_key_does_not_open(bench, witnessed_keys):
    result = bench.audit(silent())
    bench.execute("UPDATE audit_record SET content = zeroblob(100) WHERE audit_id = :id", id=result.audit_id)
    with pytest.raises(RegistryError, match="cannot be opened"):
        bench.export(result)


def test_an_edited_result_in_the_registry_is_refused(bench, witnessed_keys):
    result = bench.audit(silent())
    bench.execute("UPDATE audit SET verdict = 'MATCH' WHERE id = :id", id=result.audit_id)
    with pytest.raises(EvidenceError, match="is not the one that the ledger recorded"):
        bench.export(result)


def test_a_transcript_rewritten_after_a_witness_saw_the_ledger_is_refused():
    """The witness signed the honest ledger's head; the rewritten one has another."""
    honest = builders.story(**HONEST).evidence()
    statement = builders.witnessed(LEDGER_HEAD, honest.segment[-1].digest).envelope.to_json()
    assert verified(builders.signed(honest), anchors=[statement]).valid
    assert "about nothing in this bundle" in refusal(builders.story(**MADE_UP).bundle(), anchors=[statement])


def test_a_bundle_signed_again_by_somebody_else_is_refused_where_the_signer_is_pinned():
    content = builders.story(**MADE_UP).bundle(signer=STRANGER)
    assert "another key" in refusal(content)
    assert verified(content, signer=None).signer == "signer not pinned"


def test_answers_made_up_from_the_start_are_not_detectable_below_the_grade_examined():
    found = verified(builders.story(**MADE_UP).bundle())
    assert (found.valid, found.verdict, found.grade) == (True, "MATCH", "anchored")
    assert any("ask it again" in text for text in found.not_recomputed)
    assert any("the accuser asked it" in text for text in found.does_not_prove)


def test_answers_made_up_from_the_start_lack_an_examiners_signature():
    honest = builders.story(**HONEST, examined=True)
    made_up = builders.story(**MADE_UP)
    joined = replace(made_up.evidence(), examiner=honest.evidence().examiner)
    assert "examiner signed another transcript" in refusal(builders.signed(joined))
    document = builders.examiner_statement(
        made_up.plan,
        made_up.begin,
        made_up.records,
        responses=made_up.responses,
        examiner=EXAMINER.public_key,
        name="the examiner",
        time=builders.TIME,
    )
    forged = sign_document(EXAMINER_TYPE, document.to_json(), STRANGER).to_json()
    assert refusal(builders.signed(replace(made_up.evidence(), examiner=forged))).startswith("examiner: ")


def test_an_owner_who_is_his_own_examiner_is_visible_as_the_key_in_the_check():
    """A second key of his own makes him an examiner or a witness: no file can tell, so the keys are named."""
    found = verified(builders.examined().bundle())
    assert EXAMINER.public_key.hex in sentence(found, "examiner")
    assert WITNESS.public_key.hex in sentence(found, "chance")
    assert any("independent of the owner: compare their keys" in text for text in found.does_not_prove)


def test_a_head_signed_after_the_end_lifts_no_grade():
    """A witness that saw a ledger when all was over vouches for nothing before; R and nonce are what count."""
    story = replace(builders.story(source="witness"), anchored=True)
    found = verified(story.bundle())
    assert found.grade == "self-attested"
    assert any("plan was made before the answers were known" in text for text in found.does_not_prove)


def issued_again(bench, directory):
    """Return a bench on a fresh registry of the same owner, who keeps the secret and asks the same witness."""
    directory.mkdir()
    registry = open_registry(f"sqlite:///{directory / 'registry.db'}")
    options = {"registry": registry, "specification": KeySetSpecification(issued=32, decoys=96)}
    request = directory / "request.json"
    secret = {"entropy": lambda count: bytes(range(1, count + 1))}
    issue_with_witness("acme", bench.witness.public, request_file=request, **options, **secret)
    issue_with_witness("acme", sign(bench.witness, request, directory / "signed.json"), **options)
    return Bench(registry, bench.catalog, bench.checkpoints, bench.witness, directory)


def test_a_fresh_registry_is_not_detectable_and_the_bundle_says_so(bench, witnessed_keys, tmp_path):
    """What the first registry saw is gone from the second one's campaign; the witness's numbers go on."""
    bench.audit(silent(), name="other")
    bench.audit(silent())
    fresh = issued_again(bench, tmp_path / "again")
    with fresh.registry:
        result = fresh.witnessed_audit(answering(open_key_set("acme", registry=fresh.registry).issued))
        assert (result.campaign_suspects, result.earlier_audits) == (1, ())
        fresh.export(result)
        found = fresh.verify()
    assert (found.valid, found.verdict) == (True, "MATCH")
    assert "that no other registry, and no run outside this ledger, exists" in found.does_not_prove
    assert "signed it as no. 2" in sentence(found, "chance")


@pytest.fixture
def parties(bench, witnessed_keys):
    return Parties(bench.registry, bench.catalog, bench.checkpoints, bench.directory)


def test_a_stamped_copy_of_the_victims_file_is_not_detectable_and_named_by_its_digest(bench, witnessed_keys):
    """The accuser adds his vector to the victim's own checkpoint, and audits that."""
    result = bench.witnessed_audit(answering(witnessed_keys.issued), name="other")
    assert result.verdict is Verdict.MATCH
    bench.export(result)
    found = bench.verify()
    assert found.valid
    assert any(result.plan.suspect["digest"] in text for text in found.not_recomputed)
    assert any("that the suspect is who it is said to be" in text for text in found.does_not_prove)


def test_an_examiner_who_fetched_the_victims_file_itself_refuses_a_plan_for_another(parties, witnessed_keys):
    parties.plan()  # of what the accuser calls the victim's checkpoint
    genuine = silent()
    with pytest.raises(EvidenceError, match="is not the planned suspect"):
        parties.examine(genuine, at="other")
    assert genuine.asked == []
    assert not parties.examined.exists()


def test_an_examiners_file_edited_on_its_way_is_refused(parties, witnessed_keys):
    parties.plan()
    parties.examine(silent())
    responses = {item.index: item.response for item in witnessed_keys.issued}

    def edit(contents):
        for content in contents:
            if content.get("index") in responses:
                content["answer"] = responses[content["index"]]

    parties.forge(edit, resign=False)
    with pytest.raises(EvidenceError, match="signed another transcript"):
        parties.attach()
    parties.forge(edit, key=OWNER)
    with pytest.raises(EvidenceError, match="cannot examine itself"):
        parties.attach(owner=OWNER.public_key)


def test_a_verdict_grade_or_p_that_is_better_than_recomputed_is_refused():
    evidence = builders.story(**HONEST).evidence()
    for claim in ({"verdict": "MATCH"}, {"grade": "examined"}, {"p_value_corrected": "1/99999999"}, {"matched": [1]}):
        claimed = replace(evidence, result={**evidence.result, **claim})
        assert "is not what is recomputed" in refusal(builders.signed(claimed))


def test_what_a_bundle_must_leave_open_cannot_be_left_out():
    evidence = builders.anchored().evidence()
    for silent_about in ({"not_recomputed": ()}, {"does_not_prove": evidence.does_not_prove[1:]}):
        assert "what it leaves open" in refusal(builders.signed(replace(evidence, **silent_about)))


def test_a_bundle_is_one_reading_only():
    """The same statement spelled otherwise is another file, and none that verifies."""
    envelope = json.loads(builders.anchored().bundle())
    assert verified(canonical_bytes(envelope)).valid
    assert refusal(json.dumps(envelope, indent=1).encode()).startswith("file: ")
