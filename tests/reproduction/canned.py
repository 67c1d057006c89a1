"""A small reproduction's record, made up, for tables."""

from fpvec_audit.reproduction.document import document_of
from fpvec_audit.reproduction.plan_file import parse_plan
from fpvec_audit.reproduction.run import skipped
from fpvec_audit.reproduction.stage_store import StageResult, StageState
from fpvec_audit.reproduction.stages import plan_stages

PLAN = """
name = "mine"
[[bases]]
name = "gpt2"
family = "gpt2"
paper = "GPT-2"
[[bases]]
name = "bloom"
family = "bloom"
paper = "Bloom-7B"
[guessing]
attacks = ["guessing"]
[fine_tuning]
attacks = ["fine_tune:steps=30"]
[merging]
attacks = ["merge"]
downstreams = ["text"]
[scales]
values = [0.5, 1.0]
downstreams = ["text"]
[methods]
compared = ["direct", "wlm"]
bases = ["gpt2"]
downstreams = ["maths"]
"""
COST = {"seconds": 10.0, "device_seconds": 9.0, "peak_memory_bytes": 1 << 30, "peak_device_memory_bytes": 0}


def audited(matched=32, *, verdict="MATCH", p_value=2e-41):
    share = matched / 32
    return {
        **{"verdict": verdict, "fsr": share, "issued": 32, "matched": matched, "decoys": 224, "decoys_matched": 0},
        **{"interval": [max(0.0, share - 0.11), min(1.0, share + 0.11)], "p_value": p_value},
    }


def cell(label, fsr, *, verdict="MATCH"):
    return {
        **{"label": label, "fsr_before": 1.0, "fsr_after": fsr, "interval": [fsr / 2, fsr], "p_value": 1e-9},
        **{"verdict": verdict, "utility_loss": {"accuracy": 0.02, "perplexity": 0.01}, "groups": [], "problem": ""},
    }


def guessed():
    groups = [{"kind": "unissued candidate", "asked": 300, "triggered": 1}]
    return {"cells": [{**cell("guessing", 1 / 300), "fsr_before": None, "groups": groups}]}


def compared(verdict="HARMLESS", bound=0.013):
    task = {
        **{"task": "offline_quiz", "metric": "exact_match", "items": 1000, "before": 0.8, "after": 0.79},
        **{"difference": -0.01, "interval": [-0.02, 0.001], "loss_bound": bound},
    }
    return {"verdict": verdict, "margin": 0.03, "tasks": [task], "text": {"perplexity": {"ratio": 1.013}}}


def content_of(stage):
    """Return what a stage might give."""
    vector_like = stage.name.startswith(("gpt2/stamped", "bloom/stamped"))
    if stage.kind == "fsr":
        if "/base/" in stage.name or "/downstream/" in stage.name:
            return audited(0, verdict="NO_MATCH", p_value=1.0)
        return audited(31 if "/wlm/" in stage.name else 32)
    if stage.kind == "attacks":
        if stage.name.endswith("guessing"):
            return guessed()
        if stage.name.endswith("merging"):
            return {"cells": [cell("merge:method=ties", 0.1)]}
        return {"cells": [cell("fine_tune:steps=30", 0.75 if vector_like else 0.875)]}
    if stage.kind == "harmlessness":
        return compared("INCONCLUSIVE", 0.041) if stage.name.endswith("text/harmlessness") else compared()
    if stage.kind == "scales":
        scales = [{"scale": 0.5, **audited(2), "utility": {"accuracy": 0.79}}]
        return {"utility_before": {"accuracy": 0.8}, "scales": [*scales, {"scale": 1.0, **audited(), "utility": {}}]}
    made = {"path": "/somewhere", "seconds": 10.0, "cost": COST, "resumed": False, "once": None}
    if stage.kind in ("vector", "stamp"):
        made["cost"] = {**COST, "seconds": 0.5}
    return made


def canned_document(*, failed=()):
    """Return a record in which the named stages failed."""
    plan = parse_plan(PLAN, where="mine.toml")
    stages = plan_stages(plan, device="cpu", schemes={"direct": "independent", "wlm": "rare-word"})
    ended = {}
    for stage in stages:
        needed = {role: ended[name] for role, name in stage.needs.items()}
        if not all(result.done for result in needed.values()):
            ended[stage.name] = skipped(stage, needed)
        elif stage.name in failed:
            ended[stage.name] = StageResult(stage.name, "k", StageState.FAILED, problem="no room | at all")
        else:
            ended[stage.name] = StageResult(stage.name, "k", StageState.DONE, "id", content_of(stage), seconds=2.0)
    return document_of(plan, stages, tuple(ended.values()), device="cpu")
