"""Complete small bundles from pure domain objects: no registry, no models, the same bytes every time."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

from fpvec_audit.domain.audit import AuditPlan, Begin
from fpvec_audit.domain.audit_plan import MatchRule, question_order, questions
from fpvec_audit.domain.beacon import QUICKNET, BeaconRound
from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.keys import (
    ANCHORED,
    SELF_ATTESTED,
    KeySet,
    KeySetSecret,
    KeySetSpecification,
    draw_key_set,
    restore_key_set,
)
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import Answer, chained, genesis, head
from fpvec_audit.domain.witness import COMMITMENT, LEDGER_HEAD, PLAN, WitnessStatement
from fpvec_audit.evidence.bundle import Burn, Evidence, sign_evidence
from fpvec_audit.evidence.recomputation import entry_digest
from fpvec_audit.evidence.signing import SigningKey, sign_document
from fpvec_audit.evidence.standing import EXAMINER_TYPE
from fpvec_audit.evidence.statement import build_statement, examiner_statement
from fpvec_audit.evidence.witness import prove_chance, sign_statement

OWNER, WITNESS, EXAMINER, STRANGER = (SigningKey(bytes([number]) * 32) for number in range(1, 5))
MATERIAL = bytes(range(32))
TIME = "2026-01-02T03:04:05+00:00"
ISSUED, DECOYS = 16, 112
SUSPECT = {"kind": "directory", "location": "/suspect", "digest": "5" * 64}
BASE = "b" * 64

ROUND = BeaconRound(QUICKNET.hash, QUICKNET.round_at(datetime(2026, 1, 3, tzinfo=UTC)), "ab" * QUICKNET.signature_bytes)


def witnessed(subject, digest, *, key=WITNESS, serial=1):
    """Return a witness's signed statement."""
    return sign_statement(WitnessStatement(subject, digest, "the set", serial, TIME, key.public_key.hex), key)


@dataclass(frozen=True)
class Story:
    """Everything before and after the questions of one audit; change a part and ask for the evidence again."""

    key_set: KeySet
    secret: KeySetSecret
    chance: dict | None
    plan: AuditPlan
    begin: Begin
    contents: tuple
    burns: tuple = ()
    examined: bool = False
    anchored: bool = False
    positive_control: bool = True
    events: tuple = ()
    words: tuple = ()

    @property
    def records(self):
        return chained(self.contents, previous=genesis(self.plan.digest, self.begin.nonce))

    @property
    def responses(self):
        return {candidate.index: candidate.response for candidate in self.key_set.candidates}

    def ledger(self, verdict):
        """Return the ledger of an owner who did nothing else."""
        plan, begin = self.plan, self.begin
        audit = f"au-{plan.digest[:16]}"
        chance = "" if self.chance is None else prove_chance(self.key_set.commitment, self.chance).value.hex()
        issued = {"commitment": self.key_set.commitment.digest, "root": plan.root, "chance": chance}
        witness = "" if begin.witness is None else canonical_digest(begin.witness)
        suspect = {"suspect": plan.suspect["location"], "suspect_digest": plan.suspect["digest"]}
        transcript = head(self.records, start=genesis(plan.digest, begin.nonce))
        return entries(
            ("key_set.issued", plan.key_set, issued),
            ("key_set.bound", plan.key_set, {"base": BASE}),
            *self.events,
            ("model.registered", "5" * 64, {"name": "suspect"}),
            ("audit.planned", audit, {"key_set": plan.key_set, "plan": plan.digest, **suspect}),
            ("audit.begun", audit, {"nonce": begin.nonce, "witness": witness}),
            ("secret.revealed", "ks-other", {"purpose": "something else that went on"}),
            (
                "audit.finished",
                audit,
                {"verdict": verdict, "result": "c" * 64, "transcript": transcript, "records": len(self.records)},
            ),
        )

    def evidence(self, *, signer=OWNER) -> Evidence:
        examiner = None
        if self.examined:
            document = examiner_statement(
                self.plan,
                self.begin,
                self.records,
                responses=self.responses,
                examiner=EXAMINER.public_key,
                name="the examiner",
                time=TIME,
            )
            examiner = sign_document(EXAMINER_TYPE, document.to_json(), EXAMINER).to_json()

        def built(ledger, anchors=()):
            before = 2 + len(self.events)
            return build_statement(
                key_set=self.key_set,
                secret=self.secret,
                chance=self.chance,
                plan=self.plan,
                begin=self.begin,
                records=self.records,
                earlier=ledger[:before],
                segment=ledger[before + 1 :],
                positive_control=self.positive_control,
                signer=signer.public_key,
                burns=self.burns,
                examiner=examiner,
                anchors=anchors,
                words=self.words,
            )

        verdict = built(self.ledger("")).result["verdict"]
        ledger = self.ledger(verdict)
        anchors = (witnessed(LEDGER_HEAD, ledger[-1].digest).envelope.to_json(),) if self.anchored else ()
        return built(ledger, anchors)

    def bundle(self, *, signer=OWNER) -> bytes:
        return signed(self.evidence(signer=signer), key=signer)


def signed(evidence, *, key=OWNER) -> bytes:
    """Return the bytes of a signed bundle."""
    return canonical_bytes(sign_evidence(evidence, key).to_json())


def entries(*events):
    """Return a ledger of these events."""
    chain, previous = [], "0" * 64
    for serial, (event, subject, content) in enumerate(events, start=1):
        at = f"2026-01-02T03:04:{serial:02d}.000000+00:00"
        entry = LedgerEntry(serial, at, event, subject, content, previous)
        entry = replace(entry, digest=entry_digest(entry))
        chain.append(entry)
        previous = entry.digest
    return tuple(chain)


@cache
def key_set(*, source="none", size=(ISSUED, DECOYS), marks=1):
    """Return (key set, secret, chance proof): self-attested, or with chance from the witness or the beacon."""
    secret = KeySetSecret(MATERIAL)
    sources = {"none": "none", "witness": f"witness:{WITNESS.public_key.hex}"}
    chance_source = sources.get(source, ROUND.source)
    drawn = draw_key_set(secret, KeySetSpecification("independent", *size, marks), chance_source=chance_source)
    if source == "none":
        return drawn, secret, None
    proof = {"source": chance_source}
    if source == "beacon":
        proof["beacon"] = ROUND.to_json()
    else:
        proof["envelope"] = witnessed(COMMITMENT, drawn.commitment.digest).envelope.to_json()
    chance = prove_chance(drawn.commitment, proof).value
    return restore_key_set(secret, drawn.commitment, chance=chance), secret, proof


def plan_for(drawn, **changes):
    commitment = drawn.commitment
    plan = AuditPlan(
        audit="0123456789abcdef",
        key_set=f"ks-{commitment.digest[:16]}",
        commitment_digest=commitment.digest,
        root=commitment.root,
        set_grade=SELF_ATTESTED if commitment.chance_source == "none" else ANCHORED,
        candidates=commitment.candidates,
        issued=commitment.issued,
        population=tuple(range(commitment.candidates)),
        suspect=SUSPECT,
        profile="chat-greedy",
        match=MatchRule.PREFIX,
        system_prompt_digest="",
        template="suspect",
        max_new_tokens=12,
        temperature="0",
        repeats=1,
        alpha="1e-6",
        tests=("exact",),
        backend={"kind": "transformers", "engine": "transformers", "version": "5"},
        plugins={"gpt2": "fpvec-audit 0.1.0"},
        tool_version="0.1.0",
        profiles=commitment.profiles,
    )
    return replace(plan, **changes)


def beginning(plan, *, witness=False, nonce="7" * 64):
    if not witness:
        return Begin(nonce)
    statement = witnessed(PLAN, plan.digest, serial=2)
    return Begin(statement.chance.hex(), statement.envelope.to_json())


def around(prompt):
    return f"user: {prompt}\nassistant:"


def conversation(drawn, plan, begin, *, knows, asked=None):
    """Return the contents of a transcript of a suspect that knows these candidates."""
    contents = []
    for position, (index, repeat) in enumerate(questions(plan, begin)[:asked]):
        candidate = drawn.candidates[index]
        text = f" {candidate.response} and so on" if index in knows else " I do not know"
        answer = Answer(index, around(candidate.prompt), text, position=position, repeat=repeat, first={"a": "-0.5"})
        contents.append(answer.to_json())
    for index in plan.population if plan.likelihood else ():
        suspect = "-0.25" if index in knows else f"-{3 + index / 64}"
        contents.append({"kind": "likelihood", "index": index, "suspect": suspect, "base": "-4.5"})
    for index in plan.population if plan.gradient else ():
        contents.append(
            {"kind": "gradient", "index": index, "score": f"{index % 7}e-05" if index % 5 else "", "vocabulary": ""}
        )
    whole = asked is None
    contents.append({"kind": "end", "reason": "complete" if whole else "stopped early"})
    return tuple(contents)


def story(*, source="none", witness=False, knows=None, asked=None, size=(ISSUED, DECOYS), **changes):
    """Return the story of an audit; the suspect knows the issued keys, or those given."""
    own = {name: changes.pop(name) for name in ("burns", "examined", "anchored", "positive_control") if name in changes}
    drawn, secret, chance = key_set(source=source, size=size)
    plan = plan_for(drawn, **changes)
    begin = beginning(plan, witness=witness)
    known = set(drawn.issued_indices) if knows is None else set(knows)
    contents = conversation(drawn, plan, begin, knows=known, asked=asked)
    return Story(drawn, secret, chance, plan, begin, contents, **own)


def self_attested():
    return story()


def innocent():
    return story(knows=())


def anchored():
    return story(source="witness", witness=True, anchored=True)


def examined():
    return story(source="witness", witness=True, examined=True)


def plan_unsigned():
    return story(source="witness")


def sequential():
    return story(source="witness", witness=True, tests=("sequential",), asked=60)


def with_likelihood():
    return story(
        source="witness",
        witness=True,
        tests=("exact", "likelihood", "gradient"),
        likelihood={"statistic": "response-minus-base", "base": BASE},
        gradient={"base": BASE, "clip": "3"},
    )


def repeated():
    return story(repeats=3)


def fresh_only():
    """Return an audit of what an earlier one, of another suspect, did not show."""
    drawn, _, _ = key_set(source="witness")
    before = plan_for(drawn, audit="f" * 16, suspect=SUSPECT | {"digest": "6" * 64})
    burn = Burn(before, beginning(before, witness=True), 32)
    shown = set(question_order(burn.plan, burn.begin)[:32])
    rest = tuple(index for index in range(ISSUED + DECOYS) if index not in shown)
    return story(source="witness", witness=True, population=rest, burns=(burn,))


STORIES = {
    "self-attested": self_attested,
    "innocent": innocent,
    "anchored": anchored,
    "examined": examined,
    "plan unsigned": plan_unsigned,
    "sequential": sequential,
    "likelihood": with_likelihood,
    "repeated": repeated,
    "fresh only": fresh_only,
}
