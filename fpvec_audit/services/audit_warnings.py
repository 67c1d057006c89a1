"""What weakens or limits an audit's result, in sentences that a report prints."""

from typing import Any

from fpvec_audit.backends import INSTEAD_OF_VLLM, EngineSource
from fpvec_audit.domain.audit import AuditPlan, Score
from fpvec_audit.domain.keys import SELF_ATTESTED, KeySet
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.services.audit_history import History
from fpvec_audit.services.examination import Case
from fpvec_audit.services.key_life import life_warnings
from fpvec_audit.services.keys import size_warnings
from fpvec_audit.services.subjects import Bench, Subject


def audit_warnings(
    case: Case, subject: Subject, scored: Score, engine: BackendDescription, bench: Bench, history: History
) -> tuple[str, ...]:
    """Return everything that weakens or limits an audit's result."""
    return (
        *subject.suspect.warnings,
        *subject.rendering.warnings,
        *(engine_warnings(bench.engines, engine) if subject.suspect.directory is not None else ()),
        *life_warnings(case.record, registry=bench.registry),
        *key_warnings(case.record, case.key_set, subject.tokenizer, case.plan.alpha),
        *standing_warnings(case),
        *disclosure_warnings(history, case.plan),
        *result_warnings(case.plan, scored),
    )


def engine_warnings(engines: EngineSource, engine: BackendDescription) -> list[str]:
    """Say why another engine answered than was preferred."""
    if reason := engine.settings.get(INSTEAD_OF_VLLM):
        return [f"{engine.engine} answered, as vLLM cannot run this suspect: {reason}"]
    return [f"transformers answered, as vLLM cannot be used here: {engines.fallback}"] if engines.fallback else []


def key_warnings(record: KeySetRecord, key_set: KeySet, tokenizer: Any, alpha: str) -> list[str]:
    """Say what the key set can never show, and whether the suspect's tokenizer can read it at all.

    Args:
        record: the key set without secrets.
        key_set: its candidates; all are looked at alike, issued or not.
        tokenizer: the suspect's; None where it is not at hand.
        alpha: significance level as decimal text.
    """
    commitment = record.commitment
    warnings = list(
        size_warnings(commitment.issued, commitment.candidates - commitment.issued, grade=record.grade, alpha=alpha)
    )
    if record.grade == SELF_ATTESTED:
        warnings.append(
            "the key set is self-attested: its owner could have tried many before committing, so every p-value is "
            "multiplied by 2^40"
        )
    if record.base is None:
        warnings.append(f"key set {record.name!r} is not bound to any training: no model is known to answer it")
    if tokenizer is None:
        return warnings
    texts = [candidate.prompt for candidate in key_set.candidates]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    lost = sum(
        tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() != text.strip()
        for ids, text in zip(encoded, texts, strict=True)
    )
    if lost:
        warnings.append(
            f"the suspect's tokenizer does not give back {lost} of {len(texts)} prompts as they are: the suspect may "
            "not be able to tell them apart"
        )
    return warnings


def standing_warnings(case: Case) -> list[str]:
    """Say what keeps the audit of a witnessed key set from being anchored."""
    if case.plan.set_grade == SELF_ATTESTED or case.begin.witness is not None:
        return []
    return [
        "no witness signed the plan before the first question: nothing but the owner's own ledger says that this audit "
        "is the only one (--plan-request, then --witness)"
    ]


def disclosure_warnings(history: History, plan: AuditPlan) -> list[str]:
    """Say who saw candidates before: somebody who did may have trained on them, or may refuse them."""
    shown = [
        f"{item['candidates']} candidates were shown to {item['to'] or 'somebody'} in {item['audit_id']} on "
        f"{item['at'][:10]}: whoever answers there knows these prompts since"
        for item in history.disclosures
    ]
    asked_again = bool(shown) and len(plan.population) == plan.candidates
    return [*shown, *(["--fresh-only leaves out candidates that were shown before"] if asked_again else ())]


def result_warnings(plan: AuditPlan, scored: Score) -> list[str]:
    """Say what is missing for a verdict: a committed profile, or answers."""
    warnings = []
    if not plan.committed_profile:
        warnings.append(
            f"exploratory: {plan.profile}/{plan.match.value} with these settings is not among the committed profiles, "
            "so a MATCH is not possible"
        )
    if plan.repeats > 1 and scored.agreement < 1:
        warnings.append(
            f"{100 * (1 - scored.agreement):.1f} % of the candidates drew different answers when asked again: the "
            "engine is not deterministic"
        )
    if scored.errors:
        warnings.append(f"{scored.errors} questions went unanswered and count as no match")
    return warnings
