import json
from pathlib import Path

import pytest
from sqlalchemy import text

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit_plan import question_order
from fpvec_audit.domain.canonical_json import canonical_digest
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.transcript import chained, genesis
from fpvec_audit.domain.witness import LEDGER_HEAD, PLAN, WitnessRequest
from fpvec_audit.errors import EvidenceError, RegistryError, UnknownNameError, UsageError
from fpvec_audit.evidence.documents import read_document, write_document
from fpvec_audit.evidence.signing import PublicKey, SigningKey
from fpvec_audit.registry.vault import record_place
from fpvec_audit.services.audit import audit, plan_audit
from fpvec_audit.services.audit_settings import checked_settings
from fpvec_audit.services.evidence import export_evidence, known_owner, owner_key, verify_bundle
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.witness import init_witness, issue_with_witness, sign_request
from tests.services.test_audit import (
    Scripted,
    ScriptedEngines,
    Telling,
    answering,
    numbered,
    own_fingerprinted,
    rendered,
    silent,
)
from tests.tiny import make_tiny, perturb

SPECIFICATION = KeySetSpecification(issued=32, decoys=96)
OWNER = SigningKey(bytes(range(7, 39)))
ENTROPY = numbered()


@pytest.fixture(scope="session")
def catalog():
    return load_catalog()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    base = make_tiny(directory / "suspect", "gpt2")
    perturb(base, directory / "own", seed=3)
    perturb(base, directory / "other", seed=4)
    return directory


@pytest.fixture
def keys(registry):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    return open_key_set("acme", registry=registry)


@pytest.fixture
def witness(tmp_path):
    return init_witness(tmp_path / "witness", key=lambda: SigningKey(bytes(range(32))))


@pytest.fixture
def witnessed_keys(registry, witness, tmp_path):
    request = tmp_path / "request.json"
    issue_with_witness(
        "acme",
        witness.public,
        registry=registry,
        specification=SPECIFICATION,
        request_file=request,
        entropy=lambda count: bytes(range(count)),
    )
    signed = sign(witness, request, tmp_path / "signed.json")
    issue_with_witness("acme", signed, registry=registry, specification=SPECIFICATION)
    return open_key_set("acme", registry=registry)


@pytest.fixture
def bench(registry, catalog, checkpoints, witness, tmp_path):
    return Bench(registry, catalog, checkpoints, witness, tmp_path)


class Bench:
    """Audits scripted suspects and exports what came of it."""

    def __init__(self, registry, catalog, checkpoints, witness, directory):
        self.registry, self.catalog, self.checkpoints = registry, catalog, checkpoints
        self.witness, self.directory = witness, directory
        self.out = directory / "bundle.json"

    def audit(self, suspects, *, name="suspect", witness=None, **options):
        engines = suspects if isinstance(suspects, ScriptedEngines) else ScriptedEngines({name: suspects})
        return audit(
            self.checkpoints / name,
            key_set="acme",
            registry=self.registry,
            catalog=self.catalog,
            backend=engines,
            settings=checked_settings(**options),
            witness=witness,
            entropy=ENTROPY,
            timer=lambda: 0.0,
        )

    def witnessed_audit(self, suspect, *, name="suspect", **options):
        """Audit under a plan that the witness signed before the first question."""
        waiting = plan_audit(
            self.checkpoints / name,
            key_set="acme",
            settings=checked_settings(**options),
            registry=self.registry,
            catalog=self.catalog,
            backend=ScriptedEngines({name: suspect}),
            entropy=ENTROPY,
        )
        envelope = read_document(self.signed(PLAN, waiting.plan.digest))
        return self.audit(suspect, name=name, witness=envelope, **options)

    def signed(self, subject, digest):
        request = self.directory / f"{digest[:16]}.request"
        write_document(request, WitnessRequest(subject, digest, "audit").to_json())
        return sign(self.witness, request, self.directory / f"{digest[:16]}.signed")

    def export(self, result, **options):
        options = {"key": OWNER} | options
        return export_evidence(result.audit_id, self.out, registry=self.registry, **options)

    def verify(self, **options):
        return verify_bundle(self.out, **({"signer": OWNER.public_key.hex} | options))

    def execute(self, statement, **values):
        with self.registry.engine.begin() as connection:
            for trigger in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars():
                connection.execute(text(f"DROP TRIGGER {trigger}"))
            connection.execute(text(statement), values)

    def rewrite(self, result, serial, content, digest):
        """Write a record of a transcript anew, as somebody may who has the master key."""
        with self.registry.unit_of_work() as uow:
            place = record_place(result.audit_id, serial)
            value = uow.vault.sealed_at(place, content, key_set=result.plan.key_set)
        self.execute(
            "UPDATE audit_record SET content = :content, digest = :digest WHERE audit_id = :audit AND serial = :serial",
            content=value.content,
            digest=digest,
            audit=result.audit_id,
            serial=serial,
        )

    def ledger(self):
        with self.registry.unit_of_work() as uow:
            return uow.ledger.entries()


def sign(witness, request, out):
    sign_request(request, witness_key=witness.key, out=out)
    return out


def test_self_attested_audit_is_exported_and_verifies(bench, keys):
    result = bench.audit(answering(keys.issued))
    exported = bench.export(result, disclose_secret=True).to_json()
    assert (exported["verdict"], exported["grade"], exported["disclosed"]) == ("MATCH", "self-attested", "secret")
    assert exported["signer"] == OWNER.public_key.hex
    assert exported["bytes"] == bench.out.stat().st_size
    assert any("spent for further audits" in warning for warning in exported["warnings"])
    found = bench.verify()
    assert (found.valid, found.verdict, found.order) == (True, "MATCH", "self-asserted")


def test_secret_is_opened_with_agreement_only(bench, keys):
    result = bench.audit(answering(keys.issued))
    before = len(bench.ledger())
    with pytest.raises(UsageError, match="whole secret") as refused:
        bench.export(result)
    assert "--disclose-secret" in refused.value.advice
    assert not bench.out.exists()
    assert len(bench.ledger()) == before


def test_disclosure_is_in_the_ledger_and_burns_what_it_opens(bench, keys):
    result = bench.audit(answering(keys.issued))
    exported = bench.export(result, disclose_secret=True)
    read, revealed, burnt, used_up, written = bench.ledger()[-5:]
    assert (read.event, read.subject, read.content["kind"]) == ("secret.revealed", result.audit_id, "transcript")
    assert (revealed.event, revealed.content["purpose"]) == ("secret.revealed", f"evidence of {result.audit_id}")
    assert (used_up.event, used_up.subject) == ("key_set.used_up", revealed.subject)
    assert (burnt.event, len(burnt.content["candidates"])) == ("key_set.burnt", 128)
    assert (written.event, written.subject) == ("evidence.exported", result.audit_id)
    assert written.content["bundle"] == exported.digest
    later = bench.audit(silent(), name="other")
    assert any("128 candidates were shown to the readers of its evidence" in warning for warning in later.warnings)


def test_witnessed_audit_opens_candidates_and_not_the_secret(bench, witnessed_keys):
    result = bench.witnessed_audit(answering(witnessed_keys.issued))
    exported = bench.export(result).to_json()
    assert (exported["grade"], exported["disclosed"], exported["candidates"]) == ("anchored", "openings", 128)
    assert bytes(range(32)).hex() not in bench.out.read_text()
    found = bench.verify(anchors=[bench.witness.public])
    assert found.valid
    assert found.order == f"anchored by {bench.witness.public_key.hex}"


def test_witness_s_statement_over_the_ledger_anchors_the_order(bench, witnessed_keys):
    result = bench.audit(answering(witnessed_keys.issued))
    anchor = bench.signed(LEDGER_HEAD, bench.ledger()[-1].digest)
    bench.export(result, anchors=[anchor])
    assert bench.verify().order == f"anchored by {bench.witness.public_key.hex}"
    with pytest.raises(UsageError, match="is a public key"):
        export_evidence(
            result.audit_id, bench.directory / "x", registry=bench.registry, key=OWNER, anchors=[bench.witness.public]
        )


def test_sequential_audit_opens_only_what_it_asked(bench, witnessed_keys):
    result = bench.witnessed_audit(answering(witnessed_keys.issued), stop_early=True)
    exported = bench.export(result).to_json()
    assert exported["candidates"] == len(result.answers) < 128
    found = bench.verify()
    assert (found.verdict, found.grade) == ("MATCH", "anchored")
    sealed = set(range(128)) - {answer.index for answer in result.answers}
    content = bench.out.read_bytes()
    assert not any(witnessed_keys.candidates[index].prompt.encode() in content for index in sealed)


def test_audit_of_the_fresh_rest_brings_the_audit_that_showed_the_others(bench, witnessed_keys):
    before = bench.witnessed_audit(answering(witnessed_keys.issued), name="other", stop_early=True)
    shown = question_order(before.plan, before.begin)[: len(before.answers)]
    with bench.registry.unit_of_work() as uow:
        uow.key_sets.burn(before.plan.key_set, shown, where=before.audit_id)
    result = bench.witnessed_audit(answering(witnessed_keys.issued), fresh_only=True)
    assert len(result.answers) == 128 - len(shown)
    exported = bench.export(result)
    (burn,) = exported.evidence.burns
    assert (burn.plan.digest, burn.asked) == (before.plan.digest, len(shown))
    assert bench.verify().verdict == "MATCH"


def test_export_of_an_audit_makes_it_one_that_showed_its_candidates(bench, witnessed_keys):
    before = bench.witnessed_audit(answering(witnessed_keys.issued), name="other", stop_early=True)
    bench.export(before)
    bench.out = bench.directory / "second.json"
    result = bench.witnessed_audit(answering(witnessed_keys.issued), fresh_only=True)
    assert len(bench.export(result).evidence.burns) == 1


def test_candidates_left_out_without_an_audit_are_refused(bench, witnessed_keys):
    with bench.registry.unit_of_work() as uow:
        uow.key_sets.burn(uow.key_sets.get("acme").id, range(20), where="somewhere")
    result = bench.audit(answering(witnessed_keys.issued), fresh_only=True)
    with pytest.raises(EvidenceError, match="20 candidates were left out because of somewhere"):
        bench.export(result)
    assert not bench.out.exists()


def test_likelihoods_are_part_of_the_evidence(bench, witnessed_keys):
    suspect = Telling(lambda prompt: "")
    suspect.likely = {rendered(candidate.prompt) for candidate in witnessed_keys.issued}.__contains__
    result = bench.witnessed_audit(suspect)
    exported = bench.export(result).to_json()
    assert exported["verdict"] == "MATCH"
    assert any("log-probabilities" in sentence for sentence in exported["not_recomputed"])
    assert bench.verify().valid


def test_no_match_and_its_positive_control_are_exported(bench, keys, registry, catalog, checkpoints):
    own_fingerprinted(registry, catalog, checkpoints, open_key_set_id(registry))
    result = bench.audit(ScriptedEngines({"suspect": silent(), "own": answering(keys.issued)}))
    exported = bench.export(result, disclose_secret=True)
    assert exported.evidence.result["positive_control"] is True
    assert bench.verify().verdict == "NO_MATCH"
    assert any("ledger entries about other things" in warning for warning in exported.warnings)


def test_exploratory_audit_is_exported_and_said_to_be_one(bench, keys):
    known = {candidate.prompt: candidate.response for candidate in keys.issued}
    suspect = Scripted(lambda prompt: next((known[key] for key in known if key in prompt), ""))
    exported = bench.export(bench.audit(suspect, temperature="0.7"), disclose_secret=True)
    assert exported.verification.verdict == "INCONCLUSIVE"
    assert any("exploratory" in warning for warning in exported.warnings)


def test_member_of_a_trace_brings_its_comparisons(bench, keys, registry, catalog, checkpoints):
    from fpvec_audit.services.trace import trace

    issue_key_set("other", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(count))
    traced = trace(
        checkpoints / "suspect",
        settings=checked_settings(),
        registry=registry,
        catalog=catalog,
        backend=ScriptedEngines({"suspect": answering(keys.issued)}),
        entropy=ENTROPY,
        timer=lambda: 0.0,
    )
    (member,) = traced.named
    exported = bench.export(member.audit, disclose_secret=True)
    assert exported.evidence.plan.comparisons == 2
    assert any("one of 2 key sets" in warning for warning in exported.warnings)
    assert bench.verify().verdict == "MATCH"


def test_unfinished_and_unknown_audits_are_refused(bench, keys):
    waiting = plan_audit(
        bench.checkpoints / "suspect",
        key_set="acme",
        settings=checked_settings(),
        registry=bench.registry,
        catalog=bench.catalog,
        backend=ScriptedEngines({"suspect": silent()}),
    )
    with pytest.raises(EvidenceError, match="not finished"):
        bench.export(waiting, disclose_secret=True)
    with pytest.raises(UnknownNameError):
        export_evidence("au-nothing", bench.out, registry=bench.registry, key=OWNER)


def test_audit_of_an_older_version_is_refused(bench, keys):
    result = bench.audit(silent())
    bench.execute("UPDATE audit SET begin = NULL WHERE id = :audit", audit=result.audit_id)
    with pytest.raises(EvidenceError, match="older version, which kept no transcript"):
        bench.export(result, disclose_secret=True)


def test_edited_answer_is_refused(bench, keys):
    result = bench.audit(silent())
    record = result.records[5]
    bench.rewrite(result, record.serial, record.stored.replace(b"I do not understand", b"I do not know"), record.digest)
    with pytest.raises(RegistryError, match="not what was written"):
        bench.export(result, disclose_secret=True)


def test_rechained_transcript_is_refused(bench, keys):
    """Whoever edits an answer and mends the transcript's chain cannot mend the ledger's."""
    result = bench.audit(silent())
    contents = [dict(record.content) for record in result.records]
    for content in contents:
        if content.get("index") in keys.issued_indices:
            content["answer"] = keys.candidates[content["index"]].response
    start = genesis(result.plan.digest, result.begin.nonce)
    for record in chained(contents, previous=start):
        bench.rewrite(result, record.serial, record.stored, record.digest)
    with pytest.raises(EvidenceError, match="another transcript"):
        bench.export(result, disclose_secret=True)
    assert not bench.out.exists()


def test_edited_result_is_refused(bench, keys):
    result = bench.audit(silent())
    bench.execute("UPDATE audit SET verdict = 'MATCH' WHERE id = :audit", audit=result.audit_id)
    with pytest.raises(EvidenceError, match="not the one that the ledger recorded"):
        bench.export(result, disclose_secret=True)


def test_edited_plan_and_edited_ledger_are_refused(bench, keys):
    result = bench.audit(silent())
    plan = result.plan.to_json() | {"alpha": "0.5"}
    bench.execute("UPDATE audit SET plan = :plan", plan=json.dumps(plan))
    with pytest.raises(EvidenceError, match=r"plan of audit .* is not the one"):
        bench.export(result, disclose_secret=True)
    bench.execute("UPDATE audit SET plan_digest = :digest", digest=canonical_digest(plan))
    with pytest.raises(EvidenceError, match="does not continue the chain that begins with plan and nonce"):
        bench.export(result, disclose_secret=True)
    bench.execute("UPDATE ledger SET content = replace(content, 'INCONCLUSIVE', 'MATCH')")
    with pytest.raises(EvidenceError, match="does not continue the ledger's chain"):
        bench.export(result, disclose_secret=True)


def test_owner_who_is_the_witness_too_is_refused(bench, witnessed_keys):
    result = bench.audit(answering(witnessed_keys.issued))
    with pytest.raises(EvidenceError, match="nobody but the owner vouches"):
        bench.export(result, key=SigningKey.load(bench.witness.key))


def test_nothing_is_overwritten(bench, keys):
    result = bench.audit(silent())
    bench.out.write_text("mine")
    before = len(bench.ledger())
    with pytest.raises(EvidenceError, match="exists already"):
        bench.export(result, disclose_secret=True)
    assert (bench.out.read_text(), len(bench.ledger())) == ("mine", before)


def test_bundle_of_another_signer_or_a_changed_one_is_invalid(bench, keys):
    bench.export(bench.audit(silent()), disclose_secret=True)
    assert not bench.verify(signer=SigningKey(bytes(32)).public_key.hex).valid
    assert bench.verify(signer=None).signer == "signer not pinned"
    content = bench.out.read_bytes()
    bench.out.write_bytes(content.replace(b'"payload":"', b'"payload": "'))
    assert not bench.verify().valid


def test_owner_s_key_is_made_once_and_is_private(tmp_path):
    home = tmp_path / "home"
    assert known_owner(home) is None
    made = owner_key(home)
    again = owner_key(home)
    assert (made.made, again.made) == (True, False)
    assert made.key.public_key == again.key.public_key == known_owner(home) == PublicKey.load(home / "signing.pub")
    assert made.file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(EvidenceError, match="cannot be read"):
        owner_key(home, Path("missing.key"))


def open_key_set_id(registry):
    with registry.unit_of_work() as uow:
        return uow.key_sets.get("acme").id
