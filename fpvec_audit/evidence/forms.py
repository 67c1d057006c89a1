"""Domain values out of JSON that a stranger wrote: exact members, types and ranges, or a refusal with the path.

The domain's own ``from_json`` trusts its registry. Here nothing is trusted: a value comes into being only when every
part of it has the form that the domain would have written, so that later code need not look twice. Sizes and the
exponents of decimal numbers are bounded, so that a small file cannot cause long work.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from fpvec_audit.domain.audit_plan import (
    FIRST_TOKEN,
    PLAN_SCHEMA,
    RESPONSE,
    RESPONSE_MINUS_BASE,
    TESTS,
    VOCABULARY_GRADIENT,
    AuditPlan,
    Begin,
    MatchRule,
)
from fpvec_audit.domain.codes import MOST_MARKS
from fpvec_audit.domain.decimals import is_decimal
from fpvec_audit.domain.family_terms import FamilyTerms, OpenedWord
from fpvec_audit.domain.keys import (
    MOST_CANDIDATES,
    SALT_BYTES,
    SCHEMES,
    Candidate,
    CandidateFilter,
    Commitment,
    Opening,
)
from fpvec_audit.domain.merkle import DIGEST_BYTES
from fpvec_audit.domain.records import LedgerEntry
from fpvec_audit.domain.transcript import (
    ANSWER,
    CARRIERS,
    COMPLETE,
    CUT_OFF,
    END,
    GRADIENT,
    LIKELIHOOD,
    SHARES,
    STOPPED_EARLY,
    Record,
)
from fpvec_audit.evidence.strict_json import Value

MOST_REPEATS = 1000
MOST_QUESTIONS = 2**20
MOST_LEDGER_ENTRIES = 2**16
MOST_RANK_DIGITS = 160
"""More digits than the words of any code over :data:`MOST_MARKS` marks take."""
MOST_VECTORS = 2**14
MOST_CARRIERS = 2**20
FAMILY = "family"
"""Member of a plan that only a trace of a family with words has."""
PROFILE_NAMES = ("raw-greedy", "chat-greedy", "exploratory")
SET_GRADES = ("self-attested", "anchored")

_RANK = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?(\+00:00|Z)", re.ASCII)
_SUSPECT_NEEDS = frozenset({"kind", "location", "digest"})


def read_commitment(value: Value) -> Commitment:
    """Return a commitment whose numbers can belong to a key set."""
    digest, candidates, source, rule, version, issued, marks, profiles, root, scheme = value.members(
        "assignment_key_digest",
        "candidates",
        "chance_source",
        "filter",
        "generator_version",
        "issued",
        "marks",
        "profiles",
        "root",
        "scheme",
    )
    count = candidates.integer(2, MOST_CANDIDATES)
    drawn = issued.integer(1, count - 1)
    groups = marks.integer(1, drawn)
    if drawn % groups:
        raise marks.refusal(f"is {groups}, into which {drawn} issued keys do not divide")
    return Commitment(
        scheme=scheme.choice(*SCHEMES),
        issued=drawn,
        candidates=count,
        marks=groups,
        root=root.hexadecimal(),
        assignment_key_digest=digest.hexadecimal(),
        profiles=tuple(profile.text() for profile in profiles.items(most=64)),
        chance_source=source.text(most=1000),
        candidate_filter=None if rule.optional() is None else _filter(rule, count),
        generator_version=version.integer(1),
    )


def _filter(value: Value, candidates: int) -> CandidateFilter:
    rule, reference, kept = value.members("rule", "reference", "kept")
    bits = kept.text(most=8 * candidates)
    if set(bits) - {"0", "1"}:
        raise kept.refusal("is not a text of 0 and 1")
    return CandidateFilter(rule.text(), reference.text(), tuple(bit == "1" for bit in bits))


def read_plan(value: Value) -> AuditPlan:
    """Return a plan that an audit could have been carried out by."""
    own = (name for name in AuditPlan.__slots__ if name != FAMILY or FAMILY in value.object())
    names = ("schema", *own)
    found = dict(zip(names, value.members(*names), strict=True))
    found["schema"].choice(PLAN_SCHEMA)
    candidates = found["candidates"].integer(2, MOST_CANDIDATES)
    tests = tuple(test.choice(*TESTS) for test in found["tests"].items(most=len(TESTS)))
    if len(set(tests)) != len(tests) or len({"exact", "sequential"} & set(tests)) != 1:
        raise found["tests"].refusal("holds a test twice, or not just one of exact and sequential")
    plan = AuditPlan(
        audit=found["audit"].hexadecimal(8),
        key_set=found["key_set"].text(),
        commitment_digest=found["commitment_digest"].hexadecimal(),
        root=found["root"].hexadecimal(),
        set_grade=found["set_grade"].choice(*SET_GRADES),
        candidates=candidates,
        issued=found["issued"].integer(1, candidates - 1),
        population=_population(found["population"], candidates),
        suspect=_suspect(found["suspect"]),
        profile=found["profile"].choice(*PROFILE_NAMES),
        match=MatchRule(found["match"].choice(*MatchRule)),
        system_prompt=found["system_prompt"].text(),
        system_prompt_digest=_digest_or_nothing(found["system_prompt_digest"]),
        template=found["template"].text(),
        max_new_tokens=found["max_new_tokens"].integer(1, 2**20),
        temperature=read_decimal(found["temperature"]),
        top_p=read_decimal(found["top_p"]),
        repeats=found["repeats"].integer(1, MOST_REPEATS),
        alpha=_alpha(found["alpha"]),
        tests=tests,
        likelihood=_likelihood(found["likelihood"], registered="likelihood" in tests),
        gradient=_gradient(found["gradient"], registered=bool({GRADIENT, VOCABULARY_GRADIENT} & set(tests))),
        comparisons=found["comparisons"].integer(1, 2**32),
        trace=found["trace"].text(),
        controls=tuple(control.texts() for control in found["controls"].items(most=1000)),
        backend=found["backend"].texts(),
        plugins=found["plugins"].texts(),
        tool_version=found["tool_version"].text(),
        profiles=tuple(profile.text() for profile in found["profiles"].items(most=64)),
        family=_terms(found[FAMILY]) if FAMILY in found else None,
    )
    if len(plan.population) * plan.repeats > MOST_QUESTIONS:
        raise value.refusal(f"asks more than {MOST_QUESTIONS} questions")
    return plan


def _terms(value: Value) -> FamilyTerms:
    code, colluders, epsilon, binding, licensees, root, families = value.members(*FamilyTerms.__slots__)
    wrong = read_decimal(epsilon)
    if not 0 < float(wrong) < 1:
        raise epsilon.refusal(f"is {wrong}, not between 0 and 1")
    return FamilyTerms(
        code=code.text(most=100),
        colluders=colluders.integer(0, MOST_MARKS),
        epsilon=wrong,
        binding=binding.hexadecimal(),
        licensees=licensees.integer(1),
        root=root.hexadecimal(),
        families=families.integer(1, 2**32),
    )


def read_opened_word(value: Value) -> OpenedWord:
    """Return a licensee's opened word; that it was committed to is not checked here."""
    number, licensee, rank, marks, salt, path = value.members(*OpenedWord.__slots__)
    digits = rank.text(most=MOST_RANK_DIGITS)
    if not _RANK.fullmatch(digits):
        raise rank.refusal("is not a whole number")
    word = tuple(mark.integer(0, MOST_MARKS - 1) for mark in marks.items(most=MOST_MARKS))
    return OpenedWord(
        number=number.integer(),
        licensee=licensee.text(most=1000),
        rank=int(digits),
        marks=word,
        salt=bytes.fromhex(salt.hexadecimal(SALT_BYTES)),
        path=tuple(bytes.fromhex(digest.hexadecimal(DIGEST_BYTES)) for digest in path.items(most=64)),
    )


def _population(value: Value, candidates: int) -> tuple[int, ...]:
    population = tuple(index.integer(0, candidates - 1) for index in value.items(most=candidates))
    if not population or any(low >= high for low, high in pairwise(population)):
        raise value.refusal("is empty or not strictly ascending")
    return population


def _suspect(value: Value) -> Mapping[str, str]:
    suspect = value.texts()
    if missing := sorted(_SUSPECT_NEEDS - set(suspect)):
        raise value.refusal(f"lacks {missing[0]}")
    return suspect


def _likelihood(value: Value, *, registered: bool) -> Mapping[str, str] | None:
    if not _registered(value, registered=registered):
        return None
    statistic, base = value.members("statistic", "base")
    chosen = statistic.choice(RESPONSE_MINUS_BASE, RESPONSE, FIRST_TOKEN)
    return {"statistic": chosen, "base": base.text()}


def _gradient(value: Value, *, registered: bool) -> Mapping[str, str] | None:
    if not _registered(value, registered=registered):
        return None
    base, clip = value.members("base", "clip")
    return {"base": base.text(), "clip": clip.text()}


def _registered(value: Value, *, registered: bool) -> bool:
    if (value.optional() is not None) != registered:
        raise value.refusal("is there without its test, or missing with it")
    return registered


def _alpha(value: Value) -> str:
    text = read_decimal(value)
    if not 0 < float(text) < 1:
        raise value.refusal(f"is {text}, not between 0 and 1")
    return text


def _digest_or_nothing(value: Value) -> str:
    return "" if value.content == "" else value.hexadecimal()


def read_begin(value: Value) -> Begin:
    """Return a beginning; its witness is not verified here."""
    nonce, witness = value.members("nonce", "witness")
    return Begin(nonce.hexadecimal(), None if witness.optional() is None else witness.object())


def read_record(value: Value, *, candidates: int) -> Record:
    """Return a record of a transcript over ``candidates`` candidates."""
    serial, previous, content = value.members("serial", "previous", "content")
    kind = Value(content.object().get("kind"), f"{content.path}.kind").choice(
        ANSWER, LIKELIHOOD, GRADIENT, SHARES, CARRIERS, END
    )
    if kind == ANSWER:
        _, index, position, repeat, prompt, answer, error, finish, first = content.members(
            "kind", "index", "position", "repeat", "prompt", "answer", "error", "finish", "first"
        )
        position.integer(0, MOST_QUESTIONS)
        repeat.integer(0, MOST_REPEATS)
        for text in (prompt, answer, error, finish):
            text.text()
        for token in first.object():
            read_decimal(Value(first.content[token], f"{first.path} of a token"))
    elif kind == LIKELIHOOD:
        _, index, *scores = content.members("kind", "index", "suspect", "base")
        _decimals_or_nothing(scores)
    elif kind == GRADIENT:
        _, index, *scores = content.members("kind", "index", "score", "vocabulary")
        _decimals_or_nothing(scores)
    elif kind in (SHARES, CARRIERS):
        (_read_shares if kind == SHARES else _read_carriers)(content)
        index = None
    else:
        _, reason = content.members("kind", "reason")
        reason.choice(COMPLETE, STOPPED_EARLY, CUT_OFF)
        index = None
    if index is not None:
        index.integer(0, candidates - 1)
    return Record(serial.integer(1), previous.hexadecimal(), content.object())


def _read_shares(content: Value) -> None:
    _, base, vectors, shares = content.members("kind", "base", "vectors", "shares")
    base.hexadecimal()
    for vector in vectors.items(most=MOST_VECTORS):
        vector.hexadecimal()
    for mark in shares.object():
        if not _RANK.fullmatch(mark) or len(mark) > 3 or int(mark) >= MOST_MARKS:
            raise shares.refusal(f"holds {mark[:40]!a}, which is no mark")
        _decimals_or_nothing([Value(shares.content[mark], f"{shares.path}.{mark}")])


def _read_carriers(content: Value) -> None:
    names = ("kind", "scheme", "reference", "elements", "shared", "owner", "named", "others")
    _, scheme, reference, elements, shared, owner, named, others = content.members(*names)
    scheme.text(most=100)
    _digest_or_nothing(reference)
    elements.integer()
    shared.integer()
    values = [owner, *others.items(most=MOST_CARRIERS)]
    values += [Value(item, f"{named.path} of a licensee") for item in named.object().values()]
    for value in values:
        read_decimal(value)


def _decimals_or_nothing(values: list[Value]) -> None:
    for value in values:
        if value.content != "":
            read_decimal(value)


def read_decimal(value: Value) -> str:
    """Return decimal text whose exact value is small enough to be computed with."""
    text = value.text(most=100)
    if not is_decimal(text):
        raise value.refusal(f"is {text!a}, not a decimal number")
    return text


def read_time(value: Value) -> datetime:
    """Return a time in UTC written as ISO 8601."""
    text = value.text(most=40)
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise value.refusal(f"is {text!a}, not a time in UTC such as 2026-01-02T03:04:05+00:00")


def read_opening(value: Value, *, candidates: int) -> Opening:
    """Return an opening of one candidate."""
    index, prompt, response, salt, path = value.members("index", "prompt", "response", "salt", "path")
    return Opening(
        Candidate(index.integer(0, candidates - 1), prompt.text(), response.text()),
        bytes.fromhex(salt.hexadecimal(SALT_BYTES)),
        tuple(bytes.fromhex(digest.hexadecimal(DIGEST_BYTES)) for digest in path.items(most=64)),
    )


def read_ledger_entry(value: Value) -> LedgerEntry:
    """Return a ledger entry; its digest is not recomputed here."""
    serial, at, event, subject, content, previous, digest = value.members(*LedgerEntry.__slots__)
    read_time(at)
    return LedgerEntry(
        serial.integer(1),
        at.text(),
        event.text(),
        subject.text(),
        content.object(),
        previous.hexadecimal(),
        digest.hexadecimal(),
    )


def ledger_entry_json(entry: LedgerEntry) -> dict[str, Any]:
    """Return the JSON object of a ledger entry, its digest included."""
    return {name: getattr(entry, name) for name in LedgerEntry.__slots__} | {"content": dict(entry.content)}


def texts(value: Value, *, most: int = 100) -> tuple[str, ...]:
    """Return an array of texts."""
    return tuple(item.text() for item in value.items(most=most))
