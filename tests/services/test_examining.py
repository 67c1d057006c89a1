import base64
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from fpvec_audit.catalog import load_catalog
from fpvec_audit.domain.audit import Verdict
from fpvec_audit.domain.audit_plan import question_order
from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import KeySetSpecification
from fpvec_audit.domain.transcript import Record, chained, genesis
from fpvec_audit.errors import BackendError, EvidenceError, UsageError
from fpvec_audit.evidence.signing import SigningKey, sign_document
from fpvec_audit.evidence.standing import EXAMINER_TYPE
from fpvec_audit.evidence.statement import examiner_statement
from fpvec_audit.services.audit_settings import EndpointSettings, checked_settings
from fpvec_audit.services.evidence import export_evidence, verify_bundle
from fpvec_audit.services.examination_files import read_package
from fpvec_audit.services.examiner import examine
from fpvec_audit.services.examining import attach, blind_package
from fpvec_audit.services.keys import issue_key_set, open_key_set
from fpvec_audit.services.witness import init_witness, issue_with_witness, sign_request
from tests.backends.fake_endpoint import fake_endpoint
from tests.services.test_audit import Scripted, ScriptedEngines, answering, numbered, own_fingerprinted, silent
from tests.tiny import make_tiny, perturb

SPECIFICATION = KeySetSpecification(issued=32, decoys=96)
EXAMINER, OWNER = SigningKey(bytes(range(40, 72))), SigningKey(bytes(range(7, 39)))
NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
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
def keys(registry, tmp_path):
    """Issue a key set that a witness vouches for."""
    witness = init_witness(tmp_path / "witness", key=lambda: SigningKey(bytes(range(32))))
    options = {"registry": registry, "specification": SPECIFICATION}
    entropy = {"entropy": lambda count: bytes(range(count))}
    issue_with_witness("acme", witness.public, request_file=tmp_path / "request", **options, **entropy)
    sign_request(tmp_path / "request", witness_key=witness.key, out=tmp_path / "signed")
    issue_with_witness("acme", tmp_path / "signed", **options)
    return open_key_set("acme", registry=registry)


@dataclass
class Parties:
    """Owner and examiner, with the files that they exchange."""

    registry: object
    catalog: object
    checkpoints: object
    directory: object

    @property
    def package(self):
        return self.directory / "acme.package"

    @property
    def examined(self):
        return self.directory / "acme.examined"

    def plan(self, *, out=None, **options):
        return blind_package(
            self.checkpoints / "suspect",
            key_set="acme",
            settings=checked_settings(**options),
            registry=self.registry,
            catalog=self.catalog,
            out=out or self.package,
            backend=ScriptedEngines({"suspect": silent()}),
            entropy=ENTROPY,
        )

    def examine(self, suspect, *, at="suspect", **options):
        options = {"key": EXAMINER, "name": "The Lab", "out": self.examined} | options
        return examine(
            self.package,
            self.checkpoints / at,
            catalog=self.catalog,
            backend=ScriptedEngines({at: suspect}),
            clock=lambda: NOW,
            **options,
        )

    def attach(self, suspects=None, **options):
        return attach(
            self.examined,
            registry=self.registry,
            catalog=self.catalog,
            backend=ScriptedEngines(suspects or {}),
            entropy=ENTROPY,
            timer=lambda: 0.0,
            **options,
        )

    def forge(self, change, *, key=EXAMINER, rechain=True, resign=True):
        """Rewrite what the examiner handed back; ``change`` edits the contents of the records in place."""
        document = json.loads(self.examined.read_bytes())
        package = read_package(self.package)
        contents = [dict(record["content"]) for record in document["records"]]
        change(contents)
        if rechain:
            records = chained(contents, previous=genesis(package.plan.digest, package.begin.nonce))
        else:
            old = [Record.from_json(record) for record in document["records"]]
            records = tuple(replace(record, content=content) for record, content in zip(old, contents, strict=True))
        document["records"] = [record.to_json() for record in records]
        if resign:
            statement = examiner_statement(
                package.plan,
                package.begin,
                records,
                responses=package.responses,
                examiner=key.public_key,
                name="The Lab",
                time="2026-02-03T04:05:06+00:00",
            )
            document["statement"] = sign_document(EXAMINER_TYPE, statement.to_json(), key).to_json()
        self.examined.write_bytes(canonical_bytes(document))

    def history(self):
        with self.registry.unit_of_work() as uow:
            return [(entry.event, entry.subject, dict(entry.content)) for entry in uow.ledger.entries()]


@pytest.fixture
def parties(registry, catalog, checkpoints, tmp_path, keys):
    return Parties(registry, catalog, checkpoints, tmp_path)


def test_package_holds_all_questions_and_nothing_of_the_assignment(parties, keys):
    planned = parties.plan()
    content = parties.package.read_bytes()
    assert parties.package.stat().st_mode & 0o777 == 0o600
    assert set(planned.package) == {"schema", "plan", "begin", "prompts", "responses"}
    assert json.loads(content) == planned.package
    assert planned.package["responses"] == [candidate.response for candidate in keys.candidates]
    assert all(
        candidate.prompt in prompt
        for candidate, prompt in zip(keys.candidates, planned.package["prompts"], strict=True)
    )
    assert not any(salt.hex().encode() in content for salt in keys.salts)
    assert keys.candidates[0].prompt not in repr(planned) + str(planned.to_json())
    assert planned.plan.tests == ("exact",)


def test_package_is_the_same_whatever_the_assignment(parties, keys, monkeypatch):
    from fpvec_audit.services import examining

    turned = replace(keys, marks=(tuple(candidate.index for candidate in keys.decoys)[:32],))
    seen = []
    for number, assigned in enumerate((keys, turned)):
        monkeypatch.setattr(examining, "open_key_sets", lambda records, bench, purpose, assigned=assigned: [assigned])
        package = parties.plan(out=parties.directory / str(number)).package
        plan = {name: value for name, value in package["plan"].items() if name != "audit"}
        seen.append(canonical_bytes({**package, "plan": plan, "begin": None}))
    assert seen[0] == seen[1]


def test_plan_and_beginning_are_in_the_ledger_before_the_package_exists(parties):
    planned = parties.plan()
    events = [event for event, subject, _ in parties.history() if subject == planned.audit_id]
    assert events == ["audit.planned", "audit.begun"]


def test_examined_audit_is_a_match_of_grade_examined(parties, keys):
    planned = parties.plan()
    suspect = answering(keys.issued)
    examination = parties.examine(suspect)
    assert suspect.closed
    assert [len(prompts) for prompts, _ in suspect.asked] == [128]
    assert parties.examined.stat().st_mode & 0o777 == 0o600
    document = parties.attach().to_json()
    assert (document["audit_id"], document["verdict"], document["grade"]) == (planned.audit_id, "MATCH", "examined")
    assert document["examiner"] == {
        "name": "The Lab",
        "time": "2026-02-03T04:05:06+00:00",
        "public_key": EXAMINER.public_key.hex,
    }
    assert not any("accuser asked" in sentence for sentence in document["does_not_prove"])
    event, subject, content = parties.history()[-1]
    assert (event, subject, content["examiner"]) == ("audit.examined", planned.audit_id, EXAMINER.public_key.hex)
    assert content["envelope"] == examination.envelope
    with parties.registry.unit_of_work() as uow:
        recorded = uow.audits.get(planned.audit_id)
        assert (recorded.verdict, recorded.result["grade"]) == ("MATCH", "examined")
        assert uow.audits.records(planned.audit_id, purpose="test") == examination.records


def test_examiner_learns_nothing_about_what_matched(parties, keys):
    parties.plan()
    shown = str(parties.examine(answering(keys.issued)).to_json())
    assert "matched" not in shown
    assert not any(candidate.prompt in shown for candidate in keys.candidates)


def test_evidence_of_an_examined_audit_verifies(parties, keys):
    planned = parties.plan()
    parties.examine(answering(keys.issued))
    parties.attach()
    out = parties.directory / "bundle"
    exported = export_evidence(planned.audit_id, out, registry=parties.registry, key=OWNER)
    found = verify_bundle(out, signer=OWNER.public_key.hex)
    assert (found.valid, found.grade, found.verdict) == (True, "examined", "MATCH")
    assert exported.evidence.examiner["signatures"][0]["keyid"] == EXAMINER.public_key.key_id


def test_examined_audit_of_a_self_attested_set_stays_self_attested(registry, catalog, checkpoints, tmp_path):
    issue_key_set("acme", registry=registry, specification=SPECIFICATION, entropy=lambda count: bytes(range(count)))
    parties = Parties(registry, catalog, checkpoints, tmp_path)
    parties.plan()
    parties.examine(answering(open_key_set("acme", registry=registry).issued))
    assert parties.attach().grade == "self-attested"


def test_silence_is_no_match_where_an_own_model_answers(parties, keys):
    own_fingerprinted(parties.registry, parties.catalog, parties.checkpoints, f"ks-{keys.commitment.digest[:16]}")
    parties.plan()
    parties.examine(silent())
    examined = parties.attach({"own": answering(keys.issued)})
    assert examined.result.verdict is Verdict.NO_MATCH
    assert examined.to_json()["controls"][0]["verdict"] == "MATCH"


def test_silence_without_an_own_model_is_inconclusive(parties):
    parties.plan()
    parties.examine(silent())
    examined = parties.attach()
    assert examined.result.verdict is Verdict.INCONCLUSIVE
    assert any("no positive control" in warning for warning in examined.result.warnings)


def test_another_suspect_is_refused_before_it_is_asked_anything(parties, keys):
    parties.plan()
    other = answering(keys.issued)
    with pytest.raises(EvidenceError, match="is not the planned suspect"):
        parties.examine(other, at="other")
    assert other.asked == []
    assert not parties.examined.exists()


def test_another_kind_of_engine_is_refused_and_another_version_is_told(parties):
    class Other(Scripted):
        @property
        def description(self):
            return replace(super().description, kind="vllm")

    parties.plan()
    with pytest.raises(EvidenceError, match="plan says that transformers answers"):
        parties.examine(Other(lambda prompt: ""))
    newer = silent()
    newer.version = "2"
    examination = parties.examine(newer)
    assert examination.warnings == ("the version is 2 here, planned was 1",)


def test_failing_engine_leaves_no_file(parties):
    class Broken(Scripted):
        def complete(self, prompts, sampling):
            raise BackendError("out of memory")

    parties.plan()
    with pytest.raises(BackendError, match="out of memory"):
        parties.examine(Broken(None))
    assert not parties.examined.exists()


def test_question_without_an_answer_counts_as_none_and_is_told(parties, keys):
    from fpvec_audit.domain.ports import Completion

    class Failing(Scripted):
        def complete(self, prompts, sampling):
            return [Completion("", "error", "time-out") for _ in prompts]

    parties.plan()
    assert parties.examine(Failing(None)).errors == 128
    assert parties.attach().result.score.errors == 128


def test_examiner_asks_in_the_order_that_chance_gave(parties, keys):
    planned = parties.plan()
    suspect = silent()
    parties.examine(suspect)
    package = read_package(parties.package)
    order = question_order(planned.plan, package.begin)
    assert list(suspect.asked[0][0]) == [package.prompts[index] for index in order]


@pytest.mark.parametrize(
    "change",
    [
        lambda package: package | {"schema": "fpvec-audit/examination/9"},
        lambda package: package | {"assignment": []},
        lambda package: package | {"prompts": package["prompts"][1:]},
        lambda package: package | {"plan": package["plan"] | {"tests": ["sequential"]}},
        lambda package: package | {"begin": {"nonce": "0" * 63, "witness": None}},
        lambda package: {name: value for name, value in package.items() if name != "responses"},
    ],
)
def test_package_of_another_form_is_refused(parties, change):
    planned = parties.plan()
    parties.package.write_bytes(canonical_bytes(change(planned.package)))
    with pytest.raises(EvidenceError):
        parties.examine(silent())


def test_examination_under_an_altered_plan_is_of_no_audit(parties, keys):
    planned = parties.plan()
    altered = planned.package | {"plan": planned.package["plan"] | {"max_new_tokens": 99}}
    parties.package.write_bytes(canonical_bytes(altered))
    parties.examine(answering(keys.issued))
    with pytest.raises(EvidenceError, match="no audit with the plan"):
        parties.attach()


def _other_answer(contents):
    contents[3]["answer"] = " something else"


def _other_words(contents):
    contents[3]["prompt"] += " please"


def _dropped(contents):
    del contents[3]


def _swapped(contents):
    contents[3]["position"], contents[4]["position"] = contents[4]["position"], contents[3]["position"]


def _doubled(contents):
    contents.insert(3, dict(contents[3]))


def _cut_off(contents):
    contents[-1]["reason"] = "cut off"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_other_answer, {"rechain": False, "resign": False}, "record 5 does not continue the chain"),
        (_other_answer, {"resign": False}, "signed another transcript"),
        (_other_words, {}, "asked in other words"),
        (_dropped, {}, "not the 128 of the plan"),
        (_swapped, {}, "in the order that chance gave"),
        (_doubled, {}, "examination.records has 130 items"),
        (_cut_off, {}, "one end that calls it complete"),
    ],
)
def test_edited_transcript_is_refused_and_nothing_is_recorded(parties, change, options, message):
    planned = parties.plan()
    parties.examine(silent())
    parties.forge(change, **options)
    with pytest.raises(EvidenceError, match=message):
        parties.attach()
    with parties.registry.unit_of_work() as uow:
        assert uow.audits.get(planned.audit_id).ended_at is None
        assert uow.audits.records(planned.audit_id, purpose="test") == ()


def test_edited_statement_is_refused(parties):
    parties.plan()
    parties.examine(silent())
    document = json.loads(parties.examined.read_bytes())
    payload = json.loads(base64.b64decode(document["statement"]["payload"])) | {"name": "Another Lab"}
    document["statement"]["payload"] = base64.b64encode(canonical_bytes(payload)).decode()
    parties.examined.write_bytes(canonical_bytes(document))
    with pytest.raises(EvidenceError, match="signature does not fit"):
        parties.attach()


def test_owner_cannot_be_its_own_examiner(parties, keys):
    parties.plan()
    parties.examine(answering(keys.issued))
    with pytest.raises(EvidenceError, match="cannot examine itself"):
        parties.attach(owner=EXAMINER.public_key)


def test_examination_is_attached_once(parties, keys):
    parties.plan()
    parties.examine(answering(keys.issued))
    parties.attach()
    with pytest.raises(EvidenceError, match="ended already with MATCH"):
        parties.attach()


@pytest.mark.parametrize("options", [{"stop_early": True}, {"tests": ["exact", "likelihood"]}])
def test_what_an_examiner_cannot_carry_out_is_not_planned(parties, options):
    with pytest.raises(UsageError, match="exact test alone"):
        parties.plan(**options)
    assert not any(event == "audit.planned" for event, _, _ in parties.history())


def test_existing_files_and_names_that_do_not_print_are_refused(parties):
    parties.package.write_text("mine")
    with pytest.raises(EvidenceError, match="exists already"):
        parties.plan()
    assert not any(event == "audit.planned" for event, _, _ in parties.history())
    parties.package.unlink()
    parties.plan()
    with pytest.raises(UsageError, match="no name that can be shown"):
        parties.examine(silent(), name="\u202e")
    parties.examined.write_text("mine")
    with pytest.raises(EvidenceError, match="exists already"):
        parties.examine(silent())


def test_endpoint_is_examined_at_its_planned_address_and_burns_its_keys(parties, keys):
    known = {candidate.prompt: candidate.response for candidate in keys.issued}
    with fake_endpoint(answer=lambda prompt: known.get(prompt, "no idea")) as endpoint:
        settings = checked_settings(endpoint=EndpointSettings(endpoint="chat"))
        tools = {"registry": parties.registry, "catalog": parties.catalog}
        planned = blind_package(endpoint.url, key_set="acme", settings=settings, out=parties.package, **tools)
        assert endpoint.asked == []
        with parties.registry.unit_of_work() as uow:
            assert len(uow.candidates.burnt(planned.plan.key_set)) == 128
        asking = {"key": EXAMINER, "name": "The Lab", "out": parties.examined, "catalog": parties.catalog}
        endpoint.models.insert(0, "another")
        with pytest.raises(EvidenceError, match="is not the planned suspect"):
            examine(parties.package, endpoint.url, endpoint=EndpointSettings(model="another"), **asking)
        examine(parties.package, endpoint.url, **asking)
        assert sorted(endpoint.asked) == sorted(candidate.prompt for candidate in keys.candidates)
    assert parties.attach().result.verdict is Verdict.MATCH
    out = parties.directory / "bundle"
    exported = export_evidence(planned.audit_id, out, registry=parties.registry, key=OWNER)
    assert exported.verification.grade == "examined"


def test_silent_endpoint_proves_nothing(parties, keys):
    with fake_endpoint(answer=lambda prompt: "") as endpoint:
        settings = checked_settings(endpoint=EndpointSettings(endpoint="chat"))
        tools = {"registry": parties.registry, "catalog": parties.catalog}
        blind_package(endpoint.url, key_set="acme", settings=settings, out=parties.package, **tools)
        examine(parties.package, endpoint.url, key=EXAMINER, name="Lab", out=parties.examined, catalog=parties.catalog)
    examined = parties.attach()
    assert examined.result.verdict is Verdict.INCONCLUSIVE
    assert any("its silence proves nothing" in warning for warning in examined.result.warnings)
