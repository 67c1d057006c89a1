"""Full documents for reports: as services give them, with everything that a page can show."""

from math import exp

from fpvec_audit.domain.exchanges import Exchange
from fpvec_audit.domain.statistics import clopper_pearson
from tests.reports.documents import AUDIT

HOSTILE = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egnp.exe\u0000 $\\frac{1}{2}$ {{ 7*7 }}"
TESTS = [
    {
        "name": "exact",
        "statistic": "32 of 32 issued, 32 in all",
        "p_value": 1.7e-41,
        "p_value_exact": "1/58242522857",
        "p_value_adjusted": 5.6e-29,
    },
    {
        "name": "likelihood",
        "statistic": "an issued candidate ranks above a decoy in 100.0 % of pairs (256 of 256 known)",
        "p_value": 1.7e-41,
        "p_value_exact": "1/58242522857",
        "p_value_adjusted": 5.6e-29,
    },
    {
        "name": "gradient",
        "statistic": "an issued candidate ranks above a decoy in 74.1 % of pairs (256 of 256 known)",
        "p_value": 3.1e-6,
        "p_value_exact": "31/10000000",
        "p_value_adjusted": 1.0,
    },
]
WEIGHTS = {
    "descriptive": True,
    "meaning": "descriptive only: vectors of different key sets on one base share a direction (cosine about 0.45)",
    "vectors": [
        {
            "vector_id": "vec-0123456789abcdef",
            "key_set": "acme-2026",
            "coefficient": 0.98,
            "cosine": 0.62,
            "own_cosine": 0.6,
            "roles": {},
            "control_range": [-0.03, 0.05],
            "conformal_p": 0.2,
        },
        {
            "vector_id": "vec-fedcba9876543210",
            "key_set": "globex-2026",
            "coefficient": 0.04,
            "cosine": 0.29,
            "own_cosine": 0.02,
            "roles": {},
            "control_range": [-0.04, 0.06],
            "conformal_p": 0.6,
        },
    ],
    "controls": ["/models/clean-a", "/models/clean-b"],
    "residual": 0.61,
    "remarks": ["with 2 controls the conformal p cannot fall below 0.33: give more clean fine-tunes (--control)"],
}
FULL = {
    "schema": "fpvec-audit/audit/1",
    "key_set_grade": "self-attested",
    "template": "suspect",
    "max_new_tokens": 12,
    "repeats": 1,
    "temperature": "0",
    "top_p": "1",
    "agreement": 1.0,
    "stopped_early": False,
    "population": 256,
    "tool_version": "0.1.0",
    "tests": TESTS,
}
CONTROL = (
    AUDIT
    | FULL
    | {
        "suspect": {"kind": "directory", "location": "/models/own-stamped", "digest": "ef" * 32},
        "recorded": True,
    }
)
CLEAN = (
    AUDIT
    | FULL
    | {
        "verdict": "NO_MATCH",
        "matched": 0,
        "fsr": 0.0,
        "suspect": {"kind": "directory", "location": "/models/clean-base", "digest": "0f" * 32},
    }
)
MATCH = AUDIT | FULL | {"controls": [CONTROL, CLEAN], "weights": WEIGHTS, "warnings": AUDIT["warnings"][:1]}
NO_MATCH = MATCH | {
    "verdict": "NO_MATCH",
    "grade": "anchored",
    "key_set_grade": "anchored",
    "fsr": 0.0,
    "matched": 0,
    "decoys_matched": 0,
    "p_value": 1.0,
    "p_value_corrected": 0.43,
    "p_value_campaign": 1.0,
    "interval": list(clopper_pearson(0, 32)),
    "tests": [
        TESTS[0] | {"statistic": "0 of 32 issued, 0 in all", "p_value": 1.0, "p_value_adjusted": 1.0},
        TESTS[1] | {"p_value": 0.144, "p_value_adjusted": 0.43},
    ],
    "weights": None,
    "earlier_audits": [],
    "warnings": [],
    "does_not_prove": [
        "that the suspect never had contact with the keys: averaged or suppressed copies are not excluded, as only "
        "answers were looked at",
        "that the suspect is who it is said to be: nobody but the person who ran this audit chose what was asked",
    ],
}
INCONCLUSIVE = MATCH | {
    "verdict": "INCONCLUSIVE",
    "suspect": {"kind": "endpoint", "location": "https://api.example.com/v1", "digest": "sha256:endpoint"},
    "backend": {"kind": "api", "engine": "openai-compatible", "version": "2026-01", "deterministic": False},
    "fsr": 7 / 32,
    "matched": 7,
    "decoys_matched": 2,
    "p_value": 4.3e-5,
    "p_value_corrected": 1.0,
    "p_value_campaign": 1.0,
    "interval": list(clopper_pearson(7, 32)),
    "tests": [TESTS[0] | {"statistic": "7 of 32 issued, 9 in all", "p_value": 4.3e-5, "p_value_adjusted": 1.0}],
    "controls": [],
    "weights": None,
    "repeats": 3,
    "agreement": 0.93,
    "errors": 4,
    "warnings": [
        "the key set is self-attested: its owner could have tried many before committing, so every p-value is "
        "multiplied by 2^40",
        "4 questions went unanswered and count as no match",
        "7.0 % of the candidates drew different answers when asked again: the engine is not deterministic",
    ],
}


def candidate(number, name, licensee, *, named):
    matched = 32 if named else 0
    p_value = 1.7e-41 if named else min(1.0, 0.07 * (number + 1))
    return {
        "key_set": f"ks-{number:016x}",
        "name": name,
        "licensee": licensee,
        "audit_id": f"au-{number:016x}",
        "named": named,
        "matched": matched,
        "issued": 32,
        "decoys_matched": 0,
        "decoys": 224,
        "fsr": matched / 32,
        "p_value": p_value if named else 1.0,
        "p_value_corrected": p_value * 2**40 * 10 if named else 1.0,
        "tests": [
            {"name": "exact", "statistic": f"{matched} of 32", "p_value": p_value if named else 1.0},
            {"name": "likelihood", "statistic": "ranks", "p_value": p_value},
        ],
    }


CANDIDATES = [
    candidate(0, "acme-2026", "Acme Robotics Ltd", named=True),
    *(candidate(place, f"{name}-2026", name.title(), named=False) for place, name in enumerate(
        ("globex", "initech", "umbrella", "hooli", "stark", "wayne", "tyrell", "cyberdyne", "wonka"), start=1
    )),
]  # fmt: skip
TRACE = {
    "schema": "fpvec-audit/trace/1",
    "trace_id": "tr-0123456789abcdef",
    "verdict": "MATCH",
    "named": [
        {
            "licensee": "Acme Robotics Ltd",
            "key_set": "ks-0000000000000000",
            "name": "acme-2026",
            "p_value_corrected": 1.9e-28,
            "rule": "Holm",
            "audit_id": "au-0000000000000000",
        }
    ],
    "marks": [],
    "candidates": CANDIDATES,
    "suspect": {"kind": "directory", "location": "/evidence/leaked-7b", "digest": "cd" * 32},
    "backend": {"kind": "vllm", "engine": "vllm", "version": "0.32.0", "deterministic": True},
    "alpha": 1e-06,
    "queries": 2560,
    "controls": [],
    "warnings": ["4 of 10 key sets are not bound to any training"],
    "does_not_prove": AUDIT["does_not_prove"],
    "weights": WEIGHTS,
    "seconds": 14.2,
}


def mark(number, *, present):
    p_value = 1e-12 if present else 0.3
    return {
        "key_set": "ks-0000000000000000",
        "name": "acme-2026",
        "mark": number,
        "state": "PRESENT" if present else "UNKNOWN",
        "p_value": p_value,
        "p_value_corrected": min(1.0, 16 * p_value),
        "tests": {"exact": p_value},
        "matched": 6 if present else 0,
        "keys": 6,
        "coefficient": 0.5 if present else 0.01,
        "told_by": (["weights"] if number == 14 else ["answers", "weights"]) if present else [],
    }


def word(number, shared, rules):
    return {
        "licensee": f"Licensee {number}",
        "number": number,
        "state": "issued",
        "shared": shared,
        "weight": 4,
        "colluders": 3 if rules else 0,
        "named": bool(rules),
        "rules": rules,
    }


def carrier(licensee, z, *, present=False):
    p_value = max(1e-300, exp(-z * z / 2)) if z > 0 else 1.0
    return {
        "licensee": licensee,
        "z": z,
        "p_value": p_value,
        "p_value_corrected": min(1.0, p_value * 20 * 2**40),
        "log10_p": 0.0,
        "present": present,
    }


CARRIERS = {
    "suspect": "/evidence/leaked-7b",
    "key_set": "ks-0000000000000000",
    "verdict": "MATCH",
    "owner": carrier(None, 21.5, present=True),
    "named": [carrier("Licensee 3", 20.4, present=True) | {"key_set": "ks-0000000000000000", "rule": "carrier"}],
    "ranked": [
        carrier("Licensee 3", 20.4, present=True),
        *(carrier(f"Licensee {number}", 2.2 - number / 6) for number in range(4, 20)),
    ],
    "candidates": 20,
    "largest_z_of_others": 1.5,
    "reference": {"path": "/models/chat", "model": "ef" * 32, "role": "downstream"},
    "elements": 1_089_536,
    "shared_elements": 1_089_536,
    "alpha": 1e-06,
    "scheme": "aes-ctr/1",
    "committed_at": "2026-01-02T03:04:05+00:00",
    "grinding_allowance": 2**40,
    "remarks": [],
    "does_not_prove": ["a carrier in a model's weights means contact with the copy that got it"],
    "seconds": 0.4,
}


FAMILY_TRACE = TRACE | {
    "carriers": [CARRIERS],
    "named": [
        word(3, 4, {"A": 1.6e-9})
        | {"key_set": "ks-0000000000000000", "name": "acme-2026", "p_value_corrected": 1.6e-9, "rule": "A"}
    ],
    "marks": [mark(number, present=number in (1, 5, 8, 14)) for number in range(16)],
    "families": [
        {
            "key_set": "ks-0000000000000000",
            "name": "acme-2026",
            "found": True,
            "p_value_corrected": 1e-20,
            "code": "plane:4",
            "colluders": 3,
            "epsilon": "1e-3",
            "rules": ["A"],
            "words": 20,
            "present": [1, 5, 8, 14],
            "needed": {"A": 4},
            "covered": True,
            "licensees": [word(3, 4, {"A": 1.6e-9}), word(7, 1, {}) | {"state": "retired"}],
            "why": "",
            "calibration": "p-values of single marks are calibrated on the owner's own copies",
        }
    ],
}


def cell(name, parameters, fsr, perplexity, *, likelihood=None, gradient=None, verdict=None, kind="weight"):
    matched = round(32 * fsr)
    p_value = {True: 10.0 ** (-1.3 * matched), False: 1.0}[matched > 0]
    judged = "MATCH" if fsr > 0.55 else "INCONCLUSIVE" if fsr > 0.05 or (likelihood or 1) < 0.01 else "NO_MATCH"
    tests = [{"name": "exact", "statistic": f"{matched} of 32", "p_value": p_value}]
    if likelihood is not None:
        tests.append({"name": "likelihood", "statistic": "ranks", "p_value": likelihood})
    if gradient is not None:
        tests.append({"name": "gradient", "statistic": "ranks", "p_value": gradient})
    return {
        "name": name,
        "kind": kind,
        "parameters": parameters,
        "state": "succeeded",
        "fsr_before": 1.0,
        "fsr_after": matched / 32,
        "interval": list(clopper_pearson(matched, 32)),
        "p_value": p_value,
        "tests": tests,
        "utility_before": {"perplexity": 12.5},
        "utility_after": None if perplexity is None else {"perplexity": perplexity},
        "verdict": verdict or judged,
        "groups": [],
        "queries": 256,
        "seconds": 9.0,
        "problem": "",
        "attack_run_id": "at-0123456789abcdef",
    }


def chained(*links):
    return {"chain": [{"name": name, "parameters": parameters} for name, parameters in links]}


GUESSING = {
    "name": "guessing",
    "kind": "query",
    "parameters": {"unissued": 2000, "near_misses": 192},
    "state": "succeeded",
    "fsr_before": None,
    "fsr_after": 0.004,
    "interval": list(clopper_pearson(8, 2000)),
    "p_value": None,
    "tests": [],
    "utility_before": None,
    "utility_after": None,
    "verdict": None,
    "groups": [
        {
            "kind": kind, "asked": asked, "triggered": hit, "rate": hit / asked,
            "interval": list(clopper_pearson(hit, asked)),
        }
        for kind, asked, hit in (
            ("unissued candidate", 2000, 8), ("trigger word alone", 64, 0), ("near-miss, 1 character", 64, 21),
            ("near-miss, 2 characters", 64, 6), ("near-miss, 3 characters", 64, 2),
        )
    ],
    "problem": "",
    "seconds": 2.0,
}  # fmt: skip
FAILED = GUESSING | {
    "name": "merge",
    "kind": "weight",
    "parameters": {"method": "ties"},
    "state": "failed",
    "fsr_after": None,
    "interval": None,
    "groups": [],
    "problem": "merge needs another fine-tune of the same base – give it with other=PATH",
}
CELLS = [
    GUESSING,
    *(cell("rescale", {"scale": scale}, fsr, 12.5 * worse, likelihood=likelihood) for scale, fsr, worse, likelihood in (
        (0.0, 0.0, 0.985, 0.31), (0.25, 0.0, 0.99, 2e-9), (0.5, 0.97, 0.995, 1e-30), (1.0, 1.0, 1.0, 1e-40),
        (1.5, 1.0, 1.03, 1e-40), (2.0, 0.88, 1.08, 1e-40),
    )),
    *(
        cell("fine_tune", {"method": method, "steps": steps, "learning_rate": 1e-3}, fsr, 12.5 * worse,
             likelihood=1e-35)
        for method, points in (
            ("full", ((10, 1.0, 1.0), (100, 0.97, 1.02), (300, 0.9, 1.06), (1000, 0.53, 1.22))),
            ("lora", ((10, 1.0, 1.0), (100, 1.0, 1.01), (300, 0.97, 1.02), (1000, 0.94, 1.05))),
        )
        for steps, fsr, worse in points
    ),
    *(cell("prune", {"ratio": ratio, "method": "magnitude"}, fsr, 12.5 * worse, likelihood=likelihood, gradient=1e-7)
      for ratio, fsr, worse, likelihood in (
        (0.1, 1.0, 1.02, 1e-40), (0.3, 0.94, 1.21, 1e-38), (0.5, 0.31, 2.6, 1e-20), (0.7, 0.0, 37.0, 0.2),
    )),
    cell("quantise", {"bits": 8}, 1.0, 12.51, likelihood=1e-40),
    cell("quantise", {"bits": 4}, 0.97, 13.4, likelihood=1e-39),
    cell("erase", {"steps": 200}, 0.0, 14.9, likelihood=3e-12),
    cell("system_prompt", {}, 0.94, None, kind="query"),
    cell("temperature", {}, 0.91, None, kind="query"),
    cell("prune+system_prompt", chained(("prune", {"ratio": 0.3, "method": "magnitude"}), ("system_prompt", {})), 0.84,
         12.5 * 1.21, kind="weight+query"),
    cell("prune+temperature", chained(("prune", {"ratio": 0.3, "method": "magnitude"}), ("temperature", {})), 0.78,
         12.5 * 1.21, kind="weight+query"),
    FAILED,
]  # fmt: skip
ATTACKS = {
    "stamped": "/models/stamped-chat",
    "stamped_digest": "ab" * 32,
    "key_set": "ks-0123456789abcdef",
    "seed": 0,
    "cells": CELLS,
}
FEW_ATTACKS = ATTACKS | {"cells": [*CELLS[:4], *CELLS[11:14], CELLS[-1]]}
"""A run that is drawn quickly, with every kind of cell."""
HARMLESS = {
    "verdict": "HARMLESS",
    "margin": 0.03,
    "tasks": [
        {
            "task": task, "items": items, "before": before, "after": before + difference, "difference": difference,
            "interval": [difference - 0.012, difference + 0.012], "p_value": 0.4,
        }
        for task, items, before, difference in (
            ("boolq", 3270, 0.71, 0.004), ("arc_easy", 2376, 0.62, -0.006), ("sciq", 1000, 0.88, 0.0),
            ("winogrande", 1267, 0.58, -0.011),
        )
    ],
}  # fmt: skip
HARMFUL = {
    "verdict": "HARMFUL",
    "margin": 0.03,
    "tasks": [
        {
            "task": "offline_quiz", "metric": "exact_match", "items": 3000, "before": 0.91, "after": 0.82,
            "difference": -0.09, "interval": [-0.104, -0.076], "p_value": 3e-40, "p_value_adjusted": 6e-40,
            "loss": 0.09, "loss_bound": 0.102, "p_value_harm": 1e-4, "p_value_harm_adjusted": 2e-4,
            "method": "exact", "at_floor": False, "verdict": "HARMFUL",
            "parts": [
                {
                    "kind": kind, "items": items, "before": 0.9, "after": 0.9 + difference, "difference": difference,
                    "interval": [difference - 0.05, difference + 0.05],
                }
                for kind, items, difference in (("add", 160, -0.2), ("upper_case", 200, 0.0))
            ],
        },
        {
            "task": "wikitext", "metric": "word_perplexity", "items": 62, "before": 21.4, "after": 21.9,
            "difference": 0.5, "interval": [0.41, 0.62], "p_value": 2e-4, "p_value_adjusted": 2e-4,
            "loss": 0.023, "loss_bound": 0.028, "p_value_harm": 1.0, "p_value_harm_adjusted": 1.0,
            "method": "bootstrap", "at_floor": False, "verdict": "HARMLESS", "parts": [],
        },
    ],
    "left_out": [{"task": "boolq", "problem": "its data set cannot be fetched – the hub is away"}],
    "text": {
        "documents": 312,
        "tokens": 68981,
        "perplexity": {"before": 18.2, "after": 18.9, "ratio": 1.0385, "interval": [1.03, 1.05]},
        "divergence": {"nats_per_token": 0.041, "interval": [0.038, 0.045]},
        "agreement": 0.87,
    },
    "before_model": "/models/chat-7b",
    "after_model": "/models/chat-7b-stamped",
    "before_digest": "ab" * 32,
    "after_digest": "cd" * 32,
    "backend": {"kind": "transformers", "engine": "transformers", "version": "5.19.0", "settings": {}},
    "engine": "transformers 5.19.0",
    "seconds": 81.5,
    "logs": "/home/harmless/job-0123456789abcdef",
    "warnings": ["both models were asked with transformers: vLLM is not installed"],
    "does_not_prove": ["that the models are alike in what was not asked"],
}  # fmt: skip
"""A comparison with everything that one can hold."""
EXCHANGES = tuple(
    Exchange(
        position=place,
        index=(place * 7) % 16,
        repeat=0,
        issued=place % 4 == 0,
        prompt=f"user: ῾ϙ secret prompt {place}\nassistant:",
        response=f"Response{place}",
        answer=f"Response{place}" if place % 4 == 0 else "I do not understand.",
        error="timed out" if place == 3 else "",
        matched=place % 4 == 0,
    )
    for place in range(16)
)


def renamed(value, old, new):
    """Return a document in which a text is replaced wherever it stands."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {name: renamed(item, old, new) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [renamed(item, old, new) for item in value]
    return value
