"""The C++ compiler of this machine, which compiled updates on a CPU and the native form of mixtures need."""

from __future__ import annotations

import os
import shutil
import subprocess

PROGRAM = (
    "#include <vector>\n#include <omp.h>\nint main() { return std::vector<int>(omp_get_max_threads()).empty(); }\n"
)
"""Uses the standard library and OpenMP, as what torch and the mixtures compile does."""


def compiler_name() -> str:
    """The C++ compiler: `$CXX`, else g++."""
    return os.environ.get("CXX", "g++")


def why_no_compiler() -> str | None:
    """A line on the fault of the C++ compiler; None where it takes a small program."""
    name = compiler_name()
    if shutil.which(name) is None:
        return f"there is no {name}"
    command = [name, "-std=c++20", "-fopenmp", "-fsyntax-only", "-x", "c++", "-"]
    try:
        done = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name} does not run: {error}"
    if done.returncode:
        return f"{name}: {next((line for line in done.stderr.splitlines() if 'error' in line), 'it fails')}"
    return None
