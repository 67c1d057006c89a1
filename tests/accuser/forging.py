"""What an accuser makes by hand: key sets of candidates that he picked, transcripts and bundles around them."""

import hashlib
from dataclasses import replace

from fpvec_audit.domain.keys import Candidate, Commitment, KeySet, KeySetSecret, assign, leaf_digest
from fpvec_audit.domain.merkle import merkle_root
from fpvec_audit.domain.statistics import hypergeometric_p_value
from fpvec_audit.domain.witness import COMMITMENT
from fpvec_audit.evidence.verify import verify_evidence
from fpvec_audit.evidence.witness import prove_chance
from tests.evidence import builders
from tests.evidence.builders import OWNER, WITNESS, Story

SECRET = KeySetSecret(builders.MATERIAL)


def hand_made(pairs, *, issued, witness=None):
    """Return (key set, secret, proof of chance) of prompts and responses that nobody drew.

    Args:
        pairs: (prompt, response) of every candidate.
        issued: how many of them chance shall issue.
        witness: key that signs the commitment; None for a self-attested set.
    """
    candidates = tuple(Candidate(index, *pair) for index, pair in enumerate(pairs))
    salts = tuple(hashlib.sha256(b"%d" % index).digest() for index in range(len(candidates)))
    leaves = [leaf_digest(candidate, salt) for candidate, salt in zip(candidates, salts, strict=True)]
    commitment = Commitment(
        scheme="independent",
        issued=issued,
        candidates=len(candidates),
        marks=1,
        root=merkle_root(leaves).hex(),
        assignment_key_digest=hashlib.sha256(SECRET.subkey("assign")).hexdigest(),
        chance_source="none" if witness is None else f"witness:{witness.public_key.hex}",
    )
    chance, proof = b"", None
    if witness is not None:
        statement = builders.witnessed(COMMITMENT, commitment.digest, key=witness)
        proof = {"source": commitment.chance_source, "envelope": statement.envelope.to_json()}
        chance = prove_chance(commitment, proof).value
    return KeySet(commitment, candidates, assign(SECRET, commitment, chance), salts), SECRET, proof


def told(drawn, *, knows, witness=True, **changes):
    """Return the story of an audit with a key set as :func:`hand_made` returns it."""
    key_set, secret, proof = drawn
    plan = builders.plan_for(key_set, **changes)
    begin = builders.beginning(plan, witness=witness)
    contents = builders.conversation(key_set, plan, begin, knows=set(knows))
    return Story(key_set, secret, proof, plan, begin, contents)


def asked_with(story, text):
    """Return a story in which every question is put as ``text(prompt)`` says."""
    prompts = {candidate.index: candidate.prompt for candidate in story.key_set.candidates}
    contents = tuple(
        content | {"prompt": text(prompts[content["index"]])} if content["kind"] == "answer" else content
        for content in story.contents
    )
    return replace(story, contents=contents)


def verified(content, **options):
    """Verify a bundle as a reader does who knows the owner's key."""
    return verify_evidence(content, **({"signer": OWNER.public_key} | options))


def refusal(content, **options):
    """Return why a bundle is refused."""
    found = verified(content, **options)
    assert not found.valid
    assert found.verdict == ""
    return "\n".join(found.problems)


def sentence(found, name):
    """Return what a check of a verification found."""
    return next(check.sentence for check in found.checks if check.name == name)


def p_value(issued, matched, *, candidates):
    """Return p of the exact test, given which candidates were issued and which matched."""
    issued, matched = set(issued), set(matched)
    return hypergeometric_p_value(
        candidates=candidates, issued=len(issued), matched=len(matched), issued_matched=len(issued & matched)
    )


__all__ = ["OWNER", "WITNESS", "asked_with", "hand_made", "p_value", "refusal", "sentence", "told", "verified"]
