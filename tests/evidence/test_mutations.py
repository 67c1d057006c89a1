"""Every change of a bundle is seen: random bytes, structure, and what its own signer alters and signs again.

What a signer can make up consistently from the beginning is not a change of a bundle; docs/evidence.md says which of it
nobody can see.
"""

import base64
import copy
import json
import random
from dataclasses import replace
from functools import cache

import pytest

from fpvec_audit.domain.canonical_json import canonical_bytes, canonical_digest
from fpvec_audit.domain.transcript import chained, genesis
from fpvec_audit.evidence.bundle import EVIDENCE_TYPE
from fpvec_audit.evidence.recomputation import entry_digest
from fpvec_audit.evidence.signing import sign_document
from fpvec_audit.evidence.verify import verify_evidence
from tests.evidence import builders
from tests.evidence.builders import OWNER, STRANGER
from tests.evidence.families import Family

SMALL = (8, 40)
CLAIMS = {"versions", "anchors"}
"""Members that nothing else in a bundle depends on: its signer says them, and that is all."""


@cache
def content(name="anchored"):
    story = {
        "self-attested": lambda: builders.story(size=SMALL, alpha="1e-3", set_grade="self-attested"),
        "anchored": lambda: builders.story(size=SMALL, source="witness", witness=True, anchored=True),
        "examined": lambda: builders.story(size=SMALL, source="witness", witness=True, examined=True),
        "sequential": lambda: builders.story(
            size=SMALL, source="witness", witness=True, tests=("sequential",), asked=30
        ),
        "likelihood": lambda: builders.story(
            size=SMALL,
            source="witness",
            witness=True,
            tests=("exact", "likelihood"),
            likelihood={"statistic": "response-minus-base", "base": builders.BASE},
        ),
        "family": lambda: Family().copy(4, shares={"0": "0.5"}),
    }[name]()
    whole = story.bundle()
    assert verify_evidence(whole, signer=OWNER.public_key).valid
    return whole


def payload(name="anchored"):
    return json.loads(base64.b64decode(json.loads(content(name))["payload"]))


def resigned(value, key=OWNER):
    return canonical_bytes(sign_document(EVIDENCE_TYPE, value, key).to_json())


def refused(changed, *, signer=OWNER.public_key):
    found = verify_evidence(changed, signer=signer)
    assert not found.valid
    assert found.problems
    return "\n".join(found.problems)


@pytest.mark.parametrize("name", ["self-attested", "anchored", "examined"])
def test_400_random_single_byte_mutations_are_rejected(name):
    whole, chance = content(name), random.Random(name)
    for _ in range(400):
        place, value = chance.randrange(len(whole)), chance.randrange(1, 256)
        refused(whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :])


def test_300_random_single_byte_mutations_inside_the_payload_are_rejected_though_signed_again():
    """The owner alters a byte of what it says and signs it again, keeping it canonical where that can be."""
    envelope = json.loads(content())
    inside, chance, rejected = base64.b64decode(envelope["payload"]), random.Random(300), 0
    while rejected < 300:
        place, value = chance.randrange(len(inside)), chance.randrange(1, 256)
        changed = inside[:place] + bytes([inside[place] ^ value]) + inside[place + 1 :]
        try:
            altered = json.loads(changed)
        except ValueError:
            continue
        if {name: item for name, item in altered.items() if name not in CLAIMS} == {
            name: item for name, item in payload().items() if name not in CLAIMS
        }:
            continue
        refused(resigned(altered))
        rejected += 1


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    if path:
        yield path


def at(value, path):
    for step in path:
        value = value[step]
    return value


def changes(parent, step):
    """Yield ways to change one member, by kind, each on a copy of its parent."""
    item = parent[step]

    def with_item(new):
        changed = copy.copy(parent)
        changed[step] = new
        return changed

    if isinstance(item, bool):
        yield "flipped", with_item(not item)
        yield "as a number", with_item(int(item))
    elif isinstance(item, int):
        yield "one more", with_item(item + 1)
        yield "as text", with_item(str(item))
    elif isinstance(item, str):
        yield "other text", with_item(f"{item[:-1]}{'0' if item[-1:] != '0' else '1'}")
        yield "upper case", with_item(item.upper() if item.upper() != item else f"{item} ")
        yield "emptied", with_item("" if item else "x")
    elif isinstance(item, dict):
        yield "a member nobody knows", with_item({**item, "zz": None})
        yield "emptied", with_item({} if item else {"zz": "x"})
    elif isinstance(item, list):
        yield "one again", with_item([*item, item[-1]] if item else ["x"])
        yield "reversed", with_item(item[::-1] if item[::-1] != item else [*item, None])
        yield "emptied", with_item([] if item else [None])
    else:
        yield "something", with_item(0)
    yield "null", with_item(None) if item is not None else with_item("")
    if isinstance(parent, dict):
        yield "dropped", {name: kept for name, kept in parent.items() if name != step}
    else:
        yield "dropped", parent[:step] + parent[step + 1 :]


def replaced(value, path, parent):
    """Return the value with another parent at the end of the path, sharing what is not on it."""
    if len(path) == 1:
        return parent
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], parent)
    return changed


def open_to_its_signer(path, kind):
    """Return whether a change is one that the signer may make: see docs/evidence.md."""
    if path[0] in CLAIMS:
        return True
    if path == ("result", "positive_control") and kind == "flipped":
        return True  # a claim that only a NO_MATCH rests on
    return path[:2] == ("ledger", "earlier") and kind in {"dropped", "null"} and len(path) == 3


FAMILY = pytest.param("family", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["self-attested", "anchored", "examined", "sequential", "likelihood", FAMILY])
def test_structural_mutations_that_the_owner_signs_again_are_rejected(name):
    whole, chance = payload(name), random.Random(f"structure {name}")
    sections = sorted(whole)
    by_section = {section: [path for path in leaves(whole) if path[0] == section] for section in sections}
    for place in range(80):
        path = chance.choice(by_section[sections[place % len(sections)]])
        kind, parent = chance.choice(list(changes(at(whole, path[:-1]), path[-1])))
        if not open_to_its_signer(path, kind):
            altered = replaced(whole, path, parent)
            found = verify_evidence(resigned(altered), signer=OWNER.public_key)
            assert not found.valid, f"{path} {kind} was accepted"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["self-attested", "anchored", "examined", "sequential", "likelihood"])
def test_every_structural_mutation_that_the_owner_signs_again_is_rejected(name):
    """One change at every place of the payload; records and openings, which are many of a kind, by every 29th."""
    whole = payload(name)
    for number, path in enumerate(leaves(whole)):
        if path[0] in {"records", "disclosure"} and number % 29:
            continue
        for kind, parent in changes(at(whole, path[:-1]), path[-1]):
            if not open_to_its_signer(path, kind):
                found = verify_evidence(resigned(replaced(whole, path, parent)), signer=OWNER.public_key)
                assert not found.valid, f"{path} {kind} was accepted"


def test_what_the_signer_may_say_freely_changes_no_finding():
    before = verify_evidence(content("examined"), signer=OWNER.public_key)
    altered = payload("examined") | {"versions": {"fpvec-audit": "99"}}
    altered["result"] = altered["result"] | {"positive_control": False}
    after = verify_evidence(resigned(altered), signer=OWNER.public_key)
    assert after.valid
    assert (after.verdict, after.grade, after.order) == (before.verdict, before.grade, before.order)


@pytest.mark.parametrize("place", range(0, 2000, 97))
def test_a_truncated_bundle_is_rejected(place):
    refused(content()[: -1 - place])


@pytest.mark.parametrize(
    "respelled",
    [
        lambda whole: whole + b"\n",
        lambda whole: b" " + whole,
        lambda whole: whole + whole,
        lambda whole: b"\xef\xbb\xbf" + whole,
        lambda whole: whole.replace(b":", b": ", 1),
        lambda whole: json.dumps(json.loads(whole)).encode(),
        lambda whole: json.dumps(json.loads(whole), sort_keys=False, indent=1).encode(),
        lambda whole: whole[:-1] + b',"payloadType":"x"}',
        lambda whole: b'{"payload":"",' + whole[1:],
        lambda whole: whole.replace(b'"payload"', b'"\\u0070ayload"'),
        lambda whole: whole.replace(b'"sig":"', b'"sig":" '),
    ],
)
def test_another_spelling_of_the_same_bundle_is_rejected(respelled):
    changed = respelled(content())
    assert changed != content()
    refused(changed)


@pytest.mark.parametrize(
    "respelled",
    [
        lambda text: f"{text[:76]}\n{text[76:]}",
        lambda text: f"{text} ",
        lambda text: text.rstrip("=") + "A" * (len(text) - len(text.rstrip("="))),
        lambda text: text.rstrip("=") if text.endswith("=") else f"{text}====",
        lambda text: text.replace("+", "-").replace("/", "_") + "=",
    ],
)
@pytest.mark.parametrize("member", ["payload", "sig"])
def test_base64_in_another_form_is_rejected(member, respelled):
    envelope = json.loads(content())
    holder = envelope if member == "payload" else envelope["signatures"][0]
    holder[member] = respelled(holder[member])
    refused(canonical_bytes(envelope))


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope: envelope["signatures"].append(envelope["signatures"][0]),
        lambda envelope: envelope["signatures"].clear(),
        lambda envelope: envelope["signatures"][0].update(keyid=envelope["signatures"][0]["keyid"].upper()),
        lambda envelope: envelope["signatures"][0].update(keyid=STRANGER.public_key.key_id),
        lambda envelope: envelope["signatures"][0].update(cert="x"),
        lambda envelope: envelope.update(payloadType="application/json"),
        lambda envelope: envelope.update(note="x"),
    ],
)
def test_another_envelope_around_the_same_payload_is_rejected(change):
    envelope = json.loads(content())
    change(envelope)
    refused(canonical_bytes(envelope))


@pytest.mark.parametrize("name", ["self-attested", "anchored", "examined", "sequential", "likelihood"])
def test_a_bundle_that_another_key_signs_again_is_rejected_where_the_signer_is_pinned(name):
    renamed = payload(name) | {"signer": STRANGER.public_key.hex}
    for changed in (resigned(payload(name), STRANGER), resigned(renamed, STRANGER)):
        assert "another key" in refused(changed)
    assert "but" in refused(resigned(renamed, OWNER))


def rehashed(value, contents):
    """Return the payload with other records in a chain that fits."""
    start = genesis(canonical_digest(value["plan"]), value["begin"]["nonce"])
    return value | {"records": [record.to_json() for record in chained(contents, previous=start)]}


def contents_of(value):
    return [record["content"] for record in value["records"]]


@pytest.mark.parametrize(
    "edit",
    [
        lambda contents: contents[1:],
        lambda contents: contents[:-2] + contents[-1:],
        lambda contents: contents[:-1],
        lambda contents: [contents[1], contents[0], *contents[2:]],
        lambda contents: [contents[0], *contents],
        lambda contents: [contents[0] | {"answer": "something else"}, *contents[1:]],
        lambda contents: [contents[0] | {"index": contents[1]["index"]}, *contents[1:]],
        lambda contents: [contents[0] | {"position": 1}, contents[1] | {"position": 0}, *contents[2:]],
        lambda contents: [contents[0] | {"prompt": contents[1]["prompt"]}, *contents[1:]],
        lambda contents: [*contents[:-1], {"kind": "end", "reason": "cut off"}],
        lambda contents: [{"kind": "end", "reason": "complete"}, *contents[:-1]],
    ],
)
def test_a_transcript_that_is_edited_and_chained_anew_is_rejected(edit):
    value = payload()
    refused(resigned(rehashed(value, edit(contents_of(value)))))


def test_dropped_decoys_are_rejected_though_everything_is_chained_anew():
    """The accuser leaves out decoys that were answered, and mends records, ledger and result as far as it can."""
    story = builders.story(size=SMALL, source="witness", witness=True)
    decoys = {candidate.index for candidate in story.key_set.decoys[:3]}
    fewer = replace(story, contents=tuple(item for item in story.contents if item.get("index") not in decoys))
    evidence = story.evidence()
    mended = replace(evidence, records=fewer.records, segment=fewer.ledger("MATCH")[3:])
    assert "are not the 45 that were asked" in refused(builders.signed(mended))
    opened = tuple(opening for opening in evidence.disclosure.openings if opening.candidate.index not in decoys)
    mended = replace(mended, disclosure=replace(evidence.disclosure, openings=opened))
    assert "45 questions were asked, planned were 48" in refused(builders.signed(mended))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("verdict", "NO_MATCH"),
        ("grade", "examined"),
        ("p_value_corrected", "1/1000000000000"),
        ("alpha", "1/10"),
        ("matched", []),
        ("issued", 9),
        ("errors", 1),
        ("asked", 47),
    ],
)
def test_another_result_is_rejected(member, value):
    altered = payload()
    altered["result"] = altered["result"] | {member: value}
    assert "result" in refused(resigned(altered))


def test_another_p_of_a_test_is_rejected():
    altered = payload("likelihood")
    altered["result"]["tests"][1]["p_value"] = "1/3"
    assert "payload.result.tests is not what is recomputed" in refused(resigned(altered))


def test_a_ledger_that_is_rewritten_and_chained_anew_is_rejected_where_it_says_something_else():
    story = builders.story(size=SMALL, source="witness", witness=True)
    evidence = story.evidence()
    honest = story.ledger("MATCH")
    for place, name, value in (
        (0, "commitment", "e" * 64),
        (0, "chance", "e" * 64),
        (3, "plan", "e" * 64),
        (3, "suspect_digest", "e" * 64),
        (4, "nonce", "e" * 64),
        (4, "witness", ""),
        (6, "verdict", "NO_MATCH"),
        (6, "transcript", "e" * 64),
        (6, "records", 1),
        (6, "records", True),
    ):
        told = [(entry.event, entry.subject, dict(entry.content)) for entry in honest]
        told[place][2][name] = value
        ledger = builders.entries(*told)
        assert "ledger records another" in refused(
            builders.signed(replace(evidence, earlier=ledger[:2], segment=ledger[3:]))
        )


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ((0, 1, 2, 4, 3, 5, 6), "plan, begin and finish"),
        ((0, 1, 2, 3, 5, 6), "plan, begin and finish"),
        ((3, 4, 5, 6), "issue the key set"),
        ((0, 0, 2, 3, 4, 5, 6), "issue the key set"),
        ((0, 1, 2, 3, 3, 4, 6), "plan, begin and finish"),
        ((0, 2, 1, 3, 4, 5, 6), "not about this key set"),
    ],
)
def test_a_ledger_in_another_order_is_rejected(order, problem):
    story = builders.story(size=SMALL, source="witness", witness=True)
    honest = story.ledger("MATCH")
    ledger = builders.entries(*((honest[place].event, honest[place].subject, honest[place].content) for place in order))
    begin = next(place for place, entry in enumerate(ledger) if entry.event.startswith("audit."))
    evidence = replace(story.evidence(), earlier=ledger[: min(begin, 2)], segment=ledger[begin:])
    assert problem in refused(builders.signed(evidence))


def test_a_ledger_with_a_gap_or_a_foreign_digest_is_rejected():
    story = builders.story(size=SMALL, source="witness", witness=True)
    evidence = story.evidence()
    without = replace(evidence, segment=(*evidence.segment[:2], *evidence.segment[3:]))
    assert "gap" in refused(builders.signed(without))
    stranger = replace(evidence.segment[2], previous="e" * 64)
    stranger = replace(stranger, digest=entry_digest(stranger))
    forked = replace(evidence, segment=(*evidence.segment[:2], stranger, *evidence.segment[3:]))
    assert "does not continue the chain" in refused(builders.signed(forked))


def test_openings_of_other_candidates_are_rejected():
    story = builders.story(size=SMALL, source="witness", witness=True)
    evidence = story.evidence()
    first, second, *rest = evidence.disclosure.openings
    for openings, problem in (
        ((second, first, *rest), "were asked"),
        ((second, *rest), "were asked"),
        ((replace(first, salt=second.salt), second, *rest), "committed tree"),
        ((replace(first, path=first.path[:-1]), second, *rest), "committed tree"),
        ((replace(first, candidate=replace(first.candidate, response="copper")), second, *rest), "committed tree"),
    ):
        altered = replace(evidence, disclosure=replace(evidence.disclosure, openings=openings))
        assert problem in refused(builders.signed(altered))
    other = replace(evidence.disclosure, assignment_key=bytes(32))
    assert "assignment key" in refused(builders.signed(replace(evidence, disclosure=other)))


def test_a_set_that_nobody_vouches_for_is_not_opened_by_halves():
    story = builders.story(size=SMALL)
    other = builders.story(size=SMALL, source="witness", witness=True).evidence().disclosure
    assert "whole secret" in refused(builders.signed(replace(story.evidence(), disclosure=other)))
    secret = replace(story.evidence().disclosure, secret=bytes(32))
    assert "does not belong" in refused(builders.signed(replace(story.evidence(), disclosure=secret)))
