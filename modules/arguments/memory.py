"""Memory and disk that are free, and refusals of sizes that would not fit, before anything is allocated.

A system hands out memory that it does not have and kills the process that uses it; a write to a mapped file on a full
disk ends the process without a word.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from modules.disk import disk_is_full
from modules.torch_private import TorchDispatchMode, means_shortage
from modules.trust.names import short

SMALL = 64 << 20
"""Bytes of a tensor that are not worth a look at the memory."""

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use."""


def free_memory() -> int:
    """Bytes that this process can still use."""
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else "max"
        free = min(free, int(text)) if text.isdigit() else free
    return int(free)


def check_memory(what: str, size: float, instead: str = "") -> None:
    """Refuse a size that does not fit into memory.

    Args:
        what: name of the user of the memory or disk, with the names of its arguments; for the error.
        size: size in bytes.
        instead: the way out, for the error, where the arguments do not show it.

    Raises:
        ValueError: it says how much would be needed and how much there is.
    """
    if size > SMALL and size > (free := free_memory()):
        more = f"; {instead}" if instead else ""
        raise ValueError(f"{what}: {readable(size)} of memory would be needed, and {readable(free)} are free{more}")


def check_disk(what: str, size: float, folder: Path, at_once: bool = False) -> None:
    """Refuse files that the disk of a folder cannot hold.

    Args:
        what: name of the user of the memory or disk, with the names of its arguments; for the error.
        size: size in bytes.
        folder: folder of the files; it may be missing.
        at_once: compare with the room that is free now; otherwise the files grow for long, and the whole disk counts.

    Raises:
        ValueError: it says how much would be needed and how much there is.
    """
    usage = _usage(folder)
    if size > (usage.free if at_once else usage.total):
        raise ValueError(
            f"{what}: {readable(size)} of disk would be needed in {folder}, which has {readable(usage.total)}, of "
            f"which {readable(usage.free)} are free"
        )


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which may be missing."""
    return int(_usage(folder).free)


def _usage(folder: Path) -> Any:
    return shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()))


def unwritten(path: Path, error: Exception, size: str) -> ValueError:
    """The error of a file that was not written: its disk is full and so much is needed, or what the system says."""
    why = f"its disk is full, {size} are needed" if disk_is_full(error) else short(str(error), 200)
    return ValueError(f"{path} cannot be written: {why}")


def readable(size: float) -> str:
    """Bytes as text, such as `1.5 GB`."""
    exponent = min(5, int(math.log(max(size, 1), 1000))) if math.isfinite(size) else 5
    return f"{size / 1000**exponent:,.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[exponent]}"


class MemoryGuard(TorchDispatchMode):
    """Within it, a tensor of this thread that does not fit into the host's memory is refused before it is made.

    Args:
        what: is made, for the error.
    """

    MAKERS = (
        frozenset(
            f"aten::{name}{form}"
            for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "normal")
            for form in ("", "_like")
        )
        | {f"aten::new_{name}" for name in ("empty", "zeros", "ones", "full")}
        | {
            "aten::clone",
            "aten::cat",
            "aten::stack",
            "aten::repeat",
            "aten::randperm",
            "aten::arange",
            "aten::empty_strided",
        }
    )

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name().partition(".")[0]  # without that of the overload
        if name in self.MAKERS and torch.device(kwargs.get("device") or _device(args)).type == "cpu":
            dtype = kwargs.get("dtype") or next((x.dtype for x in args if isinstance(x, Tensor)), torch.float32)
            check_memory(self.what, _numbers(name, args) * dtype.itemsize)
        return func(*args, **kwargs)


def _device(args: Any) -> torch.device | str:
    tensor = next((x for x in args if isinstance(x, Tensor)), None)
    return "cpu" if tensor is None else tensor.device


def _numbers(name: str, args: Any) -> int:
    """Numbers in a tensor that is made of these arguments: of its size, of other tensors, or up to a number."""
    size = next((x for x in args if isinstance(x, list | tuple) and all(isinstance(n, int) for n in x)), None)
    first: Any = args[0] if args else 0
    if size is not None:
        return math.prod(size) * (first.numel() if name == "aten::repeat" else 1)
    if isinstance(first, Tensor):
        return first.numel()
    if isinstance(first, list | tuple):
        return sum(x.numel() for x in first)
    return max((x for x in args if isinstance(x, int)), default=0)


AMOUNT = re.compile(r"allocate (\d[\d.]*) ?([KMGTP]iB|bytes)", re.IGNORECASE)


def shortage(error: BaseException) -> str | None:
    """Message for an error that means too little memory; None for any other error."""
    if not isinstance(error, MemoryError) and not means_shortage(error):
        return None
    place = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
    asked = ""
    if found := AMOUNT.search(str(error)):
        amount, unit = float(found[1]), found[2]
        asked = f" {readable(amount) if unit == 'bytes' else f'{amount:g} {unit}'} more were asked for at once;"
    return (
        f"not enough memory on {place}:{asked} lower data.batch_size, the sequence length, the number of members or "
        "environments, or the widths of networks"
    )
