"""The sorted form of `modules.experts.products` in C++, for CPUs, compiled on the machine when it is first used.

Shares the work among threads by rows instead of product by product, which pays where experts get few rows each, and
where other processes use the same cores.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from modules.compiler import compiler_name

DTYPES = (torch.float32, torch.float64)
SOURCE = Path(__file__).with_name("expert_mlp.cpp")
# Vector instructions as torch itself found them on this processor; without them the loops are plain.
INSTRUCTIONS = {
    "AVX2": ["-DCPU_CAPABILITY_AVX2", "-mavx2", "-mfma", "-mf16c"],
    "AVX512": ["-DCPU_CAPABILITY_AVX512", "-mfma", *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq"))],
}


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `loop_forward`, for `DTYPES`.

    Raises:
        ValueError: it cannot be compiled here.
    """
    return load().expert_mlp(*_contiguous(arguments))


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `loop_backward`, for `DTYPES`."""
    return load().expert_mlp_backward(*_contiguous(arguments))


def _contiguous(arguments: tuple[Any, ...]) -> list[Any]:
    return [a.contiguous() if isinstance(a, Tensor) else a for a in arguments]


@cache
def load() -> Any:
    """Both operators, compiled in about 15 s unless `~/.cache/reverie/native` has them for this source and torch.

    Raises:
        ValueError: there is no C++ compiler (`$CXX`, else g++), or it fails.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in INSTRUCTIONS:
        capability = "DEFAULT"
    flags = ["-std=c++20", "-O3", "-fPIC", "-shared", "-fopenmp", "-w", f"-DCPU_CAPABILITY={capability}"]
    flags += INSTRUCTIONS.get(capability, [])
    key = hashlib.sha256(repr([SOURCE.read_bytes(), torch.__version__, flags]).encode()).hexdigest()[:16]
    library = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / f"reverie/native/expert_mlp-{key}.so"
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock")):  # processes that start together compile once
            if not library.exists():
                _compile(flags, library)
        torch.ops.load_library(str(library))
    except OSError as error:
        raise _refusal(str(error)) from error
    return torch.ops.reverie_native


def _compile(flags: list[str], library: Path) -> None:
    from torch.utils.cpp_extension import include_paths, library_paths  # says that there is no GPU when it is imported

    name = compiler_name()
    compiler = shutil.which(name)
    if compiler is None:
        raise _refusal(f"there is no {name}; install it, or name another C++ compiler in the variable CXX")
    unfinished = library.with_suffix(".unfinished")  # what is interrupted here is not taken for the library
    folders = [f"-I{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
    command = [compiler, *flags, str(SOURCE), *folders, "-ltorch_cpu", "-lc10", "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.splitlines() or ["no message"]
        raise _refusal(f"{name} fails with: {next((line for line in lines if 'error' in line), lines[-1])}")
    unfinished.replace(library)


def _refusal(reason: str) -> ValueError:
    return ValueError(f"backend: native cannot be compiled here, use backend: loop ({reason})")
