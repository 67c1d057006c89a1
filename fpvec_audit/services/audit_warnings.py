"""What weakens or limits an audit's result, in sentences that a report prints."""

from typing import Any

from fpvec_audit.backends import INSTEAD_OF_VLLM, EngineSource
from fpvec_audit.domain.audit import AuditPlan, Score
from fpvec_audit.domain.keys import SELF_ATTESTED, KeySet
from fpvec_audit.domain.ports import BackendDescription
from fpvec_audit.domain.records import KeySetRecord
from fpvec_audit.services.keys import size_warnings


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
        tokenizer: the suspect's.
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


def result_warnings(plan: AuditPlan, scored: Score) -> list[str]:
    """Say what is missing for a verdict: a committed profile, or answers."""
    warnings = []
    if not plan.committed_profile:
        warnings.append(
            f"exploratory: {plan.profile}/{plan.match.value} with these settings is not among the committed profiles, "
            "so a MATCH is not possible"
        )
    if scored.errors:
        warnings.append(f"{scored.errors} questions went unanswered and count as no match")
    return warnings
