"""Compiles the loops of ``fpvec_audit/tensors/native`` when the package is built; without a C compiler it does without.

The result is a plain shared library, loaded with ctypes: it depends on no version of Python. A machine without a
compiler, or of another kind than x86-64 Linux, gets a package that computes the same with torch and hashlib.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("fpvec_audit/tensors/native/_kernels.so")
FLAGS = ("-O3", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-psabi")
VARIANTS = {
    "avx512": ("block_kernels.c", "-DLANES=16", "-march=skylake-avx512", "-mprefer-vector-width=512"),
    "avx2": ("block_kernels.c", "-DLANES=8", "-march=haswell"),
    "vaes": ("carrier_kernels.c", "-DLANES=16", "-march=icelake-server", "-mprefer-vector-width=512"),
    "aes": ("carrier_kernels.c", "-DLANES=8", "-march=haswell", "-maes"),
}


class CompiledLoops(BuildHookInterface):
    """Adds the compiled library to the wheel, or to the source tree of an editable installation."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        if self.target_name != "wheel":
            return
        library = Path(self.root) / LIBRARY
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
            return
        problem = compile_library(library)
        if problem:
            library.unlink(missing_ok=True)
            self.app.display_warning(f"the compiled loops are left out, stamping will be slower: {problem}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compile_library(library: Path) -> str:
    """Compile the shared library and return why it cannot be, or nothing.

    Args:
        library: file to make; its directory holds the sources.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "there is no C compiler"
    source = library.parent
    with tempfile.TemporaryDirectory() as place:
        objects = []
        for variant, (loops, *flags) in VARIANTS.items():
            objects.append(f"{place}/{variant}.o")
            command = [compiler, *FLAGS, *flags, f"-DSUFFIX={variant}", "-c", str(source / loops)]
            problem = _run([*command, "-o", objects[-1]])
            if problem:
                return problem
        made = f"{place}/{library.name}"
        problem = _run([compiler, *FLAGS, "-shared", str(source / "dispatch.c"), *objects, "-lm", "-o", made])
        if not problem:
            beside = library.with_name(f"{library.name}.new")
            shutil.copyfile(made, beside)
            beside.replace(library)  # never in place: a running process may have the old one mapped
        return problem


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["the compiler failed"])[0]
