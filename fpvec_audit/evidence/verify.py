"""Verify a bundle offline: without a registry, a model, a network connection or trust in whoever made it.

Nothing is taken from the bundle that can be computed from the rest of it. Whatever a file holds, verifying ends with a
:class:`Verification` and never with an exception: what does not fit is a problem, in a sentence. Beside the standard
library this needs ``cryptography`` alone, so it can be run where nothing else of this project is installed::

    python -m fpvec_audit.evidence.verify FILE [--signer KEY] [--anchor FILE]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from fpvec_audit.domain.canonical_json import canonical_bytes
from fpvec_audit.domain.keys import ANCHORED
from fpvec_audit.domain.transcript import Answer, genesis, head
from fpvec_audit.domain.witness import COMMITMENT, LEDGER_HEAD, PLAN
from fpvec_audit.errors import EvidenceError, FpvecError
from fpvec_audit.evidence import recomputation
from fpvec_audit.evidence.bundle import EVIDENCE_TYPE, Evidence, read_bundle
from fpvec_audit.evidence.documents import read_bytes
from fpvec_audit.evidence.family import Words, check_words, family_not_recomputed
from fpvec_audit.evidence.outcome import does_not_prove, match_vector_digest, not_recomputed, outcome
from fpvec_audit.evidence.recomputation import OpenedKeySet
from fpvec_audit.evidence.signing import Envelope, PublicKey, verify_envelope
from fpvec_audit.evidence.standing import (
    check_burns,
    check_examiner,
    entitled_set_grade,
    grade_of,
    plan_witness,
    read_examiner_statement,
    relied_on,
)
from fpvec_audit.evidence.strict_json import Value, parse_canonical
from fpvec_audit.evidence.verification import Check as Check
from fpvec_audit.evidence.verification import Verification as Verification
from fpvec_audit.evidence.witness import ProvenChance, SignedStatement, prove_chance, verify_statement

Anchor = PublicKey | Mapping[str, Any]
"""A witness's public key, or an envelope that it signed, had from the witness itself."""
NOT_PINNED = "signer not pinned"
SELF_ASSERTED = "self-asserted"
MOST_ANCHOR_BYTES = 2**20

_Result = TypeVar("_Result")


def verify_evidence(content: bytes, *, signer: PublicKey | None = None, anchors: Sequence[Anchor] = ()) -> Verification:
    """Verify the bytes of a bundle.

    Args:
        content: what the file holds.
        signer: key that must have signed it; None takes the key that the bundle names, which anybody could have made.
        anchors: witnesses' keys, or envelopes that they signed, had from the witnesses themselves.
    """
    examination = _Examination()
    pinned = NOT_PINNED if signer is None else f"pinned {signer.hex}"
    try:
        evidence = examination.needed("file", lambda: _read(content))
        examination.needed("signature", lambda: _check_signature(evidence[0], evidence[1], signer))
        return _verified(evidence[1], examination, pinned, anchors)
    except EvidenceError:
        return examination.refused(pinned)


def _verified(evidence: Evidence, examination: "_Examination", pinned: str, anchors: Sequence[Anchor]) -> Verification:
    plan = evidence.plan
    chance = examination.needed("chance", lambda: _prove_chance(evidence))
    opened = examination.needed("key set", lambda: recomputation.open_key_set(evidence, chance))
    examination.needed("plan", lambda: (None, recomputation.check_plan(plan, evidence.commitment)))
    examination.needed("candidates asked", lambda: (None, _check_population(evidence)))
    witness = examination.needed("beginning", lambda: _check_begin(evidence, chance))
    given = examination.needed("transcript", lambda: recomputation.check_transcript(evidence))
    examination.needed("size", lambda: (None, _check_size(evidence, given, opened)))
    held = examination.needed("licensees", lambda: check_words(evidence))
    examination.wanted("questions", lambda: recomputation.check_rendering(plan, given, opened))
    examination.wanted("ledger", lambda: recomputation.check_ledger(evidence, chance))
    order = examination.needed("order", lambda: _order(evidence, chance, witness, anchors))
    examined = examination.needed("examiner", lambda: _check_examiner(evidence, opened))
    grade = grade_of(plan, witnessed=witness is not None, examined=examined)
    result = examination.needed("result", lambda: _check_result(evidence, opened, chance, grade, held))
    if examination.problems:
        return examination.refused(pinned)
    family = result.get("family", {})
    return Verification(
        valid=True,
        verdict=result["verdict"],
        alpha=plan.alpha,
        grade=grade,
        signer=pinned,
        order=order,
        problems=(),
        checks=tuple(examination.checks),
        not_recomputed=evidence.not_recomputed,
        does_not_prove=evidence.does_not_prove,
        accusation=family.get("accusation", ""),
        named=tuple(family.get("named", ())),
    )


class _Examination:
    """Collects what the checks of one bundle say."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not fit."""
        return tuple(f"{check.name}: {check.sentence}" for check in self.checks if not check.ok)

    def needed(self, name: str, check: Callable[[], tuple[_Result, str]]) -> _Result:
        """Return what a check computes.

        Raises:
            EvidenceError: it failed, which is noted; later checks rest on it.
        """
        try:
            result, sentence = check()
        except FpvecError as error:
            sentence = str(error)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, OSError) as error:
            sentence = f"cannot be looked at: {type(error).__name__}: {str(error)[:200]}"  # whatever a stranger wrote
        else:
            self.checks.append(Check(name, ok=True, sentence=sentence))
            return result
        self.checks.append(Check(name, ok=False, sentence=sentence))
        raise EvidenceError(sentence)

    def wanted(self, name: str, check: Callable[[], str]) -> None:
        """Carry out a check on which no other rests."""
        with suppress(EvidenceError):
            self.needed(name, lambda: (None, check()))

    def refused(self, pinned: str) -> Verification:
        """Return the verification of a bundle that does not verify: no verdict, no grade."""
        return Verification(
            valid=False,
            verdict="",
            alpha="",
            grade="",
            signer=pinned,
            order="",
            problems=self.problems,
            checks=tuple(self.checks),
            not_recomputed=(),
            does_not_prove=(),
        )


def _read(content: bytes) -> tuple[tuple[Envelope, Evidence], str]:
    envelope = Envelope.from_json(parse_canonical(content, name="the bundle"))
    evidence = Evidence.from_json(Value(parse_canonical(envelope.payload, name="the payload"), "payload"))
    return (envelope, evidence), f"one canonical document of {len(content)} bytes"


def _check_signature(envelope: Envelope, evidence: Evidence, signer: PublicKey | None) -> tuple[None, str]:
    key = PublicKey.from_hex(evidence.signer) if signer is None else signer
    verify_envelope(envelope, key, EVIDENCE_TYPE)
    if evidence.signer != key.hex:
        raise EvidenceError(f"the bundle names the signer {evidence.signer}, but {key.hex} signed it")
    return None, f"signed by {key.hex}" + (", whose key the bundle itself brings" if signer is None else "")


def _prove_chance(evidence: Evidence) -> tuple[ProvenChance | None, str]:
    chance = prove_chance(evidence.commitment, evidence.chance)
    if chance is None:
        return None, "no chance came from elsewhere: every p carries the grinding allowance"
    if chance.statement is None:
        return chance, f"R is round {chance.beacon.round if chance.beacon else 0} of a beacon; nobody saw C before it"
    said = chance.statement.statement
    return chance, f"{said.witness} saw the commitment at {said.time}, before R, and signed it as no. {said.serial}"


def _check_population(evidence: Evidence) -> str:
    check_burns(evidence.plan, evidence.burns, owner=evidence.signer)
    asked, everybody = len(evidence.plan.population), evidence.plan.candidates
    if asked == everybody:
        return f"all {everybody} candidates were to be asked"
    return f"{asked} of {everybody} were to be asked: {everybody - asked} stand first in the orders of earlier audits"


def _check_begin(evidence: Evidence, chance: ProvenChance | None) -> tuple[SignedStatement | None, str]:
    plan, begin, owner = evidence.plan, evidence.begin, evidence.signer
    best = entitled_set_grade(plan, begin, chance=chance, burns=evidence.burns, owner=owner)
    if plan.set_grade == ANCHORED != best:
        raise EvidenceError(
            "the plan leaves the grinding allowance out: nobody but the owner vouches that the assignment, or the "
            "order in an audit that stops early or leaves candidates out, was not tried out"
        )
    signed = plan_witness(plan, begin, owner=owner)
    if signed is None:
        return None, "the nonce is the owner's word: nobody else saw the plan before the answers"
    said = signed.statement
    return signed, f"{said.witness} saw the plan at {said.time}; its signature, no. {said.serial}, gave the nonce"


def _check_size(evidence: Evidence, given: Sequence[Answer], opened: OpenedKeySet) -> str:
    recomputation.refuse_long_work(evidence.plan, given, opened)
    return f"{len(given)} answers"


def _order(
    evidence: Evidence, chance: ProvenChance | None, witness: SignedStatement | None, anchors: Sequence[Anchor]
) -> tuple[str, str]:
    """Return who but the owner vouches for the order of things, the verifier's own anchors first."""
    brought = [_concerning(evidence, anchor) for anchor in anchors if not isinstance(anchor, PublicKey)]
    inside = [_concerning(evidence, anchor) for anchor in evidence.anchors]
    segment = {entry.digest for entry in evidence.segment}
    keys = [
        signed.statement.witness
        for signed in (*brought, *([witness] if witness else []), *inside)
        if signed.statement.witness != evidence.signer
        and (signed.statement.subject == PLAN or signed.statement.digest in segment)
    ]
    trusted = [anchor.hex for anchor in anchors if isinstance(anchor, PublicKey)]
    relied = relied_on(evidence.plan, chance, witness, evidence.burns, owner=evidence.signer)
    unheard = [key for key in trusted if key not in (*keys, *relied)]
    if unheard or (trusted and not set(trusted).intersection(keys)):
        raise EvidenceError(f"nothing about the order of this audit is signed by {(unheard or trusted)[0]}")
    if trusted and (strangers := [key for key in relied if key not in trusted]):
        raise EvidenceError(
            f"the grinding allowance is left out on the word of the witness {strangers[0]}, whose key was not given: "
            "it may be the owner's own"
        )
    if not keys:
        return SELF_ASSERTED, "the order of plan, questions and result is the owner's word"
    key = next(key for key in (trusted or keys) if key in keys)
    return f"anchored by {key}", f"{key} signed the plan or the ledger's state"


def _concerning(evidence: Evidence, envelope: Mapping[str, Any]) -> SignedStatement:
    signed = verify_statement(dict(envelope))
    subject, digest = signed.statement.subject, signed.statement.digest
    entries = {entry.digest for entry in (*evidence.earlier, *evidence.segment)}
    known = {COMMITMENT: {evidence.commitment.digest}, PLAN: {evidence.plan.digest}, LEDGER_HEAD: entries}
    if digest not in known[subject]:
        raise EvidenceError(f"the anchor over the {subject} {digest[:16]}… is about nothing in this bundle")
    return signed


def _check_examiner(evidence: Evidence, opened: OpenedKeySet) -> tuple[bool, str]:
    if evidence.examiner is None:
        return False, "no examiner asked the suspect: the accuser did"
    plan, records = evidence.plan, evidence.records
    statement = read_examiner_statement(evidence.examiner)
    check_examiner(
        statement,
        plan=plan,
        transcript=head(records, start=genesis(plan.digest, evidence.begin.nonce)),
        records=len(records),
        matches=match_vector_digest(plan, records, opened.responses),
        owner=evidence.signer,
    )
    return True, f"{statement.examiner} asked the suspect and signed what came back at {statement.time}"


def _check_result(
    evidence: Evidence, opened: OpenedKeySet, chance: ProvenChance | None, grade: str, held: Words
) -> tuple[dict[str, Any], str]:
    claimed = Value(evidence.result, "payload.result")
    control = Value(claimed.object().get("positive_control"), f"{claimed.path}.positive_control").boolean()
    result = outcome(
        evidence.plan,
        evidence.begin,
        evidence.records,
        responses=opened.responses,
        issued=opened.issued,
        grade=grade,
        positive_control=control,
        marks=opened.marks,
        held=held,
        names={word.number: word.licensee for word in evidence.words},
    )
    for member, (name, value) in zip(claimed.members(*result), result.items(), strict=True):
        if canonical_bytes(member.content) != canonical_bytes(value):
            raise member.refusal(f"is not what is recomputed: {str(result[name])[:200]}")
    if recomputation.recorded_verdict(evidence) != result["verdict"]:
        raise EvidenceError(f"the ledger records another verdict than {result['verdict']}")
    plan, disclosure = evidence.plan, evidence.disclosure
    family = family_not_recomputed(plan, evidence.commitment, evidence.records, disclosure)
    sentences = (
        not_recomputed(plan, chance=chance, disclosure=disclosure, burns=evidence.burns, family=family),
        does_not_prove(result["verdict"], grade, family=plan.family is not None),
    )
    if (evidence.not_recomputed, evidence.does_not_prove) != sentences:
        raise EvidenceError("the bundle does not state, in the words of its schema, what it leaves open")
    matched, asked = len(result["matched"]), result["issued"]
    told = f"{matched} of {asked} issued keys matched, p {_short(result)} after correction"
    about = f"; {result['family']['accusation']}" if "family" in result else ""
    return result, f"{result['verdict']}: {told}{about}"


def _short(result: Mapping[str, Any]) -> str:
    text = str(result["p_value_corrected"])
    top, _, bottom = text.partition("/")
    if not bottom:
        return text
    return f"about 1e-{len(bottom) - len(top)}" if len(bottom) - len(top) <= 12 else "below 1e-12"


def read_anchor(path: Path) -> Anchor:
    """Read what somebody had from a witness: its public key, or an envelope that it signed.

    Raises:
        EvidenceError: neither.
    """
    content = read_bytes(path, "anchor", most=MOST_ANCHOR_BYTES)
    if content.lstrip().startswith(b"{"):
        return Envelope.from_json(parse_canonical(content.strip(), name=str(path))).to_json()
    return PublicKey.parse(content)


def read_signer(text: str) -> PublicKey:
    """Return a public key given as 64 hexadecimal digits or as the path of its file.

    Raises:
        EvidenceError: neither.
    """
    path = Path(text)
    return PublicKey.load(path) if path.exists() else PublicKey.from_hex(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify a file from the command line; returns 0 for a valid bundle, 4 for any other."""
    parser = argparse.ArgumentParser(prog="python -m fpvec_audit.evidence.verify", description="Verify a bundle.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--signer", help="public key that must have signed it: a file, or 64 hexadecimal digits")
    parser.add_argument("--anchor", type=Path, action="append", default=[], help="a witness's key or signed statement")
    given = parser.parse_args(arguments)
    try:
        found = verify_evidence(
            read_bundle(given.file),
            signer=read_signer(given.signer) if given.signer else None,
            anchors=[read_anchor(path) for path in given.anchor],
        )
    except FpvecError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False, indent=2) + "\n")
    return 0 if found.valid else EvidenceError.exit_code


if __name__ == "__main__":
    sys.exit(main())
