"""The machine as a run needs it: a GPU that works, if there is one, room, memory, threads, and a place to log to."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from callbacks.mlflow.store import SQLITE, open_store
from commands.health import Finding, State

GIB = 1 << 30

NEEDED_DISK, COMFORTABLE_DISK = 1.0, 10.0
"""GiB: checkpoints of small agents; a replay of images and a few checkpoints."""

NEEDED_MEMORY, COMFORTABLE_MEMORY = 1.0, 4.0
"""GiB: torch alone takes half of the first."""

SHARED = Path("/dev/shm")
NEEDED_SHARED = 0.25

NVIDIA = Path("/dev/nvidia0")
"""There where the driver has a GPU."""


def check_gpu() -> list[Finding]:
    """Whether torch sees the GPU that the driver has, and can compute on each."""
    import torch

    if not torch.cuda.is_available():
        if not NVIDIA.exists():
            return [Finding("GPU", "ok", "none; runs use the processor")]
        if torch.version.cuda is None:
            return [Finding("GPU", "wrong", "there is one, and this torch has no CUDA",
                            "install a CUDA build of torch of the same version")]  # fmt: skip
        return [Finding("GPU", "wrong", f"there is one, and torch for CUDA {torch.version.cuda} does not see it",
                        "look at nvidia-smi: renew the driver, or unset CUDA_VISIBLE_DEVICES")]  # fmt: skip
    findings = []
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        try:
            worked = bool(torch.ones(2, device=f"cuda:{number}").sum().item() == 2.0)
            free = torch.cuda.mem_get_info(number)[0] / GIB
        except RuntimeError as error:
            advice = f"see who uses it with nvidia-smi, or leave it out with CUDA_VISIBLE_DEVICES; {number} is this one"
            findings.append(Finding("GPU", "wrong", f"{name}: {str(error).splitlines()[0]}"[:200], advice))
            continue
        assert worked, "2 is not 2 on a GPU"
        findings.append(Finding("GPU", "ok", f"{name}, {free:.1f} GiB free"))
    return findings


def check_disk(folder: Path) -> list[Finding]:
    """Room where runs are written, and for temporary files, which checkpoints of libraries pass through."""
    findings = []
    for check, place in (("disk", folder), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / GIB
        told = f"{free:.1f} GiB free in {place}"
        if not os.access(place, os.W_OK | os.X_OK):
            findings.append(Finding(check, "wrong", f"{place} cannot be written to", _elsewhere(check)))
        elif free < NEEDED_DISK:
            findings.append(Finding(check, "wrong", told, f"free some space, or {_elsewhere(check)}"))
        elif free < COMFORTABLE_DISK:
            findings.append(Finding(check, "note", told, "enough for small agents; replays of images need more"))
        else:
            findings.append(Finding(check, "ok", told))
    return findings


def _elsewhere(check: str) -> str:
    return "start in another folder" if check == "disk" else "set TMPDIR to another folder"


def check_memory(available: float | None = None) -> list[Finding]:
    """Memory that is available, in GiB, and shared memory, through which processes hand over observations."""
    import psutil

    free = psutil.virtual_memory().available / GIB if available is None else available
    told = f"{free:.1f} GiB available"
    findings = [Finding("memory", "ok", told)]
    if free < COMFORTABLE_MEMORY:
        state: State = "wrong" if free < NEEDED_MEMORY else "note"
        findings = [Finding("memory", state, told, "end other programs, or give small --data.capacity and batches")]
    shared = shutil.disk_usage(SHARED).free / GIB if SHARED.is_dir() else None
    if shared is not None and shared < NEEDED_SHARED:
        advice = (
            "environments in processes of their own need more: docker run --shm-size 1g, or --data.vectorization sync"
        )
        findings.append(Finding("shared memory", "note", f"{1024 * shared:.0f} MiB free in {SHARED}", advice))
    return findings


def check_threads() -> list[Finding]:
    """Threads of torch against cores that this process may use, and what others use of these."""
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    load = os.getloadavg()[0]
    told = f"{threads} per process on {cores} core{'s' * (cores > 1)}, load {load:.1f}"
    if not threads.isdigit() or not 1 <= int(threads) <= cores:
        return [Finding("threads", "note", told, "unset OMP_NUM_THREADS: one thread is fastest for small networks")]
    if load > cores:
        return [Finding("threads", "note", told, "others use these cores: runs take longer, with the same results")]
    return [Finding("threads", "ok", told)]


def check_store(uri: str) -> list[Finding]:
    """Whether MLflow's store answers and can be used; one that is not there yet is made by the first run."""
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not path.exists():
        near = next(parent for parent in path.parents if parent.exists())
        if not os.access(near, os.W_OK | os.X_OK):
            return [Finding("MLflow", "wrong", f"{path} cannot be made", "set MLFLOW_TRACKING_URI=sqlite:///FILE")]
        return [Finding("MLflow", "ok", f"{path} is made by the first run")]
    try:
        open_store(uri)
    except ValueError as error:
        mended = f"move {path} away" if uri.startswith(SQLITE) else "start the server"
        advice = f"set MLFLOW_TRACKING_URI=sqlite:///FILE for another store, or {mended}"
        return [Finding("MLflow", "wrong", str(error)[:250], advice)]
    return [Finding("MLflow", "ok", f"{uri} answers")]


def check_films() -> list[Finding]:
    """Whether there is a program that writes films."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        advice = "needed for --evaluation.video_every alone: install ffmpeg, or name it in IMAGEIO_FFMPEG_EXE"
        return [Finding("films", "note", str(error).splitlines()[0][:200], advice)]
    return [Finding("films", "ok", "ffmpeg is there")]
