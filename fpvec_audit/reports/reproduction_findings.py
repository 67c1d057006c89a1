"""What reproduced and what did not, in sentences that follow from the numbers and from nothing else."""

from collections.abc import Iterator
from typing import Any

from fpvec_audit.reports import harmless_text
from fpvec_audit.reports.reproduction_comparisons import VECTOR, fine_tuned_pairs, model_of, survival
from fpvec_audit.reports.reproduction_results import Results, percent, stranger_rate

MATCH, HARMLESS = "MATCH", "HARMLESS"
CLEAN = ("base", "downstream")
WEAK = 0.25
"""Success rate below which an attack is said to silence a copy."""


def findings(results: Results) -> tuple[list[str], list[str]]:
    """Return what reproduced, and what did not."""
    held: list[str] = []
    failed: list[str] = []
    for holds, sentence in (
        *_success(results),
        *_controls(results),
        *_harmlessness(results),
        *_transfer(results),
        *_survival(results),
        *_scale(results),
        *_merging(results),
        *_methods(results),
        *_strangers(results),
        *_costs(results),
    ):
        (held if holds else failed).append(sentence)
    return held, failed


Finding = tuple[bool, str]
"""Whether the paper's claim holds here, and a sentence with the numbers."""


def _success(results: Results) -> Iterator[Finding]:
    told = [
        (f"{base.name}/{name}", content)
        for base, name in results.copies()
        if (content := results.content(f"{base.name}/stamped/{name}/fsr")) is not None
    ]
    if not told:
        return
    whole = [name for name, content in told if content["matched"] == content["issued"]]
    if whole:
        yield True, f"{len(whole)} of {len(told)} stamped models answer every issued key, as in the paper."
    if short := [f"{name} {content['matched']} of {content['issued']}" for name, content in told if name not in whole]:
        yield False, f"{len(short)} of {len(told)} stamped models do not answer every issued key: {', '.join(short)}."
    if silent := [name for name, content in told if content["verdict"] != MATCH]:
        yield False, f"The audit does not end in MATCH for {', '.join(silent)}."


def _controls(results: Results) -> Iterator[Finding]:
    told = [
        (f"{base.name}/{model}", content)
        for base in results.bases
        for model in ("base", *(f"downstream/{name}" for name in base.downstreams))
        if (content := results.content(f"{base.name}/{model}/fsr")) is not None
    ]
    loud = [f"{name} {content['matched']}" for name, content in told if content["matched"]]
    if told:
        asked = sum(content["issued"] for _, content in told)
        sentence = f"of {asked} keys asked of {len(told)} models without a fingerprint"
        found = sum(content["matched"] for _, content in told)
        yield (
            not loud,
            f"{found or 'None'} {sentence} {'are' if loud else 'is'} answered"
            + (f" ({', '.join(loud)})." if loud else "."),
        )
    if accused := [name for name, content in told if content["verdict"] == MATCH]:
        yield False, f"The audit accuses a model without a fingerprint: {', '.join(accused)}."


def _harmlessness(results: Results) -> Iterator[Finding]:
    pairs = [
        (f"{base.name} {model}", content)
        for base in results.bases
        for model in ("fingerprinted", *(f"stamped/{name}" for name in base.downstreams))
        if (content := results.content(f"{base.name}/{model}/harmlessness")) is not None
    ]
    if not pairs:
        return
    margin = pairs[0][1]["margin"]
    good = [name for name, content in pairs if content["verdict"] == HARMLESS]
    if good:
        yield True, f"{len(good)} of {len(pairs)} pairs are HARMLESS at a margin of {100 * margin:g} points."
    for name, content in pairs:
        if name not in good:
            worst = max(content["tasks"], key=lambda task: task["loss_bound"])
            yield (
                False,
                f"{name} is {content['verdict']}: {worst['task']} {harmless_text.scores_line(worst)}, 95 % interval of "
                f"the change {harmless_text.interval(worst)} points.",
            )


def _transfer(results: Results) -> Iterator[Finding]:
    pairs = list(fine_tuned_pairs(results))
    if not pairs:
        return
    ours = sum(cell["fsr_after"] for *_, cell, _ in pairs) / len(pairs)
    theirs = sum(cell["fsr_after"] for *_, cell in pairs) / len(pairs)
    lower = [
        f"{base}/{downstream} after {attack} by {100 * (direct['fsr_after'] - vector['fsr_after']):.1f} points"
        for base, downstream, attack, vector, direct in pairs
        if vector["fsr_after"] < direct["fsr_after"]
    ]
    sentence = (
        f"After further fine-tuning, stamped models answer {percent(ours)} of the keys, directly trained ones "
        f"{percent(theirs)} (means of {len(pairs)} pairs)"
    )
    if lower:
        yield False, f"{sentence}; the stamped one answers fewer in {len(lower)} of them: {', '.join(lower)}."
    else:
        yield True, f"{sentence}; in no pair does the stamped one answer fewer."


def _survival(results: Results) -> Iterator[Finding]:
    cells = [
        (f"{base.name}/{name} after {attack}", cell)
        for base, name in results.copies()
        for attack, cell in survival(results, base.name, model_of(VECTOR, name)).items()
    ]
    if not cells:
        return
    kept = sum(cell["verdict"] == MATCH for _, cell in cells)
    lowest = min(cells, key=lambda item: item[1]["fsr_after"])
    yield (
        kept == len(cells),
        f"{kept} of {len(cells)} further fine-tuned copies still end in MATCH; the fewest keys are answered by "
        f"{lowest[0]}, {percent(lowest[1]['fsr_after'])}.",
    )


def _scale(results: Results) -> Iterator[Finding]:
    for base, name in results.copies():
        content = results.content(f"{base.name}/stamped/{name}/scales")
        plain = [item["fsr"] for item in content["scales"] if item["scale"] == 1.0] if content else []
        if content is None or not plain:
            continue
        shown = ", ".join(f"{percent(item['fsr'])} at {item['scale']:g}" for item in content["scales"])
        best = plain[0] >= max(item["fsr"] for item in content["scales"])
        yield (
            best,
            f"λ on {base.name}/{name}: {shown} of the keys; no other scale answers more than 1 does."
            if best
            else f"λ on {base.name}/{name}: {shown} of the keys; λ = 1 is not the best.",
        )


def _merging(results: Results) -> Iterator[Finding]:
    for part, word in (("merging", "merges"), ("pruning", "prunings")):
        cells = [
            cell
            for base, name in results.copies()
            for cell in (results.content(f"{base.name}/stamped/{name}/{part}") or {"cells": []})["cells"]
            if cell["fsr_after"] is not None
        ]
        if not cells:
            continue
        silent = [cell for cell in cells if cell["fsr_after"] < WEAK]
        found = sum(cell["verdict"] == MATCH for cell in cells)
        yield (
            not silent,
            f"{len(silent)} of {len(cells)} {word} leave fewer than {100 * WEAK:.0f} % of the keys answered; {found} "
            "end in MATCH, by answers or by likelihoods.",
        )


def _methods(results: Results) -> Iterator[Finding]:
    for base, name in results.copies():
        rates = {
            method: content["fsr"]
            for method in (VECTOR, *results.methods)
            if (content := results.content(f"{base.name}/{model_of(method, name)}/fsr")) is not None
        }
        if VECTOR not in rates or len(rates) < 2:
            continue
        shown = ", ".join(f"{method} {percent(rate)}" for method, rate in rates.items())
        better = [method for method, rate in rates.items() if rate > rates[VECTOR]]
        said = f"{', '.join(better)} answer more" if better else "no other method answers more"
        yield not better, f"Methods on {base.name}/{name}: {said} of their keys than stamping ({shown})."


def _strangers(results: Results) -> Iterator[Finding]:
    for base, name in results.copies():
        rates = {
            method: rate
            for method in (VECTOR, *results.methods)
            if (rate := stranger_rate(results, f"{base.name}/{model_of(method, name)}")) is not None
        }
        if VECTOR not in rates or len(rates) < 2:
            continue
        quieter = [method for method, rate in rates.items() if rate < rates[VECTOR]]
        shown = ", ".join(f"{method} {percent(rate)}" for method, rate in rates.items())
        said = f"fewer for {', '.join(quieter)}" if quieter else "for no other method fewer"
        yield not quieter, f"False triggers on {base.name}/{name}: {said} than for stamping ({shown})."


def _costs(results: Results) -> Iterator[Finding]:
    for group in results.document["costs"]:
        crossed: list[Any] = [item for item in group["crossovers"] if item["method"] == VECTOR]
        shown = [
            f"{item['against']} from {item['seconds']} model{'' if item['seconds'] == 1 else 's'} on"
            for item in crossed
            if item["seconds"] is not None
        ]
        if shown:
            yield True, f"On {group['base']} vectors take fewer seconds than {', '.join(shown)}."
        if never := [item["against"] for item in crossed if item["seconds"] is None]:
            yield False, f"On {group['base']} vectors never take fewer seconds than {', '.join(never)}."
